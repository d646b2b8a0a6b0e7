import { CacheError, isCacheError, keyString } from "@cache/contracts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { key, object, openGate, type Script, watch } from "./scripted-adapter.ts";
import { flush, type VirtualClock } from "./virtual-clock.ts";

const BEHAVIOURS = ["good", "slow", "late", "hangs", "text", "throws", "full", "misshapen"] as const;
type Behaviour = (typeof BEHAVIOURS)[number];

const after = (clock: VirtualClock, ms: number): Promise<void> =>
  new Promise((resolve) => void clock.setTimer(ms, resolve));

/** Plays one behaviour after the other; `late` is past every deadline. */
function scriptOf(clock: VirtualClock, plan: readonly Behaviour[]): Script {
  let at = 0;
  return (call, work) => {
    if (call.operation === "unlock" || call.operation === "close") return work();
    switch (plan[at++ % plan.length]) {
      case "slow":
        return after(clock, 300).then(work);
      case "late":
        return after(clock, 50_000).then(work);
      case "hangs":
        return new Promise(() => {});
      case "text":
        return Promise.reject("backend says no");
      case "throws":
        throw new Error("at once");
      case "full":
        return Promise.reject(new CacheError("BACKEND_FULL", "no room"));
      case "misshapen":
        return Promise.resolve({ size: call.count + 1, has: () => true });
      default:
        return work();
    }
  };
}

const command = fc.record({
  operation: fc.constantFrom("store" as const, "lookupAndLock" as const, "load" as const, "delete" as const),
  first: fc.nat(20),
  count: fc.integer({ min: 0, max: 9 }),
  waitMs: fc.constantFrom(0, 0, 400, 2500),
});

describe("any adapter behind the gate", () => {
  it("every outcome comes by its deadline, nothing is invented, no lock or place is lost", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(command, { minLength: 1, maxLength: 25 }),
        fc.array(fc.constantFrom(...BEHAVIOURS), { minLength: 1, maxLength: 12 }),
        fc.integer({ min: 1, max: 5 }),
        async (commands, plan, maxBatchKeys) => {
          const { gate, adapter, clock } = await openGate(
            { maxInFlightOperations: 2, maxQueuedOperations: 4, maxInFlightTransferBytes: 40 },
            { maxBatchKeys },
          );
          adapter.script = scriptOf(clock, plan);
          const hanging = plan.includes("hangs");
          const outcomes: { done: boolean }[] = [];
          const settles: { done: boolean }[] = [];
          let locksGiven = 0;
          for (const { operation, first, count, waitMs } of commands) {
            const wanted = Array.from({ length: count }, (_, i) => key(first + i));
            const sizes = wanted.map((item) => ({ key: item, byteLength: 8 }));
            const buffers = wanted.map((_, i) => object(8, operation === "store" ? first + i : 255));
            const calls = {
              store: () => gate.store(wanted, buffers),
              lookupAndLock: () => gate.lookupAndLock(sizes),
              load: () => gate.load(sizes, buffers),
              delete: () => gate.delete(wanted),
            };
            const call = calls[operation]();
            outcomes.push(watch(call.outcome));
            settles.push(watch(call.settled));
            call.outcome.then(
              (result) => {
                const bits = "stored" in result ? result.stored : result;
                expect(bits.size).toBe(count);
                for (const at of call.failures().keys()) expect(bits.has(at)).toBe(false);
                if (operation === "lookupAndLock") locksGiven += bits.count();
                if (operation === "load") {
                  for (const at of bits.positions()) expect(buffers[at]?.bytes[0]).toBe(first + at);
                }
              },
              (error: unknown) => expect(isCacheError(error)).toBe(true),
            );
            await clock.advance(waitMs);
          }
          await clock.advance(31_000);
          expect(outcomes.every(({ done }) => done)).toBe(true);
          expect(gate.status()).toMatchObject({ inFlightBytes: 0 });
          const { inFlight, queued } = gate.status();
          expect(Object.values({ ...inFlight }).concat(Object.values({ ...queued }))).toEqual(
            Array(12).fill(0),
          );
          await clock.advance(100_000);
          // Whoever got a lock in an outcome still has it; every late one was given back.
          expect(adapter.lockCount).toBe(locksGiven);
          const unsettled = settles.filter(({ done }) => !done).length;
          expect(gate.status().stuck.operations).toBe(unsettled);
          if (!hanging) expect(unsettled).toBe(0);
          expect(clock.pendingTimers).toBe(0);
        },
      ),
      { numRuns: 150 },
    );
  });

  it("a split store, lookup and load are the same as one call each", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.nat(60), { maxLength: 30 }),
        fc.array(fc.nat(60), { maxLength: 30 }),
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 6 }),
        async (storedNumbers, askedNumbers, maxBatchKeys, maxParallelBatches) => {
          const { gate, adapter } = await openGate({ maxParallelBatches }, { maxBatchKeys });
          adapter.script = async (call, work) => {
            if (call.operation !== "unlock" && call.count % 2 === 1) await flush();
            return work();
          };
          const storeKeys = storedNumbers.map(key);
          const stored = await gate.store(
            storeKeys,
            storedNumbers.map((n) => object(8, n)),
          ).outcome;
          expect(stored.stored.count()).toBe(storeKeys.length);
          expect(stored.bytesTransferred).toBe(8 * storeKeys.length);
          const asked = askedNumbers.map((n) => ({ key: key(n), byteLength: 8 }));
          const into = askedNumbers.map(() => object(8, 255));
          const found = await gate.lookupAndLock(asked).outcome;
          const loaded = await gate.load(asked, into).outcome;
          askedNumbers.forEach((n, i) => {
            const there = storedNumbers.includes(n);
            expect([found.has(i), loaded.has(i)]).toEqual([there, there]);
            if (there) expect(into[i]?.bytes[0]).toBe(n);
          });
          gate.unlock(found.gather(asked).map((request) => request.key));
          expect(adapter.lockCount).toBe(0);
          expect(adapter.held.size).toBe(new Set(storeKeys.map(keyString)).size);
        },
      ),
      { numRuns: 60 },
    );
  });
});

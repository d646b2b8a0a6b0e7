import { CacheError, type CacheErrorCode } from "@cache/contracts";
import { describe, expect, it } from "vitest";
import type { GuardedAdapter } from "../../src/l2-gate/index.ts";
import {
  deferred,
  errorOf,
  keys,
  objects,
  openGate,
  type ScriptedAdapter,
  sized,
} from "./scripted-adapter.ts";

async function failTimes(gate: GuardedAdapter, adapter: ScriptedAdapter, times: number): Promise<void> {
  adapter.script = () => Promise.reject(new Error("connection refused"));
  for (let i = 0; i < times; i++) await errorOf(gate.lookupAndLock(sized(1)).outcome);
}

describe("circuit breaker", () => {
  it("opens after 5 failures in 10 s and then fails at once, naming the next probe", async () => {
    const { gate, adapter, clock } = await openGate();
    await failTimes(gate, adapter, 4);
    await clock.advance(10_000);
    await failTimes(gate, adapter, 4);
    expect(gate.canTry()).toBe(true);
    await failTimes(gate, adapter, 1);
    expect(gate.canTry()).toBe(false);
    const asked = adapter.seen.length;
    await clock.advance(300);
    const error = await errorOf(gate.load(sized(1), objects(1)).outcome);
    expect(error).toMatchObject({ code: "BREAKER_OPEN", details: { nextProbeInMs: 700 } });
    expect(error.message).toContain("scripted.1");
    expect(error.message).toContain("700 ms");
    expect(adapter.seen).toHaveLength(asked);
    // The failure that opened it stays visible.
    expect(gate.status().lastError).toMatchObject({
      code: "BACKEND_UNAVAILABLE",
      operation: "lookupAndLock",
    });
    expect(gate.status().errors).toEqual({ BACKEND_UNAVAILABLE: 9, BREAKER_OPEN: 1 });
  });

  it("tells once that it is in trouble, with what failed, and once that it works again", async () => {
    const told: (string | null)[] = [];
    const { gate, adapter, clock } = await openGate({
      onTrouble: (error) => told.push(error),
      onRecovered: () => told.push("works again"),
    });
    await failTimes(gate, adapter, 5);
    await clock.advance(1000);
    await failTimes(gate, adapter, 1); // the probe
    await clock.advance(2000);
    expect(told).toEqual([expect.stringContaining("connection refused")]);
    adapter.script = (_, work) => work();
    await gate.lookupAndLock(sized(1)).outcome;
    await gate.lookupAndLock(sized(1)).outcome;
    expect(told.slice(1)).toEqual(["works again"]);
  });

  it("lets one probe through after 1, 2, 4, 8, 16, 30, 30 s, and closes on success", async () => {
    const { gate, adapter, clock } = await openGate();
    await failTimes(gate, adapter, 5);
    for (const delay of [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
      expect(gate.breaker).toEqual({ state: "open", nextProbeInMs: delay });
      await clock.advance(delay - 1);
      expect(gate.canTry()).toBe(false);
      await clock.advance(1);
      expect(gate.breaker).toEqual({ state: "half-open", probing: false });
      await failTimes(gate, adapter, 1);
    }
    await clock.advance(30_000);
    adapter.script = (_, work) => work();
    await gate.lookupAndLock(sized(1)).outcome;
    expect(gate.breaker).toEqual({ state: "closed", recentFailures: 0 });
    await failTimes(gate, adapter, 5);
    expect(gate.breaker).toEqual({ state: "open", nextProbeInMs: 1000 });
  });

  it("refuses others while the probe is under way; a probe that is too late has failed", async () => {
    const { gate, adapter, clock } = await openGate();
    await failTimes(gate, adapter, 5);
    await clock.advance(1000);
    adapter.script = () => new Promise(() => {});
    const probe = gate.lookupAndLock(sized(1));
    expect(gate.breaker).toEqual({ state: "half-open", probing: true });
    expect(await errorOf(gate.lookupAndLock(sized(1)).outcome)).toMatchObject({ code: "BREAKER_OPEN" });
    await clock.advance(1000);
    expect(await errorOf(probe.outcome)).toMatchObject({ code: "ABORTED" });
    expect(gate.breaker).toEqual({ state: "open", nextProbeInMs: 2000 });
  });

  it("sends one call as probe, and the rest of a split operation after it", async () => {
    const { gate, adapter, clock } = await openGate({}, { maxBatchKeys: 1 });
    await failTimes(gate, adapter, 5);
    await clock.advance(1000);
    const before = adapter.seen.length;
    const failed = gate.lookupAndLock(sized(3));
    expect(await errorOf(failed.outcome)).toMatchObject({ code: "BACKEND_UNAVAILABLE" });
    expect(adapter.seen.length - before).toBe(1);
    expect(failed.failures().get(2)).toMatchObject({ code: "BREAKER_OPEN" });
    await clock.advance(2000);
    adapter.script = (_, work) => work();
    const good = gate.lookupAndLock(sized(3));
    await good.outcome;
    expect(good.failures().size).toBe(0);
    expect(adapter.seen.length - before).toBe(4);
  });

  it("gives the probe's place back when its caller gives up and the adapter ends in time", async () => {
    const { gate, adapter, clock } = await openGate();
    await failTimes(gate, adapter, 5);
    await clock.advance(1000);
    const late = deferred<never>();
    adapter.script = () => late.promise;
    const controller = new AbortController();
    const probe = gate.lookupAndLock(sized(1), { signal: controller.signal });
    controller.abort();
    late.reject(new CacheError("ABORTED", "as asked"));
    await probe.settled;
    expect(gate.breaker).toEqual({ state: "half-open", probing: false });
  });

  it("fails what waits in the queue when it opens", async () => {
    const { gate, adapter } = await openGate({ maxInFlightOperations: 1, breakerFailures: 1 });
    const hold = deferred<never>();
    adapter.script = () => hold.promise;
    const running = gate.lookupAndLock(sized(1));
    const queued = gate.lookupAndLock(sized(1));
    hold.reject("down");
    await errorOf(running.outcome);
    expect(await errorOf(queued.outcome)).toMatchObject({ code: "BREAKER_OPEN" });
    await queued.settled;
    expect(adapter.calls("lookupAndLock")).toHaveLength(1);
  });

  it("does not count misses", async () => {
    const { gate } = await openGate({ breakerFailures: 1 });
    expect((await gate.lookupAndLock(sized(5)).outcome).count()).toBe(0);
    expect((await gate.load(sized(5), objects(5)).outcome).count()).toBe(0);
    expect(gate.breaker.state).toBe("closed");
  });

  it.each([
    "BACKEND_FULL",
    "AMBIGUOUS_NAME",
    "INVALID_KEY",
    "INVALID_ARGUMENT",
    "UNSUPPORTED",
    "DATA_CORRUPT",
    "CONFLICT",
  ])("does not count %s, as a rejection or for a key", async (code) => {
    const { gate, adapter } = await openGate({ breakerFailures: 1 });
    const error = new CacheError(code as CacheErrorCode, "no");
    adapter.script = () => Promise.reject(error);
    expect(await errorOf(gate.store(keys(1), objects(1)).outcome)).toBe(error);
    adapter.script = () => ({
      stored: { size: 1, has: () => false },
      failed: new Map([[0, error]]),
      bytesTransferred: 0,
    });
    expect((await gate.store(keys(1), objects(1)).outcome).failed.get(0)).toBe(error);
    expect(gate.breaker.state).toBe("closed");
    expect(gate.status().errors).toEqual({ [code]: 2 });
  });

  it.each(["BACKEND_UNAVAILABLE", "BACKEND_REFUSED", "ABORTED"])("counts %s of a key", async (code) => {
    const { gate, adapter } = await openGate({ breakerFailures: 1 });
    const error = new CacheError(code as CacheErrorCode, "no");
    adapter.script = () => ({
      stored: { size: 1, has: () => false },
      failed: new Map([[0, error]]),
      bytesTransferred: 0,
    });
    await gate.store(keys(1), objects(1)).outcome;
    expect(gate.breaker.state).toBe("open");
  });
});

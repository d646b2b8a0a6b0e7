import { Bitmap } from "@cache/contracts";
import { describe, expect, it } from "vitest";
import { deferred, errorOf, keys, objects, openGate, sized, watch } from "./scripted-adapter.ts";
import { flush } from "./virtual-clock.ts";

describe("bounds", () => {
  it("runs at most maxInFlightOperations, the rest in arrival order", async () => {
    const { gate, adapter } = await openGate({ maxInFlightOperations: 2 });
    const holds = [1, 2, 3, 4].map((n) => ({ n, ...deferred<Bitmap>() }));
    adapter.script = (call) => holds[call.count - 1]?.promise;
    const calls = holds.map(({ n }) => gate.lookupAndLock(sized(n)));
    const counts = (): number[] => adapter.calls("lookupAndLock").map(({ count }) => count);
    await flush();
    expect(counts()).toEqual([1, 2]);
    expect(gate.status().queued.lookupAndLock).toBe(2);
    holds[1]?.resolve(new Bitmap(2));
    await calls[1]?.outcome;
    expect(counts()).toEqual([1, 2, 3]);
    holds[0]?.resolve(new Bitmap(1));
    await calls[0]?.outcome;
    expect(counts()).toEqual([1, 2, 3, 4]);
  });

  it("bounds the bytes of each direction, and lets one oversized operation through alone", async () => {
    const { gate, adapter } = await openGate({ maxInFlightTransferBytes: 100 });
    const holds = [deferred<void>(), deferred<void>(), deferred<void>()];
    let started = 0;
    adapter.script = async (call, work) => {
      if (call.operation === "load") await holds[started++]?.promise;
      return work();
    };
    const first = gate.load(sized(1, 60), objects(1, 60));
    const big = gate.load(sized(1, 500), objects(1, 500));
    const third = gate.load(sized(1, 10), objects(1, 10));
    expect(adapter.calls("load")).toHaveLength(1);
    // Stores do not wait for loads, nor do lookups.
    await gate.store(keys(1), objects(1, 90)).outcome;
    await gate.lookupAndLock(sized(1)).outcome;
    holds[0]?.resolve();
    await first.outcome;
    expect(gate.status()).toMatchObject({ inFlightBytes: 500, queued: { load: 1 } });
    holds[1]?.resolve();
    holds[2]?.resolve();
    await Promise.all([big.outcome, third.outcome]);
  });

  it("refuses with LIMIT_REACHED when the queue is full, and lets deadlines run in it", async () => {
    const { gate, adapter, clock } = await openGate({ maxInFlightOperations: 1, maxQueuedOperations: 1 });
    adapter.script = () => new Promise(() => {});
    gate.delete(keys(1));
    const queued = gate.lookupAndLock(sized(1));
    const settled = watch(queued.settled);
    const refused = gate.lookupAndLock(sized(1));
    const error = await errorOf(refused.outcome);
    expect(error).toMatchObject({ code: "LIMIT_REACHED" });
    expect(error.message).toContain("maxQueuedOperations");
    await refused.settled;
    await clock.advance(1000);
    expect(await errorOf(queued.outcome)).toMatchObject({ code: "ABORTED" });
    expect(settled.done).toBe(true);
    // It never reached the adapter: not the adapter's failure, and its place is free.
    expect(adapter.calls("lookupAndLock")).toEqual([]);
    expect(gate.breaker).toEqual({ state: "closed", recentFailures: 0 });
    expect(gate.status().queued.lookupAndLock).toBe(0);
  });

  it("makes room at the deadline even if the adapter never settles", async () => {
    const { gate, adapter, clock } = await openGate({ maxInFlightOperations: 1 });
    adapter.script = (call, work) => (call.count === 1 ? new Promise(() => {}) : work());
    gate.lookupAndLock(sized(1));
    await clock.advance(500);
    const second = gate.lookupAndLock(sized(2));
    await clock.advance(500);
    expect((await second.outcome).size).toBe(2);
  });

  it("splits what is larger than maxBatchKeys, a few calls at a time", async () => {
    const { gate, adapter } = await openGate({ maxParallelBatches: 2 }, { maxBatchKeys: 3 });
    let running = 0;
    let most = 0;
    adapter.script = async (_, work) => {
      most = Math.max(most, ++running);
      await flush();
      running--;
      return work();
    };
    const result = await gate.store(keys(10), objects(10)).outcome;
    expect(adapter.calls("store").map(({ count }) => count)).toEqual([3, 3, 3, 1]);
    expect(most).toBe(2);
    expect(result).toMatchObject({ bytesTransferred: 80 });
    expect(result.stored.count()).toBe(10);
    gate.unlock(keys(7));
    expect(adapter.calls("unlock").map(({ count }) => count)).toEqual([3, 3, 1]);
  });

  it("fails objects that are too large without asking, and keeps the places of the others", async () => {
    const { gate, adapter } = await openGate({}, { maxObjectBytes: 8 });
    const store = await gate.store(keys(3), [...objects(1, 8), ...objects(1, 9), ...objects(1, 4)]).outcome;
    expect([...store.stored.positions()]).toEqual([0, 2]);
    expect(store.failed.get(1)).toMatchObject({ code: "UNSUPPORTED" });
    expect(adapter.calls("store").map(({ count }) => count)).toEqual([2]);
    const call = gate.lookupAndLock(sized(2, 9));
    expect((await call.outcome).count()).toBe(0);
    expect(call.failures().size).toBe(2);
    expect(adapter.calls("lookupAndLock")).toEqual([]);
    expect(gate.breaker).toEqual({ state: "closed", recentFailures: 0 });
  });

  it("answers an empty request without the adapter", async () => {
    const { gate, adapter } = await openGate();
    expect((await gate.lookupAndLock([]).outcome).size).toBe(0);
    expect((await gate.store([], []).outcome).bytesTransferred).toBe(0);
    expect(adapter.seen.map(({ operation }) => operation)).toEqual(["open"]);
  });

  it("throws a TypeError for lists that do not belong together", async () => {
    const { gate } = await openGate();
    expect(() => gate.store(keys(2), objects(1))).toThrow(TypeError);
    expect(() => gate.load(sized(1, 8), objects(1, 9))).toThrow(TypeError);
    expect(() => gate.listKeys({ pageSize: 5001 })).toThrow(TypeError);
  });
});

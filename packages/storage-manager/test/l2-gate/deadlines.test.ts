import { Bitmap, type L2StoreResult } from "@cache/contracts";
import { describe, expect, it } from "vitest";
import { deferred, errorOf, keys, objects, openGate, sized, watch } from "./scripted-adapter.ts";
import { flush } from "./virtual-clock.ts";

const HANG = (): Promise<never> => new Promise(() => {});

describe("deadlines", () => {
  it.each([
    ["lookupAndLock", 1000, "lookupDeadlineMs"],
    ["load", 5000 + 1, "transferBaseMs"],
    ["store", 5000 + 1, "transferBytesPerSecond"],
    ["delete", 30_000, "deleteDeadlineMs"],
    ["quarantine", 30_000, "deleteDeadlineMs"],
    ["listKeys", 30_000, "listDeadlineMs"],
  ] as const)("%s answers ABORTED at %d ms and names %s", async (operation, deadlineMs, option) => {
    const { gate, adapter, clock } = await openGate();
    adapter.script = HANG;
    // 50,000 bytes at 50 MB/s are 1 ms.
    const calls = {
      lookupAndLock: () => gate.lookupAndLock(sized(5, 10_000)),
      load: () => gate.load(sized(5, 10_000), objects(5, 10_000)),
      store: () => gate.store(keys(5), objects(5, 10_000)),
      delete: () => gate.delete(keys(5)),
      quarantine: () => gate.quarantine(keys(5), "bad"),
      listKeys: () => gate.listKeys({ pageSize: 5 }),
    };
    const call = calls[operation]();
    const [outcome, settled] = [watch(call.outcome), watch(call.settled)];
    await clock.advance(deadlineMs - 1);
    expect(outcome.done).toBe(false);
    expect(adapter.calls(operation)[0]?.signal?.aborted).toBe(false);
    await clock.advance(1);
    const error = await errorOf(call.outcome);
    expect(error).toMatchObject({ code: "ABORTED" });
    for (const part of ["scripted.1", operation, String(deadlineMs), option]) {
      expect(error.message).toContain(part);
    }
    expect(adapter.calls(operation)[0]?.signal?.aborted).toBe(true);
    await clock.advance(1_000_000);
    expect(settled.done).toBe(false);
  });

  it("settles only when the adapter does, and counts what is stuck until then", async () => {
    const { gate, adapter, clock } = await openGate();
    const late = deferred<Bitmap>();
    adapter.script = () => late.promise;
    const call = gate.load(sized(3, 100), objects(3, 100));
    const settled = watch(call.settled);
    expect(gate.status()).toMatchObject({ inFlightBytes: 300, stuck: { operations: 0 } });
    await clock.advance(6000);
    await errorOf(call.outcome);
    expect(settled.done).toBe(false);
    expect(call.lateResult()).toBeNull();
    const status = gate.status();
    expect(status.inFlight.load).toBe(0);
    expect(status.inFlightBytes).toBe(0);
    expect(status.stuck).toEqual({
      operations: 1,
      bytes: 300,
      oldest: [{ operation: "load", keys: 3, bytes: 300, ageMs: 6000 }],
    });
    late.resolve(Bitmap.of(3, [1]));
    await call.settled;
    expect(gate.status().stuck).toEqual({ operations: 0, bytes: 0, oldest: [] });
    expect([...(call.lateResult()?.positions() ?? [])]).toEqual([1]);
    expect(clock.pendingTimers).toBe(0);
  });

  it("tells after a late store what is really stored", async () => {
    const { gate, adapter, clock } = await openGate();
    const late = deferred<L2StoreResult>();
    adapter.script = () => late.promise;
    const call = gate.store(keys(2), objects(2));
    await clock.advance(6000);
    expect(await errorOf(call.outcome)).toMatchObject({ code: "ABORTED" });
    late.resolve({ stored: Bitmap.full(2), failed: new Map(), bytesTransferred: 16 });
    await call.settled;
    expect(call.lateResult()).toMatchObject({ bytesTransferred: 16 });
  });

  it("settles after a late rejection too, without counting it twice", async () => {
    const { gate, adapter, clock } = await openGate();
    const late = deferred<Bitmap>();
    adapter.script = () => late.promise;
    const call = gate.lookupAndLock(sized(1));
    await clock.advance(1000);
    late.reject("gone");
    await call.settled;
    expect(gate.breaker).toEqual({ state: "closed", recentFailures: 1 });
    expect(call.lateResult()).toBeNull();
  });

  it("gives the locks of a late lookup back, exactly once", async () => {
    const { gate, adapter, clock } = await openGate();
    await gate.store(keys(3), objects(3)).outcome;
    const hold = deferred<void>();
    adapter.script = async (call, work) => {
      if (call.operation === "lookupAndLock") await hold.promise;
      return work();
    };
    const call = gate.lookupAndLock([...sized(3), ...sized(2, 8, 50)]);
    await clock.advance(1000);
    expect(await errorOf(call.outcome)).toMatchObject({ code: "ABORTED" });
    expect(adapter.calls("unlock")).toEqual([]);
    hold.resolve();
    await call.settled;
    await flush();
    expect(adapter.lockCount).toBe(0);
    expect(adapter.calls("unlock").map(({ count }) => count)).toEqual([3]);
    expect(gate.status().lateLocksReleased).toBe(3);
    expect(call.lateResult()).toBeNull();
  });

  it("keeps what other batches brought when one is late, and gives back only the late locks", async () => {
    const { gate, adapter, clock } = await openGate({}, { maxBatchKeys: 2 });
    await gate.store(keys(4), objects(4)).outcome;
    const hold = deferred<void>();
    let lookups = 0;
    adapter.script = async (call, work) => {
      if (call.operation === "lookupAndLock" && ++lookups === 1) await hold.promise;
      return work();
    };
    const call = gate.lookupAndLock(sized(4));
    await clock.advance(1000);
    expect([...(await call.outcome).positions()]).toEqual([2, 3]);
    expect([...call.failures().keys()]).toEqual([0, 1]);
    expect(call.failures().get(0)).toMatchObject({ code: "ABORTED" });
    expect(adapter.lockCount).toBe(2);
    hold.resolve();
    await call.settled;
    await flush();
    expect(adapter.lockCount).toBe(2);
    expect([...(call.lateResult()?.positions() ?? [])]).toEqual([2, 3]);
  });

  it("answers at once when the caller gives up, and blames the adapter only past its deadline", async () => {
    const { gate, adapter, clock } = await openGate();
    adapter.script = HANG;
    const controller = new AbortController();
    const call = gate.load(sized(1), objects(1), { signal: controller.signal });
    controller.abort();
    expect(await errorOf(call.outcome)).toMatchObject({ code: "ABORTED", details: { byCaller: true } });
    expect(adapter.calls("load")[0]?.signal?.aborted).toBe(true);
    expect(gate.status().stuck.operations).toBe(1);
    expect(gate.breaker).toEqual({ state: "closed", recentFailures: 0 });
    await clock.advance(5001);
    expect(gate.breaker).toEqual({ state: "closed", recentFailures: 1 });
    const refused = gate.load(sized(1), objects(1), { signal: controller.signal });
    expect(await errorOf(refused.outcome)).toMatchObject({ code: "ABORTED" });
    expect(adapter.calls("load")).toHaveLength(1);
  });

  it("refuses more when too many never ended", async () => {
    const { gate, adapter, clock } = await openGate({ maxStuckOperations: 2, breakerFailures: 100 });
    adapter.script = HANG;
    gate.load(sized(1), objects(1));
    gate.lookupAndLock(sized(1));
    await clock.advance(10_000);
    const error = await errorOf(gate.lookupAndLock(sized(1)).outcome);
    expect(error).toMatchObject({ code: "LIMIT_REACHED" });
    expect(error.message).toContain("maxStuckOperations");
    expect(adapter.calls("lookupAndLock")).toHaveLength(1);
  });
});

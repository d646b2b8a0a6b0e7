import { describe, expect, it } from "vitest";
import { guardAdapter } from "../../src/l2-gate/index.ts";
import {
  CONTEXT,
  deferred,
  errorOf,
  keys,
  objects,
  openGate,
  ScriptedAdapter,
  sized,
  watch,
} from "./scripted-adapter.ts";
import { flush, VirtualClock } from "./virtual-clock.ts";

describe("open and close", () => {
  it("fails operations before open and after close with ADAPTER_CLOSED", async () => {
    const gate = guardAdapter("scripted.1", new ScriptedAdapter());
    expect(gate.canTry()).toBe(false);
    expect(await errorOf(gate.lookupAndLock(sized(1)).outcome)).toMatchObject({ code: "ADAPTER_CLOSED" });
    await gate.open(CONTEXT);
    expect(gate.canTry()).toBe(true);
    expect(await gate.close()).toEqual({ closed: true, stuck: [], error: null });
    expect(await errorOf(gate.store(keys(1), objects(1)).outcome)).toMatchObject({ code: "ADAPTER_CLOSED" });
    expect(await errorOf(gate.open(CONTEXT))).toMatchObject({ code: "ADAPTER_CLOSED" });
    gate.unlock(keys(1));
    expect(await gate.close()).toEqual({ closed: true, stuck: [], error: null });
  });

  it("wraps what open rejects with, and lets it be tried again", async () => {
    const adapter = new ScriptedAdapter();
    const gate = guardAdapter("scripted.1", adapter, { clock: new VirtualClock() });
    adapter.script = () => Promise.reject("no route");
    const error = await errorOf(gate.open(CONTEXT));
    expect(error).toMatchObject({ code: "BACKEND_UNAVAILABLE" });
    expect(error.message).toContain("scripted.1: open failed");
    adapter.script = (_, work) => work();
    await gate.open(CONTEXT);
    expect(gate.canTry()).toBe(true);
  });

  it("gives up on open at its deadline, and closes a connection that comes later", async () => {
    const adapter = new ScriptedAdapter();
    const clock = new VirtualClock();
    const gate = guardAdapter("scripted.1", adapter, { clock, openDeadlineMs: 500 });
    const late = deferred<void>();
    adapter.script = () => late.promise;
    const opened = gate.open(CONTEXT);
    const failed = errorOf(opened);
    await clock.advance(500);
    expect((await failed).message).toContain("openDeadlineMs");
    expect(adapter.calls("open")[0]?.signal?.aborted).toBe(true);
    expect(await errorOf(gate.open(CONTEXT))).toMatchObject({ code: "ADAPTER_CLOSED" });
    adapter.script = (_, work) => work();
    late.resolve();
    await flush();
    expect(adapter.calls("close")).toHaveLength(1);
    await gate.open(CONTEXT);
  });

  it("waits for what is in flight before it closes the adapter, and fails what waits", async () => {
    const { gate, adapter } = await openGate({ maxInFlightOperations: 1 });
    const hold = deferred<void>();
    adapter.script = async (call, work) => {
      if (call.operation === "store") await hold.promise;
      return work();
    };
    const running = gate.store(keys(1), objects(1));
    const queued = gate.store(keys(1), objects(1));
    const closing = gate.close();
    const closed = watch(closing);
    expect(await errorOf(queued.outcome)).toMatchObject({ code: "ADAPTER_CLOSED" });
    await flush();
    expect(closed.done).toBe(false);
    expect(adapter.calls("close")).toEqual([]);
    hold.resolve();
    expect(await closing).toEqual({ closed: true, stuck: [], error: null });
    expect((await running.outcome).stored.count()).toBe(1);
  });

  it("says what is stuck after its deadline", async () => {
    const { gate, adapter, clock } = await openGate({ closeDeadlineMs: 1000 });
    adapter.script = () => new Promise(() => {});
    const load = gate.load(sized(2, 50), objects(2, 50));
    const closing = gate.close();
    await clock.advance(1000);
    expect(await errorOf(load.outcome)).toMatchObject({ code: "ADAPTER_CLOSED" });
    expect(adapter.calls("load")[0]?.signal?.aborted).toBe(true);
    await clock.advance(1000);
    const report = await closing;
    expect(report).toMatchObject({ closed: false, error: { code: "ABORTED" } });
    expect(report.stuck).toEqual([{ operation: "load", keys: 2, bytes: 100, ageMs: 2000 }]);
    expect(gate.status().phase).toBe("closed");
  });
});

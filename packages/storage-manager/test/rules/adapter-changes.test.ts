import { CacheError, hasCode } from "@cache/contracts";
import type { MockAdapter } from "@cache/l2-mock";
import { beforeEach, describe, expect, it } from "vitest";
import {
  add,
  count,
  drain,
  engineWith,
  handleOn,
  ids,
  opened,
  remove,
  through,
} from "../support/adapter-changes.ts";
import { adapterSetup, mockAdapter, temporaryDisk } from "../support/engine.ts";
import { checkInvariants, Replay } from "../support/invariants.ts";
import { FLOAT16, prompt } from "../support/prompts.ts";

const SECOND = 1_000;
const chat = prompt("chat", 3);
const later = prompt("later", 3);

let l2: MockAdapter;
beforeEach(() => {
  l2 = mockAdapter();
});

describe("an adapter that is added", () => {
  it("gets what is stored from now on, and gives what it holds already", async () => {
    const behind = await opened();
    const before = await engineWith({ other: handleOn(behind, "place") });
    await before.store(1n, chat.range());
    await before.settle();
    await before.crash();
    const engine = await engineWith({ l2 });
    await add(engine, "fs.2", handleOn(behind, "place"));
    expect(ids(engine)).toEqual(["l2", "fs.2"]);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
    await engine.store(1n, later.range());
    await engine.settle();
    expect(count(behind)).toBe(6);
    checkInvariants(engine);
  });

  it("takes stores that clients make while it comes", async () => {
    const engine = await engineWith({ l2 });
    const fresh = mockAdapter();
    const release = fresh.control.hang("open");
    const adding = engine.manager.changes.add(
      "mock.2",
      () => Promise.resolve(adapterSetup("mock.2", fresh)),
      "{}",
    );
    await engine.store(1n, chat.range());
    await engine.settle();
    release();
    await through(engine, adding);
    await engine.store(1n, later.range());
    await engine.settle();
    expect([count(l2), count(fresh)]).toEqual([6, 3]);
  });

  it("takes up the account of the same data under another id, with its layouts", async () => {
    const behind = await opened();
    const disk = temporaryDisk();
    const first = await engineWith({ fs: handleOn(behind, "place") }, { disk });
    await first.store(1n, chat.range());
    await first.settle();
    await first.crash();
    const engine = await engineWith({}, { disk });
    await engine.manager.clear(true);
    await add(engine, "fs.2", handleOn(behind, "place"));
    expect(engine.state.ledgers.map(({ id, storedCount }) => [id, storedCount])).toEqual([["fs.2", 3]]);
    engine.register(1n, FLOAT16);
    expect(await engine.fetch(1n, chat.lookup())).toBe(0);
  });

  it.each([
    ["opens with an error", (mock: MockAdapter) => mock.control.failNext("open")],
    ["never opens", (mock: MockAdapter) => mock.control.hang("open", { ignoreAbort: true })],
    ["opens, and fails at the first question", (mock: MockAdapter) => mock.control.failNext("lookup")],
  ])("leaves nothing behind if it %s", async (_, spoil) => {
    const engine = await engineWith({ l2 });
    const bad = mockAdapter();
    spoil(bad);
    await expect(add(engine, "mock.2", bad)).rejects.toSatisfy(
      (error) => hasCode(error, "BACKEND_UNAVAILABLE") || hasCode(error, "ABORTED"),
    );
    expect(ids(engine)).toEqual(["l2"]);
    expect(engine.eventsOf("adapter.added")).toEqual([]);
    expect(engine.state.ledgers).toHaveLength(1);
    await add(engine, "mock.2", mockAdapter());
    expect(ids(engine)).toEqual(["l2", "mock.2"]);
  });

  it("is not tried again on the same data while its open hangs", async () => {
    const behind = await opened();
    const engine = await engineWith({ l2 });
    let connect: () => void = () => undefined;
    const hanging = handleOn(behind, "place");
    hanging.open = () => new Promise<void>((resolve) => (connect = resolve));
    await expect(add(engine, "fs.2", hanging)).rejects.toSatisfy((error) => hasCode(error, "ABORTED"));
    expect(engine.manager.status()["l2_adapters_unsettled"]).toMatchObject([{ id: "fs.2" }]);
    await expect(add(engine, "fs.3", handleOn(behind, "place"))).rejects.toThrow(/have not settled/);
    const inItsState = { ...adapterSetup("fs.2", mockAdapter()), stateDir: "/state/adapters/fs.2" };
    const adding = engine.manager.changes.add("fs.2", () => Promise.resolve(inItsState), "{}");
    await expect(adding).rejects.toThrow(/have not settled/);
    connect();
    await engine.settle();
    expect(engine.manager.status()["l2_adapters_unsettled"]).toEqual([]);
    await add(engine, "fs.2", handleOn(behind, "place"));
    expect(ids(engine)).toEqual(["l2", "fs.2"]);
  });

  it("must not have another's id or data, nor come while another change is under way", async () => {
    const behind = await opened();
    const engine = await engineWith({ l2, fs: handleOn(behind, "place") });
    const conflict = (error: unknown): boolean => hasCode(error, "CONFLICT");
    await expect(add(engine, "l2", mockAdapter())).rejects.toSatisfy(conflict);
    await expect(add(engine, "fs.2", handleOn(behind, "place"))).rejects.toThrow(/'fs' holds place already/);
    l2.control.hang("store", { ignoreAbort: true });
    await engine.store(1n, chat.range());
    const draining = engine.manager.changes.drain("l2", 5 * SECOND);
    await engine.settle();
    await expect(add(engine, "mock.2", mockAdapter())).rejects.toThrow(/drain of 'l2', since 0 s/);
    await through(engine, draining);
    await add(engine, "mock.2", mockAdapter());
  });

  it("is refused while the journal cannot be written", async () => {
    const engine = await engineWith({ l2 });
    engine.journal.health = {
      state: "degraded",
      cause: new CacheError("JOURNAL_IO", "disk full"),
      pendingBytes: 0,
    };
    await expect(add(engine, "mock.2", mockAdapter())).rejects.toSatisfy((error) =>
      hasCode(error, "DEGRADED"),
    );
    expect(ids(engine)).toEqual(["l2"]);
  });

  it("is taken care of also where the journal fails just as it came", async () => {
    const engine = await engineWith({ l2 });
    const fresh = mockAdapter();
    const { status } = fresh;
    fresh.status = () => {
      engine.journal.broken = true;
      return status.call(fresh);
    };
    await expect(add(engine, "mock.2", fresh)).rejects.toSatisfy((error) => hasCode(error, "DEGRADED"));
    fresh.status = status;
    engine.journal.broken = false;
    await engine.pass(5 * SECOND, SECOND);
    expect(ids(engine)).toEqual(["l2", "mock.2"]);
    expect(engine.manager.units[1]?.keeper.reconcile.completed).toBe(1);
  });

  it("gets the number of the smallest account where all numbers are given", async () => {
    const engine = await engineWith({ l2 });
    for (let i = 2; i < 40; i++) {
      await add(engine, `mock.${i}`, mockAdapter());
      if (i > 5) await remove(engine, `mock.${i - 1}`);
    }
    expect(engine.state.ledgers).toHaveLength(32);
    expect(ids(engine)).toEqual(["l2", "mock.2", "mock.3", "mock.4", "mock.39"]);
    await engine.store(1n, chat.range());
    await engine.settle();
    checkInvariants(engine);
    const replay = new Replay(engine);
    replay.catchUp();
    replay.check();
  }, 30_000);
});

describe("an adapter that is drained", () => {
  it("gets what waited for it and nothing new, and gives what it holds", async () => {
    const release = l2.control.hang("store");
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    const draining = engine.manager.changes.drain("l2", 10 * SECOND);
    await engine.settle();
    await engine.store(1n, later.range());
    release();
    expect(await through(engine, draining)).toMatchObject({ drained: true, givenUpStores: 0 });
    await engine.settle();
    expect(count(l2)).toBe(3);
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
    expect(await engine.fetch(1n, later.lookup({ requestId: "later" }))).toBe(0);
    checkInvariants(engine);
  });

  it("counts what is nowhere else", async () => {
    const other = mockAdapter();
    const engine = await engineWith({ l2, other });
    await engine.store(1n, chat.range());
    await engine.settle();
    other.control.failNext("store", 100, new CacheError("UNSUPPORTED", "not this one"));
    await engine.store(1n, later.range());
    await engine.settle();
    await engine.manager.clear(true);
    expect(await drain(engine, "l2")).toMatchObject({ onlyCopies: { objects: 3, bytes: 3 * 4_096 } });
  });

  it("gives up at the deadline what it does not take, and L1 may drop that", async () => {
    l2.control.hang("store", { ignoreAbort: true });
    const engine = await engineWith({ l2 }, { options: { storeWaitMs: 0 } });
    await engine.store(1n, prompt("a", 16).range());
    await engine.settle();
    expect((await engine.prepareStore(1n, prompt("b", 1).range())).value.kind).toBe("empty-context");
    expect(await drain(engine, "l2", 3 * SECOND)).toMatchObject({ drained: false, givenUpStores: 16 });
    expect(engine.state.slots.orderEnds.count).toBe(16);
    checkInvariants(engine);
  });
});

describe("an adapter that is removed", () => {
  it("is not asked, stored to or counted any more; others and L1 go on", async () => {
    const other = mockAdapter();
    const engine = await engineWith({ l2, other });
    await engine.store(1n, chat.range());
    await engine.settle();
    expect(await remove(engine, "l2")).toMatchObject({
      drained: true,
      cutPrefetches: 0,
      stuckOperations: 0,
      onlyCopies: { objects: 0, bytes: 0 },
    });
    expect(ids(engine)).toEqual(["other"]);
    expect(engine.state.ledgers[0]).toMatchObject({ active: false, storedCount: 0 });
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
    await engine.store(1n, later.range());
    await engine.settle();
    expect([count(l2), count(other)]).toEqual([3, 6]);
    expect(() => engine.manager.status()).not.toThrow();
    checkInvariants(engine);
  });

  it("does not leave an object evictable that the other adapter is still to get", async () => {
    const slow = mockAdapter();
    slow.control.hang("store");
    const engine = await engineWith({ l2, slow });
    await engine.store(1n, chat.range());
    await engine.settle();
    expect(engine.state.slots.orderEnds.count).toBe(3);
    await remove(engine, "l2");
    expect(engine.state.slots.orderEnds.count).toBe(0);
    checkInvariants(engine);
  });

  it("waits for a load that is under way", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    const release = l2.control.hang("load");
    engine.turn((manager) => manager.lookups.lookup(chat.lookup()));
    await engine.settle();
    const removing = engine.manager.changes.remove("l2", { timeoutMs: 10 * SECOND, forget: false });
    await engine.pass(SECOND, 100);
    expect(ids(engine)).toEqual(["l2"]);
    release();
    expect(await through(engine, removing)).toMatchObject({ cutPrefetches: 0 });
    expect(engine.query("request")).toBe(3);
    expect(engine.retrieve(1n, chat.range())).toBe("served");
    checkInvariants(engine);
  });

  it("is not asked by lookups that come while it waits for older ones", async () => {
    const other = mockAdapter();
    const engine = await engineWith({ l2, other });
    await engine.store(1n, chat.range());
    await engine.store(1n, later.range({ requestId: "later" }));
    await engine.settle();
    await engine.manager.clear(true);
    const release = l2.control.hang("load");
    engine.turn((manager) => manager.lookups.lookup(chat.lookup()));
    await engine.settle();
    const removing = engine.manager.changes.remove("l2", { timeoutMs: 10 * SECOND, forget: false });
    await engine.pass(SECOND, 100);
    const asked = l2.control.callCount("lookup");
    expect(await engine.fetch(1n, later.lookup({ requestId: "later" }))).toBe(3);
    expect(l2.control.callCount("lookup")).toBe(asked);
    release();
    await through(engine, removing);
    expect(engine.query("request")).toBe(3);
  });

  it("goes at the deadline with a load that hangs; its buffers stay out of use, and another adapter gives the object", async () => {
    const other = mockAdapter();
    const engine = await engineWith(
      { l2, other },
      { options: { prefetchBaseMs: 60 * SECOND, prefetchMsMax: 60 * SECOND } },
    );
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    const release = l2.control.hang("load", { ignoreAbort: true });
    engine.turn((manager) => manager.lookups.lookup(chat.lookup()));
    await engine.settle();
    expect(await remove(engine, "l2", { timeoutMs: 2 * SECOND })).toMatchObject({
      cutPrefetches: 1,
      stuckOperations: 1,
    });
    await engine.pass(10 * SECOND, SECOND);
    expect(engine.query("request")).toBe(3);
    expect(engine.retrieve(1n, chat.range())).toBe("served");
    expect(engine.manager.core.space.pinnedRanges).toBe(3);
    expect(engine.manager.status()["l2_adapters_unsettled"]).toMatchObject([{ id: "l2", operations: 1 }]);
    await expect(add(engine, "l2", mockAdapter())).rejects.toThrow(/have not settled/);
    release();
    await engine.settle();
    expect(engine.manager.core.space.pinnedRanges).toBe(0);
    await add(engine, "l2", mockAdapter());
    checkInvariants(engine);
  });

  it("goes at the deadline with a store that hangs, whose late end changes nothing", async () => {
    const release = l2.control.hang("store", { ignoreAbort: true });
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    expect(await remove(engine, "l2", { timeoutMs: SECOND })).toMatchObject({
      drained: false,
      givenUpStores: 3,
      stuckOperations: 1,
    });
    expect(engine.state.slots.orderEnds.count).toBe(3);
    release();
    await engine.settle();
    expect(engine.state.ledgers[0]).toMatchObject({ storedCount: 0, inDoubt: 0 });
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
    checkInvariants(engine);
  });

  it("leaves no timer that gives up what waits for the adapter of the same id after it", async () => {
    const options = { storeAttemptsMax: 2, storeGiveUpMs: 10 * SECOND };
    const engine = await engineWith({ l2 }, { options });
    const failing = mockAdapter();
    failing.store = () => Promise.reject(new Error("no route to host"));
    await add(engine, "mock.2", failing);
    await engine.store(1n, chat.range());
    await engine.pass(8 * SECOND, 500);
    await remove(engine, "mock.2", { timeoutMs: 0 });
    const mended = mockAdapter();
    await add(engine, "mock.2", mended);
    await engine.manager.clear(true);
    engine.manager.commit();
    mended.control.hang("store");
    await engine.store(1n, chat.range());
    engine.events.splice(0);
    await engine.pass(10 * SECOND, 500);
    expect(engine.eventsOf("l2.store.given_up")).toEqual([]);
  });

  it("keeps its data to itself until its close has ended", async () => {
    const behind = await opened();
    const slow = handleOn(behind, "place");
    let end = (): void => {};
    slow.close = () => new Promise((resolve) => (end = resolve));
    const engine = await engineWith({ l2, fs: slow });
    await remove(engine, "fs");
    await expect(add(engine, "fs.2", handleOn(behind, "place"))).rejects.toThrow(/have not settled/);
    end();
    await engine.settle();
    await add(engine, "fs.2", handleOn(behind, "place"));
  });

  it("leaves no observer and no timer", async () => {
    const engine = await engineWith({ l2 });
    const timers = engine.clock.waiting;
    for (let i = 0; i < 5; i++) {
      await add(engine, "mock.2", mockAdapter());
      await engine.pass(5 * SECOND, SECOND);
      await remove(engine, "mock.2");
    }
    expect(engine.clock.waiting).toBe(timers);
  });

  it("is known again when it comes back: objects of another layout are not taken for this one's", async () => {
    const behind = await opened();
    const engine = await engineWith({ l2, fs: handleOn(behind, "place") });
    await engine.store(1n, chat.range());
    await engine.settle();
    await remove(engine, "fs");
    await remove(engine, "l2");
    await engine.manager.clear(true);
    engine.register(1n, FLOAT16);
    await add(engine, "fs.2", handleOn(behind, "place"));
    expect(await engine.fetch(1n, chat.lookup())).toBe(0);
    checkInvariants(engine);
  });

  it("is forgotten where that is asked for, and its keys with it", async () => {
    const behind = await opened();
    const engine = await engineWith({ fs: handleOn(behind, "place") });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    await remove(engine, "fs", { forget: true });
    expect(engine.state.ledgers[0]).toMatchObject({ storedCount: 0, storedBytes: 0 });
    expect([0, 1, 2].map((key) => engine.state.keys.references.get(key))).toEqual([0, 0, 0]);
    checkInvariants(engine);
  });

  it("is named in the error if there is none of that id", async () => {
    const engine = await engineWith({ l2 });
    await expect(remove(engine, "fs")).rejects.toThrow(/there is no adapter 'fs'; there are: 'l2'/);
  });
});

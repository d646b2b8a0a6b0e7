import { CacheError, hasCode, type L2Adapter } from "@cache/contracts";
import type { MockAdapter } from "@cache/l2-mock";
import { beforeEach, describe, expect, it } from "vitest";
import type { DrainReport, RemovalReport } from "../../src/controllers/adapter-changes.ts";
import type { EventType } from "../../src/events/definitions.ts";
import { adapterSetup, mockAdapter, startEngine, temporaryDisk, type TestEngine } from "../support/engine.ts";
import { checkInvariants, Replay } from "../support/invariants.ts";
import { FLOAT16, prompt } from "../support/prompts.ts";

const SECOND = 1_000;
const chat = prompt("chat", 3);
const later = prompt("later", 3);

let l2: MockAdapter;
beforeEach(() => {
  l2 = mockAdapter();
});

type Options = NonNullable<Parameters<typeof startEngine>[0]>;

async function engineWith(adapters: Record<string, L2Adapter>, more: Options = {}): Promise<TestEngine> {
  const engine = await startEngine({
    slots: 16,
    adapters,
    ...more,
    options: { evictionWatermark: 2, ...more.options },
  });
  if (engine.state.clients.size === 0) engine.register(1n);
  return engine;
}

/** Another handle on what a mock holds: what is in it outlives the handle, as files outlive an adapter. */
function handleOn(mock: MockAdapter, location: string): L2Adapter {
  return {
    capabilities: { ...mock.capabilities, persistent: true },
    location,
    open: () => Promise.resolve(),
    store: (keys, objects, signal) => mock.store(keys, objects, signal),
    lookupAndLock: (requests, signal) => mock.lookupAndLock(requests, signal),
    unlock: (keys) => mock.unlock(keys),
    load: (requests, into, signal) => mock.load(requests, into, signal),
    delete: (keys, signal) => mock.delete(keys, signal),
    listKeys: (page, signal) => mock.listKeys(page, signal),
    quarantine: (keys, reason, signal) => mock.quarantine(keys, reason, signal),
    usage: () => mock.usage(),
    status: () => mock.status(),
    close: () => Promise.resolve(),
  };
}

async function opened(): Promise<MockAdapter> {
  const mock = mockAdapter();
  await mock.open({
    id: "behind",
    stateDir: null,
    log: { debug() {}, info() {}, warn() {}, error() {} },
    signal: new AbortController().signal,
  });
  return mock;
}

/** Lets time pass until the change has ended. */
async function through<T>(engine: TestEngine, change: Promise<T>, seconds = 120): Promise<T> {
  const state = { over: false };
  const ended = change.finally(() => (state.over = true));
  ended.catch(() => {});
  await engine.settle();
  for (let passed = 0; !state.over && passed < seconds * SECOND; passed += 250) await engine.pass(250);
  if (!state.over) throw new Error("the change did not end");
  return ended;
}

const add = (engine: TestEngine, id: string, adapter: L2Adapter, base = ""): Promise<unknown> =>
  through(
    engine,
    engine.manager.changes.add(
      id,
      () => Promise.resolve(adapterSetup(id, adapter, base)),
      `{"type":"${id}"}`,
    ),
  );
const drain = (engine: TestEngine, id: string, timeoutMs = 10 * SECOND): Promise<DrainReport> =>
  through(engine, engine.manager.changes.drain(id, timeoutMs));
const remove = (
  engine: TestEngine,
  id: string,
  options: { timeoutMs?: number; forget?: boolean } = {},
): Promise<RemovalReport> =>
  through(engine, engine.manager.changes.remove(id, { timeoutMs: 10 * SECOND, forget: false, ...options }));

const ids = (engine: TestEngine): string[] => engine.manager.adapters.map(({ id }) => id);
const count = (adapter: MockAdapter): unknown => adapter.status()["object_count"];

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

describe("a restart", () => {
  let disk: string;
  beforeEach(() => {
    disk = temporaryDisk();
  });

  const start = (adapters: Record<string, L2Adapter>, more: Options = {}): Promise<TestEngine> =>
    engineWith(adapters, { disk, makeAdded: () => mockAdapter(), ...more });

  async function again(
    engine: TestEngine,
    adapters: Record<string, L2Adapter>,
    more: Options = {},
  ): Promise<TestEngine> {
    await engine.crash();
    const next = await start(adapters, more);
    checkInvariants(next);
    return next;
  }

  it("opens what was added, with its configuration, and not what was removed", async () => {
    const engine = await start({ l2, gone: mockAdapter() });
    await add(engine, "fs.2", mockAdapter());
    await add(engine, "fs.3", mockAdapter());
    await remove(engine, "fs.3");
    await remove(engine, "gone");
    const made: string[] = [];
    const next = await again(
      engine,
      { l2, gone: mockAdapter() },
      {
        makeAdded: (id, config) => {
          made.push(`${id} ${config}`);
          return mockAdapter();
        },
      },
    );
    expect(ids(next)).toEqual(["l2", "fs.2"]);
    expect(made).toEqual(['fs.2 {"type":"fs.2"}']);
    await next.store(1n, chat.range());
    await next.settle();
    expect(count(l2)).toBe(3);
  });

  it("keeps a drained adapter drained", async () => {
    const engine = await start({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await drain(engine, "l2");
    const next = await again(engine, { l2 });
    await next.store(1n, later.range());
    await next.settle();
    expect(count(l2)).toBe(3);
    await next.manager.clear(true);
    expect(await next.fetch(1n, chat.lookup())).toBe(3);
  });

  it("reads the changes out of a snapshot, wherever that was made", async () => {
    const engine = await start({ l2, gone: mockAdapter() });
    await add(engine, "fs.2", mockAdapter());
    await drain(engine, "fs.2");
    await remove(engine, "gone");
    const records = Number(engine.journal.position);
    await engine.crash();
    for (let after = 0; after <= records; after++) {
      const next = await start({ l2, gone: mockAdapter() }, { snapshotAfter: after });
      expect(ids(next)).toEqual(["l2", "fs.2"]);
      expect(next.state.adapterChanges.get("fs.2")?.stage).toBe("draining");
      expect(next.state.ledgers.find(({ id }) => id === "fs.2")?.draining).toBe(true);
      checkInvariants(next);
      await next.crash();
    }
  });

  it("takes the command line's word where that has changed since", async () => {
    const engine = await start({ l2, a: mockAdapter(), b: mockAdapter(), c: mockAdapter() });
    await remove(engine, "a");
    await drain(engine, "b");
    await remove(engine, "c");
    await add(engine, "fs.2", mockAdapter());
    const bases = { a: "another", b: "another", "fs.2": "named now" };
    const next = await again(
      engine,
      { l2, a: mockAdapter(), b: mockAdapter(), c: mockAdapter(), "fs.2": mockAdapter() },
      { bases },
    );
    expect(ids(next)).toEqual(["l2", "a", "b", "fs.2"]);
    expect([...next.state.adapterChanges.keys()]).toEqual(["c"]);
    expect(next.state.ledgers.every(({ draining }) => !draining)).toBe(true);
  });

  it("forgets a removal once the command line does not name the adapter any more: named again, it is there", async () => {
    const engine = await start({ l2, a: mockAdapter() });
    await remove(engine, "a");
    const without = await again(engine, { l2 });
    const next = await again(without, { l2, a: mockAdapter() });
    expect(ids(next)).toEqual(["l2", "a"]);
  });

  it("opens another configuration that was added under the id of a removed one", async () => {
    const engine = await start({ l2, fs: mockAdapter() });
    await remove(engine, "fs");
    await add(engine, "fs", mockAdapter(), "fs");
    const made: string[] = [];
    const next = await again(
      engine,
      { l2, fs: mockAdapter() },
      { makeAdded: (id) => (made.push(id), mockAdapter()) },
    );
    expect([ids(next), made]).toEqual([["l2", "fs"], ["fs"]]);
    await remove(next, "fs");
    expect(ids(await again(next, { l2, fs: mockAdapter() }))).toEqual(["l2"]);
  });

  it("goes back to the command line's set where that is asked for", async () => {
    const engine = await start({ l2, gone: mockAdapter() });
    await add(engine, "fs.2", mockAdapter());
    await remove(engine, "gone");
    const next = await again(engine, { l2, gone: mockAdapter() }, { adapterChanges: "forget" });
    expect(ids(next)).toEqual(["l2", "gone"]);
    expect(ids(await again(next, { l2, gone: mockAdapter() }))).toEqual(["l2", "gone"]);
  });

  it("says how to start without an added adapter that cannot be opened", async () => {
    const engine = await start({ l2 });
    await add(engine, "fs.2", mockAdapter());
    await engine.crash();
    const bad = mockAdapter();
    bad.control.failNext("open");
    await expect(start({ l2 }, { makeAdded: () => bad })).rejects.toThrow(
      /'fs.2' was added while an engine ran.*--runtime-adapters forget/,
    );
    expect(ids(await start({ l2: mockAdapter() }))).toEqual(["l2", "fs.2"]);
  });

  /** The process dies when the journal has the n-th event of this type. */
  async function diesAfter(
    engine: TestEngine,
    type: EventType,
    begin: () => Promise<unknown>,
  ): Promise<void> {
    const seen = engine.eventsOf(type).length;
    begin().catch(() => {});
    for (let step = 0; engine.eventsOf(type).length === seen; step++) {
      if (step > 1_000) throw new Error(`${type} never came`);
      await engine.pass(50);
    }
    engine.manager.commit();
    await engine.crash();
  }

  it.each([
    ["adapter.draining", "remove", ["l2"]],
    ["adapter.removed", "remove", ["l2"]],
    ["adapter.draining", "drain", ["l2", "fs.2"]],
    ["l2.store.given_up", "remove", ["l2"]],
  ] as const)("right after %s of a %s finds the set that this promised", async (type, operation, wanted) => {
    const engine = await start({ l2 });
    const slow = mockAdapter();
    slow.control.hang("store", { ignoreAbort: true });
    await add(engine, "fs.2", slow);
    await engine.store(1n, chat.range());
    await engine.settle();
    const { changes } = engine.manager;
    await diesAfter(engine, type, () =>
      operation === "drain"
        ? changes.drain("fs.2", 2 * SECOND)
        : changes.remove("fs.2", { timeoutMs: 2 * SECOND, forget: false }),
    );
    const fresh = mockAdapter();
    const next = await start({ l2 }, { makeAdded: () => fresh });
    checkInvariants(next);
    expect(ids(next)).toEqual(wanted);
    expect(await next.fetch(1n, chat.lookup())).toBe(3);
    await next.store(1n, later.range());
    await next.settle();
    expect(count(fresh)).toBe(operation === "drain" && type === "adapter.draining" ? 3 : 0);
    checkInvariants(next);
  });

  it.each(["adapter.added", "adapter.opened"] as const)("right after %s opens it", async (type) => {
    const engine = await start({ l2 });
    const make = (): Promise<ReturnType<typeof adapterSetup>> =>
      Promise.resolve(adapterSetup("fs.2", mockAdapter()));
    await diesAfter(engine, type, () => engine.manager.changes.add("fs.2", make, "{}"));
    expect(ids(await start({ l2 }))).toEqual(["l2", "fs.2"]);
  });

  it("finishes a removal that was cut before anything was told, as the command line's too", async () => {
    const engine = await start({ l2, gone: mockAdapter() });
    await engine.store(1n, chat.range());
    await engine.settle();
    await diesAfter(engine, "adapter.draining", () =>
      engine.manager.changes.remove("gone", { timeoutMs: SECOND, forget: true }),
    );
    const next = await start({ l2, gone: mockAdapter() });
    expect(ids(next)).toEqual(["l2"]);
    expect(next.state.ledgers.find(({ id }) => id === "gone")).toMatchObject({
      active: false,
      storedCount: 0,
    });
    expect(ids(await again(next, { l2, gone: mockAdapter() }))).toEqual(["l2"]);
  });
});

import { Bitmap, CacheError, type L2Adapter, type ObjectKey } from "@cache/contracts";
import type { MockAdapter } from "@cache/l2-mock";
import { beforeEach, describe, expect, it } from "vitest";
import { mockAdapter, startEngine, type TestEngine } from "../support/engine.ts";
import { checkInvariants } from "../support/invariants.ts";
import { FLOAT16, prompt } from "../support/prompts.ts";

const SECOND = 1_000;
const chat = prompt("chat", 3);

let l2: MockAdapter;
beforeEach(() => {
  l2 = mockAdapter();
});

async function engineWith(
  adapters: Record<string, L2Adapter>,
  options: NonNullable<Parameters<typeof startEngine>[0]>["options"] = {},
  slots = 16,
): Promise<TestEngine> {
  const engine = await startEngine({ slots, adapters, options: { evictionWatermark: 2, ...options } });
  engine.register(1n);
  return engine;
}

/** The same store, but nothing can be deleted from it. */
function withoutDelete(mock: MockAdapter): L2Adapter {
  return {
    capabilities: { ...mock.capabilities, delete: false, globalEviction: false },
    location: mock.location,
    open: (context) => mock.open(context),
    store: (keys, objects, signal) => mock.store(keys, objects, signal),
    lookupAndLock: (requests, signal) => mock.lookupAndLock(requests, signal),
    unlock: (keys) => mock.unlock(keys),
    load: (requests, into, signal) => mock.load(requests, into, signal),
    usage: () => mock.usage(),
    status: () => mock.status(),
    close: () => mock.close(),
  };
}

function nameOf({ state: { keys } }: TestEngine, key: number): ObjectKey {
  return { chunkHash: Uint8Array.from(keys.hash.get(key)), ...keys.groupOfKey(key) };
}

describe("an object that was stored", () => {
  it("is brought to every adapter, and loaded from there when L1 has dropped it", async () => {
    const other = mockAdapter();
    const engine = await engineWith({ l2, other });
    await engine.store(1n, chat.range());
    await engine.settle();
    expect([l2, other].map((adapter) => adapter.status()["object_count"])).toEqual([3, 3]);
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
  });

  it("is not evictable before one adapter has it", async () => {
    const release = l2.control.hang("store");
    const engine = await engineWith({ l2 }, { storeWaitMs: 0 }, 4);
    await engine.store(1n, prompt("a", 4).range());
    await engine.settle();
    expect((await engine.prepareStore(1n, prompt("b", 1).range())).value.kind).toBe("empty-context");
    release();
    await engine.settle();
    expect(await engine.store(1n, prompt("b", 1).range())).toBe(true);
  });

  it("is evictable while a second adapter still waits for it, and not any more once the first has lost it", async () => {
    const slow = mockAdapter();
    slow.control.hang("store");
    const engine = await engineWith({ l2, slow });
    await engine.store(1n, chat.range());
    await engine.settle();
    expect(engine.state.slots.orderEnds.count).toBe(3);
    const keys = engine.eventsOf("l2.store.completed")[0]?.stored ?? [];
    expect(keys).toHaveLength(3);
    engine.turn(({ core }) => core.record({ type: "l2.keys.deleted", adapter: 0, keys, reason: "test" }));
    expect(engine.state.slots.orderEnds.count).toBe(0);
    checkInvariants(engine);
  });

  it("reaches L2 with its own bytes, also when it is dropped and its room wanted while it is read", async () => {
    const release = l2.control.hang("store", { ignoreAbort: true });
    const engine = await engineWith({ l2 }, { storeWaitMs: 0 }, 4);
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    expect(await engine.store(1n, prompt("others", 4).range())).toBe(false);
    expect(engine.usedBytes).toBe(4 * 4_096);
    release();
    await engine.settle();
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
  });

  it("is tried again after failures", async () => {
    l2.control.failNext("store", 2);
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.pass(10 * SECOND, SECOND);
    expect(l2.status()["object_count"]).toBe(3);
    expect(engine.state.ledger(0)).toMatchObject({ storedCount: 3, inDoubt: 0, ownBytes: 3 * 4_096 });
  });

  it.each([
    ["BACKEND_FULL", 3],
    ["BACKEND_UNAVAILABLE", 30], // the breaker has waited longer and longer
  ] as const)("waits while one tries for all after %s, and goes within %i s", async (code, seconds) => {
    const engine = await engineWith({ l2 });
    const sizes: number[] = [];
    const store = l2.store.bind(l2);
    let isBroken = true;
    l2.store = (keys, objects, signal) => {
      sizes.push(keys.length);
      return isBroken ? Promise.reject(new CacheError(code, "no")) : store(keys, objects, signal);
    };
    await engine.store(1n, prompt("long", 12).range());
    await engine.pass(45 * SECOND, SECOND / 2);
    expect(sizes.slice(0, 1)).toEqual([12]);
    expect(new Set(sizes.slice(1))).toEqual(new Set([1]));
    isBroken = false;
    await engine.pass(seconds * SECOND, SECOND / 2);
    expect(l2.status()["object_count"]).toBe(12);
    expect(engine.eventsOf("l2.store.given_up")).toEqual([]);
  });

  it("is given up after enough failures and time: an event says so, and L1 may drop it", async () => {
    l2.control.failNext("store", 1_000);
    const engine = await engineWith({ l2 }, { reapUnpingedMs: 0 });
    await engine.store(1n, chat.range());
    await engine.pass(50 * SECOND, SECOND);
    expect(engine.eventsOf("l2.store.given_up")).toEqual([]);
    expect(engine.state.slots.orderEnds.count).toBe(0);
    await engine.pass(100 * SECOND, SECOND);
    expect(engine.eventsOf("l2.store.given_up").flatMap(({ keys }) => keys)).toHaveLength(3);
    expect(engine.eventsOf("l2.store.given_up")[0]?.reason).toMatch(/fail/);
    expect(engine.state.slots.orderEnds.count).toBe(3);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
  });

  it("that no retry can help is given up at once", async () => {
    const small: L2Adapter = withoutDelete(l2);
    Object.assign(small, { capabilities: { ...small.capabilities, maxObjectBytes: 10 } });
    const engine = await engineWith({ small });
    await engine.store(1n, chat.range());
    await engine.settle();
    expect(engine.eventsOf("l2.store.given_up")).toHaveLength(1);
    expect(engine.state.slots.orderEnds.count).toBe(3);
  });
});

describe("objects of another length in the store", () => {
  it("cost nothing but themselves: each is given up at once, and others are stored and served", async () => {
    const taken = Array.from({ length: 8 }, (_, n) => prompt(`taken-${n}`, 1));
    const takenHashes = new Set(taken.map(({ hashes }) => Buffer.from(hashes).toString("hex")));
    const keeping: L2Adapter = {
      ...withoutDelete(l2),
      async store(keys, objects, signal) {
        const [key] = keys;
        if (!takenHashes.has(Buffer.from(key?.chunkHash ?? "").toString("hex"))) {
          return l2.store(keys, objects, signal);
        }
        const details = { reason: "other-length", expectedBytes: 4_096, foundBytes: 100 };
        const error = new CacheError("CONFLICT", "100 bytes are there: delete them first", { details });
        return { stored: new Bitmap(1), failed: new Map([[0, error]]), bytesTransferred: 0 };
      },
    };
    const engine = await engineWith({ keeping });
    for (const one of taken) {
      await engine.store(1n, one.range());
      await engine.settle();
    }
    const over = engine.eventsOf("l2.store.given_up");
    expect(over.map(({ reason }) => reason)).toEqual(
      taken.map(() => "100 bytes are there: delete them first"),
    );
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
  });
});

describe("the store policy skip_l1", () => {
  it("drops an object from L1 once L2 has it, and loads it from there", async () => {
    const engine = await engineWith({ l2 }, { storePolicy: "skip_l1" });
    await engine.store(1n, chat.range());
    await engine.settle();
    expect(engine.eventsOf("l1.keys.evicted").map(({ reason }) => reason)).toEqual(["skip_l1"]);
    expect(engine.usedBytes).toBe(0);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
  });

  it("keeps it where the store failed", async () => {
    l2.control.failNext("store", 1);
    const engine = await engineWith({ l2 }, { storePolicy: "skip_l1" });
    await engine.store(1n, chat.range());
    await engine.settle();
    expect(engine.state.l1.residentCount).toBe(3);
  });
});

describe("what a lookup brings in from L2", () => {
  it("leaves L1 after its last reader under the prefetch policy default", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    expect(await engine.lookup(chat.lookup({ readers: 2 }))).toBe(3);
    expect(engine.retrieve(1n, chat.range())).toBe("served");
    expect(engine.state.l1.residentCount).toBe(3);
    expect(engine.retrieve(1n, chat.range())).toBe("served");
    expect(engine.state.l1.residentCount).toBe(0);
    expect(engine.usedBytes).toBe(0);
  });

  it("stays after its last reader where L2 lost its copy meanwhile: it is the only one", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    expect(await engine.lookup(chat.lookup())).toBe(3);
    const keys = engine.eventsOf("l2.store.completed")[0]?.stored ?? [];
    const { keys: table } = engine.state;
    l2.control.dropKeys(
      keys.map((key) => ({ chunkHash: Uint8Array.from(table.hash.get(key)), ...table.groupOfKey(key) })),
    );
    engine.turn(({ core }) => core.record({ type: "l2.keys.deleted", adapter: 0, keys, reason: "test" }));
    expect(await engine.store(1n, chat.range({ requestId: "acknowledged" }))).toBe(true);
    expect(engine.retrieve(1n, chat.range())).toBe("served");
    expect(await engine.fetch(1n, chat.lookup({ requestId: "later" }))).toBe(3);
    checkInvariants(engine);
  });

  it("stays after its last reader where a client stored the same meanwhile", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    const stored = chat.range({ requestId: "stored" });
    const answer = await engine.prepareStore(1n, stored);
    expect(await engine.lookup(chat.lookup())).toBe(3);
    engine.copyIn(1n, stored, answer);
    expect(engine.commitStore(1n, stored)).toBe(true);
    expect(engine.retrieve(1n, chat.range())).toBe("served");
    expect(engine.state.l1.residentCount).toBe(3);
    checkInvariants(engine);
  });

  it("stays under the policy retain, and is not stored again", async () => {
    const engine = await engineWith({ l2 }, { prefetchPolicy: "retain" });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
    await engine.settle();
    expect(engine.state.l1.residentCount).toBe(3);
    expect(l2.control.callCount("store")).toBe(1);
  });

  it("is only what L1 lacks, and only the prefix without a gap", async () => {
    const engine = await engineWith({ l2 }, { prefetchPolicy: "retain" });
    const long = prompt("chat", 6);
    await engine.store(1n, long.range());
    await engine.settle();
    await engine.manager.clear(true);
    await engine.store(1n, chat.range({ end: 2 }));
    await engine.settle();
    const { keys } = engine.state;
    const fifth = keys.find(0, long.hashes, 4 * 32);
    l2.control.dropKeys([{ chunkHash: Uint8Array.from(keys.hash.get(fifth)), ...keys.groupOfKey(fifth) }]);
    expect(await engine.fetch(1n, long.lookup())).toBe(4);
    const loads = engine.eventsOf("l1.write.reserved").filter(({ writer }) => writer === 1);
    expect(loads.flatMap(({ slots }) => slots)).toHaveLength(2);
  });

  it("comes from the next adapter where the first fails to load", async () => {
    const second = mockAdapter();
    const engine = await engineWith({ l2, second });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    l2.control.failNext("load", 1);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
  });

  it("is what arrived before the deadline; the answer does not wait for the rest", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    await engine.store(1n, chat.range({ end: 1, requestId: "other" }));
    const release = l2.control.hang("load", { ignoreAbort: true });
    expect(await engine.lookup(chat.lookup())).toBeNull();
    await engine.pass(3 * SECOND);
    expect(engine.query("request")).toBe(1);
    checkInvariants(engine);
    release();
    await engine.settle();
    expect(engine.manager.core.space.pinnedRanges).toBe(0);
    checkInvariants(engine);
  });

  it("answers what L1 has where L2 is broken", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range({ end: 2 }));
    l2.control.failNext("lookup", 1);
    expect(await engine.lookup(chat.lookup())).toBe(2);
  });

  it("holds no lock in L2 afterwards", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    await engine.fetch(1n, chat.lookup());
    await engine.settle();
    const page = await l2.listKeys({ pageSize: 10 }, new AbortController().signal);
    expect(page.entries).toHaveLength(3);
    const { keys } = engine.state;
    for (let key = 0; key < 3; key++) {
      const name = { chunkHash: Uint8Array.from(keys.hash.get(key)), ...keys.groupOfKey(key) };
      expect(l2.control.lockCount(name)).toBe(0);
    }
  });
});

describe("another layout in L2", () => {
  it("is not asked for: a miss, without a call", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    engine.register(1n, FLOAT16);
    expect(await engine.fetch(1n, chat.lookup())).toBe(0);
    expect(l2.control.callCount("load")).toBe(0);
  });

  it("is deleted first when the new one is stored, and the new bytes come back", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    engine.register(1n, FLOAT16);
    expect(await engine.store(1n, chat.range())).toBe(true);
    await engine.settle();
    const order = engine.events.map(({ type }) => type).filter((type) => type.startsWith("l2."));
    expect(order).toEqual([
      "l2.store.submitted",
      "l2.store.completed",
      "l2.delete.submitted",
      "l2.keys.deleted",
      "l2.store.submitted",
      "l2.store.completed",
    ]);
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
  });

  it("keeps the new one out where the adapter cannot delete, and says so; its bytes are never served", async () => {
    const engine = await engineWith({ fixed: withoutDelete(l2) });
    await engine.store(1n, chat.range());
    await engine.settle();
    engine.register(1n, FLOAT16);
    await engine.store(1n, chat.range());
    await engine.settle();
    expect(engine.eventsOf("l2.store.given_up")[0]?.reason).toMatch(/another layout.*cannot delete/);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup())).toBe(0);
  });
});

describe("the account of an adapter", () => {
  it("adopts what a listing finds, and loads it", async () => {
    const writer = await engineWith({ l2 });
    await writer.store(1n, chat.range());
    await writer.settle();
    await writer.crash();
    const engine = await engineWith({ l2 });
    await engine.pass(SECOND);
    await engine.pass(SECOND);
    expect(engine.eventsOf("l2.keys.adopted").flatMap(({ keys }) => keys)).toHaveLength(3);
    expect(engine.state.ledger(0)).toMatchObject({ storedCount: 3, ownBytes: 0 });
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
  });

  it("drops what a whole listing does not find", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    const { keys } = engine.state;
    l2.control.dropKeys([{ chunkHash: Uint8Array.from(keys.hash.get(0)), ...keys.groupOfKey(0) }]);
    for (let i = 0; i < 5; i++) await engine.pass(SECOND);
    expect(engine.eventsOf("l2.keys.deleted").map(({ reason }) => reason)).toEqual(["missing in a listing"]);
    expect(engine.state.ledger(0).storedCount).toBe(2);
  });

  it("drops what a lookup does not find, and stores it there again", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    l2.control.dropKeys([nameOf(engine, 0), nameOf(engine, 2)]);
    expect(await engine.fetch(1n, chat.lookup())).toBe(0);
    const deleted = engine.eventsOf("l2.keys.deleted");
    expect(deleted.map(({ keys, reason }) => [keys, reason])).toEqual([[[0, 2], "missing in a lookup"]]);
    expect(engine.state.ledger(0)).toMatchObject({ storedCount: 1, ownBytes: 4_096 });
    await engine.store(1n, chat.range({ requestId: "again" }));
    await engine.settle();
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup({ requestId: "later" }))).toBe(3);
    checkInvariants(engine);
  });

  it("drops what went between lookup and load, and stores it there again", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    const release = l2.control.hang("load");
    engine.turn((manager) => manager.lookups.lookup(chat.lookup()));
    await engine.until(() => l2.control.callCount("load") > 0);
    l2.control.dropKeys([nameOf(engine, 1)]);
    release();
    await engine.settle();
    expect(engine.query("request")).toBe(1);
    expect(engine.eventsOf("l2.keys.deleted").map(({ keys }) => keys)).toEqual([[1]]);
    engine.endSession("request");
    await engine.store(1n, chat.range({ requestId: "again" }));
    await engine.settle();
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup({ requestId: "later" }))).toBe(3);
    checkInvariants(engine);
  });

  it("keeps what was stored while a lookup was asking for it", async () => {
    let looked = 0;
    let tell = (): void => undefined;
    const told = new Promise<void>((resolve) => (tell = resolve));
    const late: L2Adapter = {
      ...withoutDelete(l2),
      async lookupAndLock(requests, signal) {
        const found = await l2.lookupAndLock(requests, signal);
        looked++;
        if (looked === 1) await told;
        return found;
      },
    };
    const engine = await engineWith({ late });
    engine.turn((manager) => manager.lookups.lookup(chat.lookup()));
    await engine.until(() => looked === 1);
    await engine.store(1n, chat.range({ requestId: "meanwhile" }));
    await engine.until(() => engine.state.ledger(0).storedCount === 3);
    tell();
    await engine.settle();
    expect(engine.query("request")).not.toBeNull();
    expect(engine.eventsOf("l2.keys.deleted")).toEqual([]);
    expect(engine.state.ledger(0).storedCount).toBe(3);
  });

  it("keeps what a lookup or a load could not ask for", async () => {
    const engine = await engineWith({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    for (const operation of ["lookup", "load"] as const) {
      l2.control.failNext(operation, 1);
      expect(await engine.fetch(1n, chat.lookup({ requestId: operation }))).toBe(0);
    }
    expect(engine.eventsOf("l2.keys.deleted")).toEqual([]);
    expect(engine.state.ledger(0).storedCount).toBe(3);
  });

  it("begins anew where an id has another location", async () => {
    const first = withoutDelete(l2);
    const engine = await engineWith({ l2: first });
    await engine.store(1n, chat.range());
    await engine.settle();
    engine.turn(({ core }) =>
      core.record({ type: "adapter.opened", adapter: 0, id: "l2", location: "elsewhere", reset: true }),
    );
    expect(engine.state.ledger(0)).toMatchObject({ storedCount: 0, storedBytes: 0, inDoubt: 0 });
    checkInvariants(engine);
  });
});

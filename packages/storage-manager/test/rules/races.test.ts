import { CacheError, type L2Adapter } from "@cache/contracts";
import type { MockAdapter } from "@cache/l2-mock";
import { beforeEach, describe, expect, it } from "vitest";
import { mockAdapter, startEngine, temporaryDisk } from "../support/engine.ts";
import { checkInvariants } from "../support/invariants.ts";
import { BFLOAT16, contentOf, FLOAT16, prompt } from "../support/prompts.ts";

const SECOND = 1_000;
const chat = prompt("chat", 3);

let l2: MockAdapter;
beforeEach(() => {
  l2 = mockAdapter();
});

describe("a store to L2 under way", () => {
  it("of an object that another layout replaces meanwhile: the new one is stored after it", async () => {
    const engine = await startEngine({ adapters: { l2 } });
    engine.register(1n);
    const release = l2.control.hang("store", { ignoreAbort: true });
    await engine.store(1n, chat.range());
    await engine.settle();
    engine.register(1n, FLOAT16);
    await engine.store(1n, chat.range());
    await engine.settle();
    release();
    await engine.settle();
    await engine.pass(2 * SECOND);
    expect(engine.state.slots.orderEnds.count).toBe(3);
    await engine.manager.clear(true);
    expect(await engine.fetch(1n, chat.lookup())).toBe(3);
    checkInvariants(engine);
  });

  it("of an object that L2's capacity eviction is deleting: it is there, or evictable, in the end", async () => {
    const engine = await startEngine({ adapters: { l2 }, options: { reconcileMs: 3_600_000_000 } });
    engine.register(1n);
    await engine.store(1n, chat.range({ salt: "tenant" }));
    await engine.settle();
    const release = l2.control.hang("delete", { ignoreAbort: true });
    await engine.manager.clear(true);
    engine.turn((manager) => manager.setQuota("tenant", 0));
    await engine.settle();
    engine.turn((manager) => manager.removeQuota("tenant"));
    expect(engine.state.ledger(0).inDoubt).toBe(3);
    await engine.store(1n, chat.range({ salt: "tenant" }));
    await engine.settle();
    release();
    await engine.settle();
    await engine.pass(2 * SECOND);
    expect(engine.state.slots.orderEnds.count).toBe(3);
    expect(engine.state.ledger(0)).toMatchObject({ storedCount: l2.status()["object_count"], inDoubt: 0 });
    checkInvariants(engine);
  });

  it("that ended without an answer hides no other layout: bytes of the old one are never served", async () => {
    const engine = await startEngine({
      adapters: { l2 },
      options: { storeAttemptsMax: 1, storeGiveUpMs: 0 },
    });
    engine.register(1n);
    // The bytes arrive, the answer does not.
    const { store } = l2;
    l2.store = async (...call) => {
      await store.apply(l2, call);
      throw new Error("connection reset");
    };
    await engine.store(1n, chat.range());
    await engine.settle();
    l2.store = store;
    await engine.manager.clear(true);
    engine.register(1n, FLOAT16);
    expect(await engine.fetch(1n, chat.lookup())).toBe(0);
  });
});

describe("what a helper process may still be loading into", () => {
  it("is held back after a restart, and free by proof", async () => {
    const disk = temporaryDisk();
    const helper = (mock: MockAdapter): L2Adapter => {
      Object.defineProperty(mock, "capabilities", {
        value: { ...mock.capabilities, writesOnlyFromEngineProcess: false },
      });
      return mock;
    };
    const engine = await startEngine({ disk, adapters: { l2: helper(l2) } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    engine.manager.commit();
    l2.control.hang("load", { ignoreAbort: true });
    await engine.lookup(chat.lookup());
    await engine.crash();
    const again = await startEngine({ disk, adapters: { l2: helper(mockAdapter()) } });
    expect(again.usedBytes).toBe(3 * 4_096);
    again.mappers = { kind: "none" };
    await again.pass(11 * SECOND);
    await again.pass(11 * SECOND);
    expect(again.usedBytes).toBe(0);
  });
});

describe("an inline store whose bytes are still being written", () => {
  it("is not made visible by a commit of the same range without data", async () => {
    const engine = await startEngine();
    engine.register(1n);
    const chunks = [0, 1, 2].map((chunk) => ({
      bytes: contentOf(chat.range(), chunk, BFLOAT16),
      shape: BFLOAT16.shape,
      dtype: BFLOAT16.dtype,
    }));
    const held: (() => void)[] = [];
    const write = engine.pool.write.bind(engine.pool);
    engine.pool.write = async (offset, from) => {
      await new Promise<void>((resolve) => {
        held.push(resolve);
      });
      await write(offset, from);
    };
    const stored = engine.turn((manager) => manager.commitStore(chat.range(), 1n, chunks));
    expect(engine.commitStore(1n, chat.range())).toBe(false);
    expect(engine.state.l1.residentCount).toBe(0);
    for (let i = 0; i < 3; i++) {
      held.shift()?.();
      await engine.settle();
    }
    expect(await stored).toBe(true);
    expect(engine.state.l1.residentCount).toBe(3);
  });
});

describe("giving a read back late", () => {
  it("does not end another hand-out that has its number now", async () => {
    const engine = await startEngine();
    engine.register(1n);
    engine.register(2n);
    await engine.store(1n, chat.range());
    await engine.lookup(chat.lookup({ readers: 2 }));
    const first = engine.prepareRetrieve(1n, chat.range());
    if (first.kind !== "slots") throw new Error("a miss");
    engine.commitRetrieve(1n, chat.range());
    const second = engine.prepareRetrieve(2n, chat.range());
    expect(second.kind).toBe("slots");
    engine.turn(() => first.takeBack());
    expect(engine.state.transfers.size).toBe(1);
  });

  it("does not end it by releasing an inline reply, either", async () => {
    const engine = await startEngine();
    engine.register(1n);
    engine.register(2n);
    await engine.store(1n, chat.range());
    await engine.lookup(chat.lookup({ readers: 2 }));
    engine.turn((manager) => manager.clients.noteInline(1n));
    engine.turn((manager) => manager.clients.noteInline(1n));
    expect(engine.manager.clients.inlineDespitePool).toBe(1);
    const first = await engine.turn((manager) => manager.prepareRetrieve(chat.range(), 1n));
    if (first.kind !== "inline") throw new Error(first.kind);
    engine.unregister(1n);
    expect(engine.prepareRetrieve(2n, chat.range()).kind).toBe("slots");
    engine.turn(() => first.release());
    expect(engine.state.transfers.size).toBe(1);
  });
});

describe("a lookup that is repeated while the journal cannot be written", () => {
  it("is answered 0, not 'still loading' for ever", async () => {
    const engine = await startEngine({ adapters: { l2 } });
    engine.register(1n);
    l2.control.hang("lookup");
    expect(await engine.lookup(chat.lookup())).toBeNull();
    engine.journal.broken = true;
    engine.freeLocks(chat.lookup());
    await engine.lookup(chat.lookup());
    engine.journal.broken = false;
    engine.manager.commit();
    await engine.pass(40 * SECOND);
    expect(engine.query("request")).toBe(0);
  });
});

describe("a full journal buffer while degraded", () => {
  it("changes neither state nor journal", async () => {
    const engine = await startEngine();
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.lookup(chat.lookup());
    engine.journal.append = () => {
      throw new Error("LIMIT_REACHED");
    };
    expect(() => engine.freeLocks(chat.lookup())).toThrow("LIMIT_REACHED");
    expect(engine.state.l1.lockedCount).toBe(3);
  });
});

describe("a stop in order", () => {
  it("records nothing after it", async () => {
    const engine = await startEngine({ slots: 4, options: { evictionWatermark: 2 } });
    engine.register(1n);
    await engine.store(1n, prompt("full", 4).range());
    await engine.lookup(prompt("full", 4).lookup());
    Object.assign(engine.manager.core.options, { evictionWatermark: 0.5 });
    engine.freeLocks(prompt("full", 4).lookup());
    await engine.manager.stop();
    const { position } = engine.journal;
    await engine.settle();
    expect(engine.journal.position).toBe(position);
  });
});

describe("a prepare whose reply died with the engine", () => {
  it("and that is repeated: no commit makes the slots visible that nobody wrote", async () => {
    const disk = temporaryDisk();
    const engine = await startEngine({ disk });
    engine.register(1n);
    for (const slot of engine.stage(1n, chat.range())) engine.bytesAt(slot).fill(0xaa);
    await engine.crash();
    const again = await startEngine({ disk });
    const answer = await again.prepareStore(1n, chat.range());
    again.copyIn(1n, chat.range(), answer);
    again.commitStore(1n, chat.range());
    expect(await again.fetch(1n, chat.lookup())).toBe(0);
    expect(await again.store(1n, chat.range())).toBe(true);
    expect(await again.fetch(1n, chat.lookup())).toBe(3);
    checkInvariants(again);
  });
});

describe("an inline read that a kill cut off", () => {
  it("pins nothing after the restart", async () => {
    const disk = temporaryDisk();
    const engine = await startEngine({ disk });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.lookup(chat.lookup());
    engine.turn((manager) => manager.clients.noteInline(1n));
    const read = await engine.turn((manager) => manager.prepareRetrieve(chat.range(), 1n));
    expect(read.kind).toBe("inline");
    expect(engine.state.transfers.size).toBe(1);
    await engine.crash();
    const again = await startEngine({ disk });
    expect(again.state.transfers.size).toBe(0);
    checkInvariants(again);
  });
});

describe("an adapter that is dead for good", () => {
  it.each(["fails", "hangs"] as const)(
    "and %s, for lookups too: L1 is usable again after a while",
    async (how) => {
      for (const operation of ["store", "lookup"] as const) {
        if (how === "fails") l2.control.failNext(operation, 1_000_000);
        else l2.control.hang(operation);
      }
      const engine = await startEngine({
        slots: 8,
        adapters: { l2 },
        options: { reapUnpingedMs: 0, storeWaitMs: 0 },
      });
      engine.register(1n);
      expect(await engine.store(1n, prompt("first", 8).range())).toBe(true);
      await engine.settle();
      expect(await engine.store(1n, prompt("second", 2).range())).toBe(false);
      for (let minute = 0; minute < 10; minute++) await engine.pass(60 * SECOND, SECOND);
      expect(engine.eventsOf("l2.store.given_up").flatMap(({ keys }) => keys).length).toBeGreaterThanOrEqual(
        8,
      );
      expect(await engine.store(1n, prompt("second", 2).range())).toBe(true);
    },
  );
});

describe("a delete whose answer was lost", () => {
  it("is asked about: the account says what is there", async () => {
    const engine = await startEngine({ adapters: { l2 }, options: { reapUnpingedMs: 0 } });
    engine.register(1n);
    await engine.store(1n, chat.range({ salt: "tenant" }));
    await engine.settle();
    const remove = l2.delete?.bind(l2);
    l2.delete = async (keys, signal) => {
      await remove?.(keys, signal);
      throw new CacheError("BACKEND_UNAVAILABLE", "the connection is gone");
    };
    engine.turn((manager) => manager.setQuota("tenant", 0));
    await engine.pass(10 * SECOND, SECOND);
    expect(l2.status()["object_count"]).toBe(0);
    expect(engine.state.ledger(0)).toMatchObject({ storedCount: 0, inDoubt: 0 });
    checkInvariants(engine);
  });
});

describe("a lock that expires while another layout is being deleted", () => {
  it("does not lose the store", async () => {
    const engine = await startEngine({
      adapters: { l2 },
      options: { reapUnpingedMs: 0, readTtlMs: 2 * SECOND },
    });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    const release = l2.control.hang("delete", { ignoreAbort: true });
    engine.register(1n, FLOAT16);
    await engine.store(1n, chat.range());
    await engine.lookup(chat.lookup());
    await engine.settle();
    await engine.pass(5 * SECOND, SECOND);
    release();
    await engine.pass(5 * SECOND, SECOND);
    expect(engine.state.ledger(0)).toMatchObject({ storedCount: 3, inDoubt: 0 });
    expect(engine.state.slots.orderEnds.count).toBe(3);
  });
});

describe("an adapter that leaves the configuration", () => {
  it("protects nothing any more, and what waits for another is kept", async () => {
    const disk = temporaryDisk();
    const dead = mockAdapter();
    dead.control.failNext("store", 1_000_000);
    const engine = await startEngine({ disk, adapters: { good: l2, dead }, options: { reapUnpingedMs: 0 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    expect(engine.state.slots.orderEnds.count).toBe(3);
    await engine.crash();
    const without = await startEngine({ disk, adapters: { dead }, options: { reapUnpingedMs: 0 } });
    expect(without.state.slots.orderEnds.count).toBe(0);
    await without.crash();
    const again = await startEngine({ disk, adapters: { good: l2, dead }, options: { reapUnpingedMs: 0 } });
    expect(again.state.slots.orderEnds.count).toBe(3);
    checkInvariants(again);
  });
});

describe("a start that fails because an adapter cannot be opened", () => {
  it("leaves the account of the right place alone", async () => {
    const disk = temporaryDisk();
    const engine = await startEngine({ disk, adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.crash();
    const mistyped = mockAdapter();
    Object.assign(mistyped, { location: "elsewhere" });
    mistyped.open = () => Promise.reject(new CacheError("BACKEND_REFUSED", "no such place"));
    await expect(startEngine({ disk, adapters: { l2: mistyped } })).rejects.toMatchObject({
      code: "BACKEND_REFUSED",
    });
    const again = await startEngine({ disk, adapters: { l2 } });
    expect(again.state.ledger(0)).toMatchObject({ storedCount: 3, location: l2.location });
  });
});

describe("two lookups of what only L2 has", () => {
  it("load it once", async () => {
    const engine = await startEngine({ adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    const release = l2.control.hang("load");
    await engine.lookup(chat.lookup({ requestId: "first" }));
    await engine.lookup(chat.lookup({ requestId: "second" }));
    await engine.settle();
    expect(l2.control.callCount("load")).toBe(1);
    release();
    await engine.settle();
    expect(engine.query("first")).toBe(3);
    expect(engine.query("second")).toBe(3);
    checkInvariants(engine);
  });
});

import { beforeEach, describe, expect, it } from "vitest";
import { startEngine, type TestEngine } from "../support/engine.ts";
import { checkInvariants } from "../support/invariants.ts";
import { prompt } from "../support/prompts.ts";

const SECOND = 1_000;
const chat = prompt("chat", 3);

let engine: TestEngine;
beforeEach(async () => {
  engine = await startEngine({ slots: 8, options: { reapUnpingedMs: 0, evictionWatermark: 2 } });
  engine.register(1n);
  await engine.store(1n, chat.range());
});

describe("a lookup", () => {
  it("answers once; a second question is answered 0, an unknown request too", async () => {
    expect(await engine.lookup(chat.lookup())).toBe(3);
    expect(engine.query("request")).toBe(0);
    expect(engine.query("unknown")).toBe(0);
  });

  it("finds the longest prefix that is there", async () => {
    const longer = prompt("chat", 5);
    expect(await engine.lookup(longer.lookup())).toBe(3);
    expect(await engine.lookup(prompt("else", 2).lookup({ requestId: "else" }))).toBe(0);
  });

  it("counts a chunk only where all ranks have it", async () => {
    engine.register(2n, undefined, 2);
    const request = { worldSize: 2, requestId: "ranks" };
    await engine.store(2n, chat.range({ ...request, rank: 0 }));
    await engine.store(2n, chat.range({ ...request, rank: 1, end: 2 }));
    expect(await engine.lookup(chat.lookup(request))).toBe(2);
  });

  it("keeps what it found from being evicted until its locks are given back", async () => {
    await engine.lookup(chat.lookup({ readers: 2 }));
    const big = prompt("big", 8).range();
    expect((await waited(big)).kind).toBe("slots");
    expect(engine.eventsOf("l1.keys.evicted")).toEqual([]);
    engine.freeLocks(chat.lookup({ readers: 2 }));
    engine.turn((manager) => manager.clients.unregister(1n));
    engine.register(1n);
    expect(engine.stage(1n, big)).toHaveLength(8);
  });

  async function waited(request: ReturnType<typeof chat.range>) {
    const answer = engine.prepareStore(1n, request);
    await engine.pass(250);
    return (await answer).value;
  }

  it("takes a lock for each reader: the object is free after as many retrieves", async () => {
    await engine.lookup(chat.lookup({ readers: 3 }));
    for (const [i, evictable] of [0, 0, 3].entries()) {
      expect(engine.retrieve(1n, chat.range()), `retrieve ${i}`).toBe("served");
      expect(engine.state.slots.orderEnds.count).toBe(evictable);
    }
    expect(engine.retrieve(1n, chat.range())).toBe("miss");
  });

  it("that replaces one of the same request gives the first one's locks back", async () => {
    await engine.lookup(chat.lookup({ readers: 3 }));
    await engine.lookup(chat.lookup({ readers: 1 }));
    expect(engine.retrieve(1n, chat.range())).toBe("served");
    expect(engine.state.l1.lockedCount).toBe(0);
  });
});

describe("locks end by time", () => {
  it("after the last lock on the object, not before", async () => {
    await engine.lookup(chat.lookup({ requestId: "first" }));
    await engine.pass(200 * SECOND);
    await engine.lookup(chat.lookup({ requestId: "second" }));
    await engine.pass(290 * SECOND);
    expect(engine.eventsOf("l1.read.expired")).toEqual([]);
    await engine.pass(11 * SECOND);
    expect(engine.eventsOf("l1.read.expired")).toHaveLength(1);
    expect(engine.state.l1.lockedCount).toBe(0);
    checkInvariants(engine);
  });

  it("and the retrieve that comes too late is a miss, not a read of what may be gone", async () => {
    await engine.lookup(chat.lookup());
    await engine.pass(301 * SECOND);
    expect(engine.retrieve(1n, chat.range())).toBe("miss");
  });

  it("and what is given back after that takes no lock of a later lookup", async () => {
    await engine.lookup(chat.lookup({ requestId: "old" }));
    await engine.pass(301 * SECOND);
    await engine.lookup(chat.lookup({ requestId: "new" }));
    engine.freeLocks(chat.lookup({ requestId: "old" }));
    expect(engine.state.l1.lockedCount).toBe(3);
    expect(engine.retrieve(1n, chat.range({ requestId: "new" }))).toBe("served");
  });

  it("also where the session has ended before", async () => {
    await engine.lookup(chat.lookup());
    engine.endSession("request");
    expect(engine.state.l1.lockedCount).toBe(3);
    await engine.pass(301 * SECOND);
    expect(engine.state.l1.lockedCount).toBe(0);
  });
});

describe("a session", () => {
  it("ends by time", async () => {
    await engine.lookup(chat.lookup());
    await engine.pass(601 * SECOND);
    expect(engine.state.sessions.size).toBe(0);
  });

  it("makes what it hit recently used when it ends: others go first", async () => {
    const other = prompt("other", 2);
    await engine.store(1n, other.range());
    await engine.lookup(chat.lookup());
    engine.freeLocks(chat.lookup());
    engine.endSession("request");
    await engine.store(1n, prompt("third", 5).range());
    expect(await engine.fetch(1n, chat.lookup({ requestId: "again" }))).toBe(3);
    expect(await engine.fetch(1n, other.lookup({ requestId: "again" }))).toBe(0);
  });

  it("is the oldest that ends where there are too many", async () => {
    const small = await startEngine({ options: { sessionsMax: 2 } });
    small.register(1n);
    await small.store(1n, chat.range());
    for (const requestId of ["a", "b", "c"])
      small.turn((manager) => manager.lookups.lookup(chat.lookup({ requestId })));
    expect(["a", "b", "c"].map((requestId) => small.query(requestId))).toEqual([0, 3, 3]);
    expect(small.manager.status()).toMatchObject({ sessions: { open: 2, max: 2, ended_for_room: 1 } });
  });
});

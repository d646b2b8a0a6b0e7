import { describe, expect, it } from "vitest";
import type { PreparedStoreAnswer } from "../../src/l1/writes.ts";
import { startEngine, type TestEngine } from "../support/engine.ts";
import { checkInvariants } from "../support/invariants.ts";
import { BFLOAT16, contentOf, FLOAT16, FLOAT32, prompt } from "../support/prompts.ts";

/** Evicts on demand only. */
const NO_EVICTION = { evictionWatermark: 2 };

async function engineOf(slots: number, options = {}): Promise<TestEngine> {
  const engine = await startEngine({ slots, options: { ...NO_EVICTION, ...options } });
  for (const instance of [1n, 2n, 3n]) engine.register(instance);
  return engine;
}

/** Says when an answer came and what it is. */
function watch(answers: Record<string, PreparedStoreAnswer | Promise<PreparedStoreAnswer>>): string[] {
  const seen: string[] = [];
  for (const [name, answer] of Object.entries(answers)) {
    void Promise.resolve(answer).then(({ value }) => {
      seen.push(`${name}: ${value.kind === "slots" ? value.chunkIndices.join() : value.kind}`);
    });
  }
  return seen;
}

describe("a range of which something is there", () => {
  it("gets slots for what is not resident; none at all means that everything is committed", async () => {
    const engine = await engineOf(16);
    await engine.store(1n, prompt("a", 2).range());
    const longer = prompt("a", 4).range();
    const answer = await engine.prepareStore(2n, longer);
    expect(answer.value).toMatchObject({ kind: "slots", chunkIndices: [2, 3] });
    const again = await engine.prepareStore(3n, longer);
    expect(again.value).toMatchObject({ chunkIndices: [2, 3] });
    engine.copyIn(2n, longer, answer);
    expect(engine.commitStore(2n, longer)).toBe(true);
    expect((await engine.prepareStore(3n, longer)).value).toEqual({
      kind: "slots",
      slots: [],
      chunkIndices: [],
    });
  });

  it("counts chunk indices from its own first chunk", async () => {
    const engine = await engineOf(16);
    await engine.store(1n, prompt("a", 3).range());
    const answer = await engine.prepareStore(1n, prompt("a", 5).range({ first: 2 }));
    expect(answer.value).toMatchObject({ chunkIndices: [1, 2] });
  });
});

describe("when L1 is full of what cannot go", () => {
  it("gives slots for the longest prefix after the wait; the commit keeps these and is false", async () => {
    const engine = await engineOf(8);
    engine.stage(2n, prompt("other", 6).range());
    const request = prompt("a", 4).range();
    const answer = engine.prepareStore(1n, request);
    expect(answer).toBeInstanceOf(Promise);
    await engine.pass(199);
    expect(engine.manager.writes.waiting).toBe(1);
    await engine.pass(1);
    expect((await answer).value).toMatchObject({ kind: "slots", chunkIndices: [0, 1] });
    engine.copyIn(1n, request, await answer);
    expect(engine.commitStore(1n, request)).toBe(false);
    expect(await engine.fetch(1n, prompt("a", 4).lookup())).toBe(2);
  });

  it("answers an empty context where nothing fits, and false to the commit", async () => {
    const engine = await engineOf(4);
    engine.stage(2n, prompt("other", 4).range());
    const answer = engine.prepareStore(1n, prompt("a", 1).range());
    await engine.pass(200);
    expect((await answer).value).toEqual({ kind: "empty-context" });
    expect(engine.commitStore(1n, prompt("a", 1).range())).toBe(false);
  });

  it("does not wait where that is turned off", async () => {
    const engine = await engineOf(4, { storeWaitMs: 0 });
    engine.stage(2n, prompt("other", 4).range());
    expect(engine.prepareStore(1n, prompt("a", 1).range())).not.toBeInstanceOf(Promise);
  });

  it("wakes waiters in the order in which they came, as bytes become free", async () => {
    const engine = await engineOf(4);
    const blockers = await Promise.all(
      [0, 1, 2, 3].map(async (i) => engine.prepareStore(2n, prompt(`blocker ${i}`, 1).range())),
    );
    const seen = watch({
      first: engine.prepareStore(1n, prompt("first", 2).range()),
      second: engine.prepareStore(1n, prompt("second", 1).range()),
      third: engine.prepareStore(3n, prompt("third", 1).range()),
    });
    for (const [i, expected] of [
      [],
      ["first: 0,1"],
      ["first: 0,1", "second: 0"],
      ["first: 0,1", "second: 0", "third: 0"],
    ].entries()) {
      engine.turn(() => blockers[i]?.takeBack?.());
      await engine.settle();
      expect(seen).toEqual(expected);
    }
    expect(engine.manager.writes.waiting).toBe(0);
    checkInvariants(engine);
  });

  it("wakes a waiter when objects become evictable, too", async () => {
    const engine = await engineOf(4);
    await engine.store(2n, prompt("read", 4).range());
    await engine.lookup(prompt("read", 4).lookup({ requestId: "reader" }));
    const answer = engine.prepareStore(1n, prompt("a", 3).range());
    engine.freeLocks(prompt("read", 4).lookup({ requestId: "reader" }));
    await engine.settle();
    expect((await answer).value).toMatchObject({ kind: "slots", chunkIndices: [0, 1, 2] });
  });

  it("answers at once where too many wait", async () => {
    const engine = await engineOf(4, { storeWaitersMax: 2 });
    engine.stage(2n, prompt("other", 4).range());
    const waiting = [1, 2, 3].map((i) => engine.prepareStore(1n, prompt(`w${i}`, 1).range()));
    expect(waiting.map((answer) => answer instanceof Promise)).toEqual([true, true, false]);
  });

  it("answers those who wait when the engine stops", async () => {
    const engine = await engineOf(4);
    engine.stage(2n, prompt("other", 4).range());
    const answer = engine.prepareStore(1n, prompt("a", 1).range());
    await engine.stop();
    expect((await answer).value).toEqual({ kind: "empty-context" });
  });
});

describe("eviction", () => {
  it("makes room by bytes, the oldest first, tails of prefixes before their heads", async () => {
    const engine = await engineOf(8);
    await engine.store(1n, prompt("old", 4).range());
    await engine.store(1n, prompt("new", 4).range());
    await engine.store(1n, prompt("more", 3).range());
    expect(engine.eventsOf("l1.keys.evicted").map(({ reason }) => reason)).toEqual(["demand"]);
    expect(await engine.fetch(1n, prompt("old", 4).lookup())).toBe(1);
    expect(await engine.fetch(1n, prompt("new", 4).lookup())).toBe(4);
  });

  it("evicts as many small objects as a large one needs", async () => {
    const engine = await engineOf(8);
    await engine.store(1n, prompt("small", 8).range());
    engine.register(9n, FLOAT32, 1, "large-model");
    await engine.store(9n, prompt("large", 1).range({ model: "large-model" }));
    expect(engine.state.l1).toMatchObject({ residentCount: 7, residentBytes: 8 * 4_096 });
  });

  it("begins at the watermark, takes what the ratio says, and leaves heads", async () => {
    const engine = await engineOf(10, { evictionWatermark: 0.8, evictionRatio: 0.2 });
    await engine.store(1n, prompt("a", 7).range());
    await engine.pass(1_000);
    expect(engine.eventsOf("l1.keys.evicted")).toEqual([]);
    await engine.store(1n, prompt("b", 1).range());
    await engine.pass(1_000);
    expect(engine.eventsOf("l1.keys.evicted").map(({ reason }) => reason)).toEqual(["watermark"]);
    expect(engine.state.l1.residentCount).toBe(6);
    expect(await engine.fetch(1n, prompt("a", 7).lookup())).toBe(5);
  });

  it("is off with the policy noop", async () => {
    const engine = await engineOf(4, { evictionPolicy: "noop", storeWaitMs: 0 });
    await engine.store(1n, prompt("a", 4).range());
    expect((await engine.prepareStore(1n, prompt("b", 1).range())).value.kind).toBe("empty-context");
  });

  it("never takes what the range itself already has before others", async () => {
    const engine = await engineOf(6);
    await engine.store(1n, prompt("mine", 3).range());
    await engine.store(1n, prompt("other", 3).range());
    expect(await engine.store(1n, prompt("mine", 6).range())).toBe(true);
    expect(await engine.fetch(1n, prompt("mine", 6).lookup())).toBe(6);
  });
});

describe("a tenant's quota", () => {
  const salt = "tenant";

  it("admits what it allows and evicts the tenant's own oldest, nobody else's", async () => {
    const engine = await engineOf(16, { storeWaitMs: 0 });
    engine.turn((manager) => manager.setQuota(salt, 3 * 4_096));
    await engine.store(1n, prompt("foreign", 3).range());
    expect(await engine.store(1n, prompt("a", 2).range({ salt }))).toBe(true);
    expect(await engine.store(1n, prompt("b", 2).range({ salt }))).toBe(true);
    expect(engine.state.tenants.get(salt)).toEqual({ bytes: 3 * 4_096, objects: 3 });
    expect(await engine.fetch(1n, prompt("a", 2).lookup({ salt }))).toBe(1);
    expect(await engine.fetch(1n, prompt("foreign", 3).lookup())).toBe(3);
  });

  it("counts what is staged", async () => {
    const engine = await engineOf(16, { storeWaitMs: 0 });
    engine.turn((manager) => manager.setQuota(salt, 3 * 4_096));
    engine.stage(1n, prompt("a", 2).range({ salt }));
    expect((await engine.prepareStore(1n, prompt("b", 2).range({ salt }))).value).toMatchObject({
      chunkIndices: [0],
    });
  });

  it("gives the longest prefix of a range that is larger than it, and false", async () => {
    const engine = await engineOf(16, { storeWaitMs: 0 });
    engine.turn((manager) => manager.setQuota(salt, 2 * 4_096));
    expect(await engine.store(1n, prompt("a", 4).range({ salt }))).toBe(false);
    expect(await engine.fetch(1n, prompt("a", 4).lookup({ salt }))).toBe(2);
    expect(engine.manager.status()).toMatchObject({ store_controller: { partial: 1, over_quota: 1 } });
    // What the pool's size refuses is no quota's doing.
    expect(await engine.store(1n, prompt("b", 17).range())).toBe(false);
    expect(engine.manager.writes).toMatchObject({ partial: 2, overQuota: 1 });
  });

  it("that is lowered evicts at once; that is removed counts no more", async () => {
    const engine = await engineOf(16, { storeWaitMs: 0 });
    await engine.store(1n, prompt("a", 4).range({ salt }));
    engine.turn((manager) => manager.setQuota(salt, 4_096));
    expect(engine.state.tenants.get(salt)?.objects).toBe(1);
    engine.turn((manager) => manager.removeQuota(salt));
    expect(await engine.store(1n, prompt("b", 4).range({ salt }))).toBe(true);
  });

  it("keeps tenants apart: equal tokens under another salt are another object", async () => {
    const engine = await engineOf(16);
    await engine.store(1n, prompt("a", 2).range({ salt }));
    expect(await engine.fetch(1n, prompt("a", 2).lookup())).toBe(0);
  });
});

describe("another layout under the same model", () => {
  it("makes an object a miss that a store may replace, also where sizes are equal", async () => {
    const engine = await engineOf(16);
    const chat = prompt("chat", 2);
    await engine.store(1n, chat.range());
    engine.register(1n, FLOAT16);
    expect(await engine.fetch(1n, chat.lookup())).toBe(0);
    expect(await engine.store(1n, chat.range())).toBe(true);
    expect(await engine.fetch(1n, chat.lookup())).toBe(2);
    engine.register(1n, BFLOAT16);
    expect(await engine.fetch(1n, chat.lookup())).toBe(0);
    expect(engine.usedBytes).toBe(2 * 4_096);
  });

  it("leaves a reader of the old one its bytes", async () => {
    const engine = await engineOf(16);
    const chat = prompt("chat", 1);
    await engine.store(1n, chat.range());
    await engine.lookup(chat.lookup());
    const answer = engine.prepareRetrieve(1n, chat.range());
    if (answer.kind !== "slots") throw new Error("a miss");
    engine.register(2n, FLOAT16);
    await engine.store(2n, chat.range({ requestId: "writer" }));
    const [slot] = answer.slots;
    if (slot === undefined) throw new Error("no slot");
    expect(engine.bytesAt(slot).equals(contentOf(chat.range(), 0, BFLOAT16))).toBe(true);
    engine.commitRetrieve(1n, chat.range());
    expect(engine.usedBytes).toBe(4_096);
  });

  it("counts no longer in lookups once its last client is gone", async () => {
    const engine = await engineOf(16);
    const chat = prompt("chat", 1);
    await engine.store(1n, chat.range());
    engine.register(3n, FLOAT16);
    engine.unregister(3n);
    expect(await engine.fetch(1n, chat.lookup())).toBe(1);
  });
});

describe("a client that sends its data inside the message", () => {
  const chat = prompt("chat", 2);
  const chunks = [0, 1].map((chunk) => ({
    bytes: contentOf(chat.range(), chunk, BFLOAT16),
    shape: BFLOAT16.shape,
    dtype: BFLOAT16.dtype,
  }));

  it("stores without a slot, and reads the bytes themselves", async () => {
    const engine = await engineOf(8);
    expect(await engine.turn((manager) => manager.commitStore(chat.range(), 1n, chunks))).toBe(true);
    await engine.lookup(chat.lookup());
    const answer = await engine.turn((manager) => manager.prepareRetrieve(chat.range(), 1n));
    if (answer.kind !== "inline") throw new Error(answer.kind);
    expect(answer.objects.map(({ bytes }) => Buffer.from(bytes))).toEqual(chunks.map(({ bytes }) => bytes));
    engine.turn(() => answer.release());
    expect(engine.state.l1.lockedCount).toBe(0);
    expect((await engine.prepareStore(1n, chat.range())).value).toEqual({ kind: "empty-context" });
  });

  it.each([
    ["of another dtype", chunks.map((chunk) => ({ ...chunk, dtype: "float16" }))],
    ["of another shape", chunks.map((chunk) => ({ ...chunk, shape: [4_096] }))],
    ["of another length", chunks.map((chunk) => ({ ...chunk, bytes: chunk.bytes.subarray(1) }))],
    ["of too few chunks", chunks.slice(1)],
  ])("is refused with data %s", async (_, wrong) => {
    const engine = await engineOf(8);
    expect(await engine.turn((manager) => manager.commitStore(chat.range(), 1n, wrong))).toBe(false);
    expect(engine.usedBytes).toBe(0);
  });
});

describe("clear", () => {
  it("leaves what is locked or handed out, unless forced; then readers keep their bytes", async () => {
    const engine = await engineOf(8);
    await engine.store(1n, prompt("locked", 2).range());
    await engine.store(1n, prompt("idle", 2).range());
    await engine.lookup(prompt("locked", 2).lookup());
    expect(await engine.manager.clear(false)).toBe(2);
    expect(engine.state.l1.residentCount).toBe(2);
    expect(await engine.manager.clear(true)).toBe(2);
    expect(engine.state.l1).toMatchObject({ residentCount: 0, detachedBytes: 2 * 4_096 });
    expect(engine.retrieve(1n, prompt("locked", 2).range())).toBe("served");
    expect(engine.usedBytes).toBe(0);
  });
});

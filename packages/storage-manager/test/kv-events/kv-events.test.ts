import { unpackKvRank } from "@cache/contracts";
import { expect, it } from "vitest";
import { decodeState, encodeState } from "../../src/state/snapshot.ts";
import { mockAdapter, startEngine, temporaryDisk, type TestEngine } from "../support/engine.ts";
import { checkInvariants } from "../support/invariants.ts";
import { FLOAT16, MODEL, prompt, Prompt } from "../support/prompts.ts";
import { residentChunks, Subscriber, withTokens } from "./subscriber.ts";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const hashOf = (text: Prompt, chunk: number): string =>
  hex(text.hashes.subarray(chunk * 32, chunk * 32 + 32));

async function started(kvEventLogSize = 64, slots = 64, disk?: string): Promise<TestEngine> {
  const engine = await startEngine({
    slots,
    options: { kvEventLogSize },
    ...(disk === undefined ? {} : { disk }),
  });
  engine.register(1n);
  return engine;
}

function told(subscriber: Subscriber): string[] {
  return subscriber.batches.flatMap(({ events }) =>
    events.map(
      ({ kind, blockHashes }) => `${kind} ${blockHashes.map((hash) => hex(hash).slice(0, 6)).join()}`,
    ),
  );
}

it("tells stores and removals in order, with hash, parent and token ids", async () => {
  const engine = await started();
  const subscriber = new Subscriber();
  subscriber.subscribe(engine, 1_024);
  expect(await subscriber.take()).toBe(true);
  expect(subscriber.batches[0]).toMatchObject({ enabled: true, lost: false, events: [] });
  expect(subscriber.batches[0]?.incarnation).toBeGreaterThan(2n ** 53n);
  const text = prompt("a", 3);
  await engine.store(1n, withTokens(text));
  await subscriber.drain();
  await engine.manager.clear(false);
  engine.manager.commit();
  await subscriber.drain();
  const short = [0, 1, 2].map((chunk) => hashOf(text, chunk).slice(0, 6));
  expect(told(subscriber).slice(0, 3)).toEqual(short.map((hash) => `stored ${hash}`));
  expect(told(subscriber).slice(3)).toHaveLength(1);
  expect(told(subscriber)[3]).toMatch(/^removed (\w{6},){2}\w{6}$/);
  expect(subscriber.announced.size).toBe(0);
});

it("is silent until the events are in the journal", async () => {
  const engine = await started();
  const subscriber = new Subscriber();
  subscriber.subscribe(engine);
  await subscriber.drain();
  const request = withTokens(prompt("a", 1));
  const answer = await engine.prepareStore(1n, request);
  engine.copyIn(1n, request, answer);
  engine.journal.broken = true;
  expect(engine.commitStore(1n, request)).toBe(true);
  await subscriber.drain();
  expect(told(subscriber)).toEqual([]);
  engine.journal.broken = false;
  engine.manager.commit();
  await subscriber.drain();
  expect(told(subscriber)).toHaveLength(1);
});

it("tells a chunk once for all tenants and world sizes, and its removal with the last of them", async () => {
  const engine = await started();
  engine.register(2n, undefined, 2);
  const subscriber = new Subscriber();
  subscriber.subscribe(engine);
  await subscriber.drain();
  const text = prompt("a", 1);
  for (const rank of [1, 0]) await engine.store(2n, withTokens(text, { rank, worldSize: 2 }));
  await engine.store(1n, withTokens(text));
  await engine.store(1n, withTokens(text, { salt: "tenant" }));
  await subscriber.drain();
  expect(told(subscriber)).toHaveLength(1);
  const slots = [...engine.state.slots.order.fromOldest(engine.state.slots.orderEnds)];
  expect(slots).toHaveLength(4);
  for (const [i, slot] of slots.entries()) {
    engine.turn((manager) => manager.room.evictSlots([slot], 4_096, "clear"));
    await subscriber.drain();
    expect(told(subscriber)).toHaveLength(i === 3 ? 2 : 1);
  }
});

it.each([
  ["the first rank last", [2, 1, 0]],
  ["the first rank first", [0, 2, 1]],
])("tells a chunk when all its ranks have it, until one of them does not: %s", async (_, order) => {
  const engine = await started();
  engine.register(3n, undefined, 3);
  const subscriber = new Subscriber();
  subscriber.subscribe(engine);
  await subscriber.drain();
  const text = prompt("a", 1);
  const store = (rank: number) => engine.store(3n, withTokens(text, { rank, worldSize: 3 }));
  for (const [i, rank] of order.entries()) {
    await store(rank);
    await subscriber.drain();
    expect([...subscriber.announced]).toEqual(i === 2 ? [hashOf(text, 0)] : []);
  }
  for (const rank of [1, 0, 2]) {
    const { keys, slots } = engine.state;
    const slot = [...slots.order.fromOldest(slots.orderEnds)].find(
      (one) => unpackKvRank(keys.groupOfKey(slots.key.get(one)).kvRank).globalRank === rank,
    ) as number;
    engine.turn((manager) => manager.room.evictSlots([slot], 4_096, "clear"));
    await subscriber.drain();
    expect(subscriber.announced.size).toBe(0);
    // Who comes later learns the same from what is resident.
    const late = new Subscriber();
    late.subscribe(engine, 4, 10n);
    await late.drain();
    expect(late.announced.size).toBe(0);
    await store(rank);
    await subscriber.drain();
    await late.drain();
    expect([...subscriber.announced]).toEqual([hashOf(text, 0)]);
    expect([...late.announced]).toEqual([hashOf(text, 0)]);
  }
});

it("tells another layout's object of the same chunk as removed and stored", async () => {
  const engine = await started();
  engine.register(2n, FLOAT16);
  const subscriber = new Subscriber();
  const text = prompt("a", 1);
  await engine.store(1n, withTokens(text));
  subscriber.subscribe(engine);
  await subscriber.drain();
  engine.register(2n, FLOAT16);
  await engine.store(2n, withTokens(text));
  await subscriber.drain();
  expect(told(subscriber).map((line) => line.split(" ")[0])).toEqual(["stored", "removed", "stored"]);
  expect([...subscriber.announced]).toEqual(residentChunks(engine));
});

it("begins with everything resident, parents first, and keeps the old cursor until the last of it", async () => {
  const engine = await started(4);
  const warm = new Subscriber();
  warm.subscribe(engine, 4, 7n);
  await warm.drain();
  // Tails before heads: a later range is stored first.
  const text = prompt("a", 6);
  for (const chunk of [5, 3, 4, 1, 0, 2])
    await engine.store(1n, withTokens(text, { first: chunk, end: chunk + 1 }));
  const subscriber = new Subscriber();
  subscriber.subscribe(engine, 2);
  for (let i = 0; i < 3; i++) {
    expect(subscriber.cursor).toBe(0);
    expect(await subscriber.take()).toBe(true);
  }
  await subscriber.drain();
  expect(subscriber.cursor).toBe(engine.state.chunkSeq);
  const order = subscriber.batches.flatMap(({ events }) =>
    events.flatMap(({ blockHashes }) => blockHashes.map(hex)),
  );
  expect(order).toEqual([0, 1, 2, 3, 4, 5].map((chunk) => hashOf(text, chunk)));
  expect(new Set(subscriber.batches.flatMap(({ events }) => events.map(({ seq }) => seq)))).toEqual(
    new Set([engine.state.chunkSeq]),
  );
  // A cut begins it anew.
  const again = new Subscriber();
  again.subscribe(engine, 2);
  await again.take();
  again.subscribe(engine, 2);
  await again.drain();
  expect([...again.announced].sort()).toEqual(residentChunks(engine));
});

it("says lost to a subscriber that fell out of the log, then tells everything resident", async () => {
  const engine = await started(4);
  const subscriber = new Subscriber();
  subscriber.subscribe(engine, 2);
  await subscriber.drain();
  for (const name of "abcdefgh") await engine.store(1n, withTokens(prompt(name, 3)));
  await subscriber.drain();
  await subscriber.drain();
  expect(subscriber.losses).toBe(1);
  expect([...subscriber.announced].sort()).toEqual(residentChunks(engine));
  expect(subscriber.announced.size).toBe(24);
  expect(engine.manager.kvEvents.status()).toMatchObject({ log_depth: 4, log_capacity: 4, lost_markers: 1 });
});

it("goes on at the cursor where the log reaches back to it", async () => {
  const engine = await started();
  const subscriber = new Subscriber();
  subscriber.subscribe(engine);
  await subscriber.drain();
  subscriber.cut();
  await engine.store(1n, withTokens(prompt("a", 3)));
  subscriber.subscribe(engine);
  await subscriber.drain();
  expect(subscriber.losses).toBe(0);
  expect(subscriber.announced.size).toBe(3);
});

it("goes on after a kill: same incarnation, seqs rise, nothing is missing", async () => {
  const disk = temporaryDisk();
  const engine = await started(64, 64, disk);
  const subscriber = new Subscriber();
  subscriber.subscribe(engine);
  await engine.store(1n, withTokens(prompt("a", 3)));
  await subscriber.drain();
  const { cursor } = subscriber;
  subscriber.cut();
  await engine.store(1n, withTokens(prompt("b", 2)));
  await engine.crash();
  const again = await startEngine({ disk });
  subscriber.subscribe(again);
  await subscriber.drain();
  expect(subscriber.losses).toBe(1);
  expect(subscriber.cursor).toBeGreaterThan(cursor);
  expect(subscriber.cursor).toBe(again.state.chunkSeq);
  expect([...subscriber.announced].sort()).toEqual(residentChunks(again));
  expect(subscriber.announced.size).toBe(5);
  expect(new Set(subscriber.batches.map(({ incarnation }) => incarnation)).size).toBe(1);
  // Who saw everything before the kill misses nothing and is told nothing twice.
  subscriber.cut();
  await again.crash();
  const third = await startEngine({ disk });
  subscriber.subscribe(third);
  await subscriber.drain();
  expect(subscriber.losses).toBe(1);
  await third.crash();
  // Another pool: another incarnation, and its seqs are none of the old one's.
  const other = await startEngine({ disk, slots: 32 });
  subscriber.subscribe(other);
  await subscriber.drain();
  expect(subscriber.announced.size).toBe(0);
  expect(new Set(subscriber.batches.map(({ incarnation }) => incarnation)).size).toBe(2);
});

it("tells what was loaded from L2 with the tokens of the lookup that asked for it", async () => {
  const engine = await startEngine({
    adapters: { mock: mockAdapter() },
    options: { prefetchPolicy: "retain" },
  });
  engine.register(1n);
  const text = prompt("a", 3);
  await engine.store(1n, withTokens(text));
  await engine.settle();
  await engine.manager.clear(true);
  engine.manager.commit();
  const subscriber = new Subscriber();
  subscriber.subscribe(engine);
  await subscriber.drain();
  expect(subscriber.announced.size).toBe(0);
  expect(await engine.lookup({ ...withTokens(text), workerId: null })).toBe(3);
  await subscriber.drain();
  expect(subscriber.announced.size).toBe(3);
  checkInvariants(engine);
});

it("has one stream an instance, and a bounded number of them", async () => {
  const engine = await started();
  const { kvEvents } = engine.manager;
  const subscription = { instanceId: 1n, modelName: MODEL, cursor: 0, maxEvents: 1 };
  const first = kvEvents.subscribe(subscription);
  const pending = first.next().then(() => first.next());
  kvEvents.subscribe(subscription);
  expect(await pending).toBeNull();
  for (let instance = 0; instance < 100; instance++)
    kvEvents.subscribe({ ...subscription, instanceId: BigInt(instance) });
  expect(kvEvents.status()["subscribers"]).toBe(64);
  for (const maxEvents of [0, 1_025, 1.5]) {
    expect(() => kvEvents.subscribe({ ...subscription, maxEvents })).toThrow("max_events");
  }
});

it("is off with a log size of 0: no token records, no streams", async () => {
  const engine = await started(0);
  await engine.store(1n, withTokens(prompt("a", 3)));
  expect(engine.eventsOf("l1.tokens.recorded")).toEqual([]);
  expect(engine.manager.kvEvents.enabled).toBe(false);
  expect(() =>
    engine.manager.kvEvents.subscribe({ instanceId: 1n, modelName: MODEL, cursor: 0, maxEvents: 1 }),
  ).toThrow("--kv-event-log-size");
});

it("filters by the model as registered, apart from what a cache identity adds", async () => {
  const engine = await startEngine({ options: { cacheIdentity: "revision 2" } });
  engine.register(1n);
  engine.register(2n, undefined, 1, "other");
  const subscriber = new Subscriber();
  subscriber.subscribe(engine);
  await subscriber.drain();
  await engine.store(1n, withTokens(prompt("a", 2)));
  await engine.store(2n, withTokens(prompt("b", 2), { model: "other" }));
  await subscriber.drain();
  const names = subscriber.batches.flatMap(({ events }) => events.map(({ modelName }) => modelName));
  expect(names).toEqual([MODEL, MODEL]);
});

it("tells a chunk whose key changes behind the walk over what is resident", async () => {
  const engine = await started();
  const [first, second, moved] = [prompt("first", 1), prompt("second", 1), prompt("moved", 1)] as const;
  for (const text of [first, second, moved]) await engine.store(1n, withTokens(text));
  const subscriber = new Subscriber();
  subscriber.subscribe(engine, 1);
  await subscriber.take();
  expect([...subscriber.announced]).toEqual([hashOf(first, 0)]);
  const [slotOfFirst, , slotOfMoved] = [...engine.state.slots.order.fromOldest(engine.state.slots.orderEnds)];
  engine.turn((manager) => manager.room.evictSlots([slotOfFirst as number], 4_096, "clear"));
  // The walk has passed the number that this key takes.
  await engine.store(1n, withTokens(moved, { salt: "tenant" }));
  engine.turn((manager) => manager.room.evictSlots([slotOfMoved as number], 4_096, "clear"));
  await subscriber.drain();
  expect([...subscriber.announced].sort()).toEqual([hashOf(second, 0), hashOf(moved, 0)].sort());
});

it("keeps its seq in snapshots", async () => {
  const engine = await started();
  await engine.store(1n, withTokens(prompt("a", 3)));
  expect(decodeState(encodeState(engine.state)).chunkSeq).toBe(engine.state.chunkSeq);
  expect(engine.state.chunkSeq).toBeGreaterThan(0);
});

it("goes on with a token record that was moved, and passes over one that is gone", async () => {
  const engine = await started();
  const subscriber = new Subscriber();
  subscriber.subscribe(engine);
  await subscriber.drain();
  await engine.store(1n, withTokens(prompt("kept", 1)));
  await engine.store(1n, withTokens(prompt("gone", 1)));
  const { side } = engine.manager.core.journal;
  const { tokenSegment, tokenOffset } = engine.state.keys;
  const [read, removed] = [side.read.bind(side), [tokenOffset.get(0), tokenOffset.get(1)]];
  const moved = side.append(read({ segment: tokenSegment.get(0) - 1, offset: tokenOffset.get(0) }));
  side.read = (ref) => {
    if (removed.includes(ref.offset)) throw new Error("the segment was removed");
    return read(ref);
  };
  engine.turn(({ core }) =>
    core.record({
      type: "l1.tokens.recorded",
      keys: [0],
      segments: [moved.segment],
      offsets: [moved.offset],
    }),
  );
  await subscriber.drain();
  expect(told(subscriber)).toHaveLength(1);
  expect(subscriber.announced).toEqual(new Set([hashOf(prompt("kept", 1), 0)]));
  expect(engine.manager.kvEvents.status()["unbound_stores"]).toBe(1);
});

import { strict as assert } from "node:assert";
import { isCacheError, type MemoryObj } from "@cache/contracts";
import { assertWhole, holdsPattern, isThere, type Law, type LawContext, loadOne, needs } from "../law.ts";
import { type Sample, sample, sampleKey, sized, storeAll } from "../law.ts";
import { fillPattern } from "../prng.ts";

function sizesOf(context: LawContext): number[] {
  const align = context.arena.l1.alignBytes;
  const around = [1, align, 64 * 1024, 1024 * 1024].flatMap((size) => [size - 1, size, size + 1]);
  const sizes = [...new Set([...around, 420])].filter((size) => size > 0);
  const fitting = sizes.filter((size) => size <= context.capabilities.maxObjectBytes);
  if (fitting.length < sizes.length) {
    context.note(`sizes above maxObjectBytes ${context.capabilities.maxObjectBytes} left out`);
  }
  return fitting;
}

async function allSizes(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const items = sizesOf(context).map((size, n) => sample(context, n + 1, size));
  for (const item of items) {
    assert.ok(!(await isThere(context, adapter, item.key, item.source.bytes.length)), "there before store");
    await storeAll(context, adapter, [item]);
    await assertWhole(context, adapter, item);
  }
  for (const item of items) await assertWhole(context, adapter, item);
}

async function emptyObject(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const item = sample(context, 1, 0);
  let stored: boolean;
  try {
    stored = (await adapter.store([item.key], [item.source], context.signal)).stored.has(0);
  } catch (error) {
    assert.ok(isCacheError(error));
    stored = false;
  }
  const loaded = await loadOne(context, adapter, item.key, 0);
  assert.equal(await isThere(context, adapter, item.key, 0), stored, "lookup disagrees with store");
  assert.equal(loaded !== null, stored, "load disagrees with store");
}

async function batchEqualsSingles(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const count = Math.min(7, context.capabilities.maxBatchKeys);
  const together = Array.from({ length: count }, (_, n) => sample(context, n + 1, 300 + n * 61));
  await storeAll(context, adapter, together);
  for (const item of together) await assertWhole(context, adapter, item);
  const apart = Array.from({ length: count }, (_, n) => sample(context, n + 101, 300 + n * 61));
  for (const item of apart) await storeAll(context, adapter, [item]);
  const found = await adapter.lookupAndLock(apart.map(sized), context.signal);
  assert.equal(found.count(), count, "a batch lookup misses objects that were stored singly");
  adapter.unlock(apart.map((item) => item.key));
  const into = apart.map((item) => context.arena.allocate(item.source.bytes.length));
  const loaded = await adapter.load(apart.map(sized), into, context.signal);
  assert.equal(loaded.count(), count, "a batch load misses objects that were stored singly");
  apart.forEach((item, i) => {
    assert.ok(
      holdsPattern((into[i] as MemoryObj).bytes, item.patternSeed),
      `batch load mixed up object ${i}`,
    );
  });
}

async function bytesOfBatches(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const count = Math.min(8, context.capabilities.maxBatchKeys);
  const store = async (items: readonly Sample[]): Promise<number> => {
    const keys = items.map((item) => item.key);
    const sources = items.map((item) => item.source);
    const result = await adapter.store(keys, sources, context.signal);
    assert.equal(result.stored.count(), items.length, "store refused a key");
    return result.bytesTransferred;
  };
  const bytesOf = (items: readonly Sample[]): number =>
    items.reduce((sum, item) => sum + item.source.bytes.length, 0);
  // Objects of several lengths: what is counted once, or for the first or last one alone, shows.
  const items = Array.from({ length: count }, (_, n) => sample(context, n + 1, 700 + n * 1301));
  assert.equal(await store(items), bytesOf(items), "bytesTransferred of a batch of new keys");
  const again = await store(items);
  assert.ok([0, bytesOf(items)].includes(again), `bytesTransferred ${again} of a batch that was there`);
  if (count < 2) return;
  const old = items.slice(0, Math.floor(count / 2));
  const fresh = Array.from({ length: count - old.length }, (_, n) =>
    sample(context, n + 101, 1900 + n * 977),
  );
  const mixed = await store([...old, ...fresh]);
  assert.ok(
    [bytesOf(fresh), bytesOf(fresh) + bytesOf(old)].includes(mixed),
    `bytesTransferred ${mixed} of a batch with ${bytesOf(fresh)} new bytes and ${bytesOf(old)} that were there`,
  );
}

async function largestBatch(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const count = Math.min(1000, context.capabilities.maxBatchKeys);
  const items = Array.from({ length: count }, (_, n) => sample(context, n + 1, 64));
  await storeAll(context, adapter, items);
  const found = await adapter.lookupAndLock(items.map(sized), context.signal);
  assert.equal(found.count(), count, "lookup of a large batch");
  adapter.unlock(items.map((item) => item.key));
  const into = items.map(() => context.arena.allocate(64));
  const loaded = await adapter.load(items.map(sized), into, context.signal);
  assert.equal(loaded.count(), count, "load of a large batch");
  items.forEach((item, i) => {
    assert.ok(
      holdsPattern((into[i] as MemoryObj).bytes, item.patternSeed),
      `object ${i} of ${count} is wrong`,
    );
  });
}

async function emptyBatches(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const result = await adapter.store([], [], context.signal);
  assert.equal(result.bytesTransferred, 0);
  await adapter.lookupAndLock([], context.signal);
  await adapter.load([], [], context.signal);
  adapter.unlock([]);
  if (context.capabilities.delete) await adapter.delete?.([], context.signal);
  if (context.capabilities.quarantine) await adapter.quarantine?.([], "conformance", context.signal);
}

async function partialHits(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const items = Array.from({ length: 8 }, (_, n) => sample(context, n + 1, 500 + n));
  const present = new Set([1, 4, 5, 7]);
  await storeAll(
    context,
    adapter,
    items.filter((_, i) => present.has(i)),
  );
  const step = Math.min(8, context.capabilities.maxBatchKeys);
  for (let at = 0; at < items.length; at += step) {
    const part = items.slice(at, at + step);
    const found = await adapter.lookupAndLock(part.map(sized), context.signal);
    const into = part.map((item) => context.arena.allocate(item.source.bytes.length));
    const loaded = await adapter.load(part.map(sized), into, context.signal);
    part.forEach((item, i) => {
      assert.equal(found.has(i), present.has(at + i), `lookup bit of position ${at + i}`);
      assert.equal(loaded.has(i), present.has(at + i), `load bit of position ${at + i}`);
      if (loaded.has(i)) assert.ok(holdsPattern((into[i] as MemoryObj).bytes, item.patternSeed));
    });
    adapter.unlock(found.gather(part).map((item) => item.key));
  }
}

async function otherLength(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const item = sample(context, 1, 4096);
  await storeAll(context, adapter, [item]);
  for (const byteLength of [1, 4095, 4097, 8192]) {
    const found = await adapter.lookupAndLock([{ key: item.key, byteLength }], context.signal);
    assert.ok(!found.has(0), `lookup finds an object of 4096 bytes when asked for ${byteLength}`);
    const loaded = await loadOne(context, adapter, item.key, byteLength);
    assert.equal(loaded, null, `load of an object of 4096 bytes reports ${byteLength} bytes as loaded`);
  }
  await assertWhole(context, adapter, item);
}

async function storeOtherLength(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const first = sample(context, 1, 2048);
  await storeAll(context, adapter, [first]);
  const second = sample(context, 2, 1024, first.key);
  const result = await adapter.store([second.key], [second.source], context.signal);
  // Replacing it and refusing it are both honest; claiming to have stored what is not there is not. Whoever refuses
  // says that it is this key's affair: an engine would take other codes for a store in trouble.
  if (!result.stored.has(0)) {
    const { code, details } = result.failed.get(0) ?? {};
    assert.deepEqual(
      [code, details?.["reason"]],
      ["CONFLICT", "other-length"],
      "why another length is refused",
    );
  }
  await assertWhole(context, adapter, result.stored.has(0) ? second : first);
}

async function withinBuffers(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const items = [1, 63, 420, 4095, 4096, 4097, 70_000]
    .filter((size) => size <= context.capabilities.maxObjectBytes)
    .map((size, n) => sample(context, n + 1, size));
  await storeAll(context, adapter, items);
  const step = Math.max(1, context.capabilities.maxBatchKeys);
  for (const delta of [0, -1, 1, -400, 400]) {
    for (let at = 0; at < items.length; at += step) {
      const wanted = items.slice(at, at + step).map((item) => ({
        item,
        byteLength: Math.max(1, item.source.bytes.length + delta),
      }));
      const into = wanted.map(({ byteLength }) => context.arena.allocate(byteLength));
      const requests = wanted.map(({ item, byteLength }) => ({ key: item.key, byteLength }));
      const loaded = await adapter.load(requests, into, context.signal);
      for (const i of loaded.positions()) {
        const { item } = wanted[i] as { item: Sample };
        assert.ok(holdsPattern((into[i] as MemoryObj).bytes, item.patternSeed), "a 1 bit is not the object");
      }
      assert.equal(context.arena.damage(), null, "load or store wrote outside the buffers that it was given");
    }
  }
}

async function sourceUntouched(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const item = sample(context, 1, 5000);
  await storeAll(context, adapter, [item]);
  assert.ok(holdsPattern(item.source.bytes, item.patternSeed), "store wrote into its source");
  // The slot is reused at once by its owner: an adapter that kept a reference would now serve other bytes.
  item.source.bytes.fill(0xee);
  await assertWhole(context, adapter, item);
  const first = await loadOne(context, adapter, item.key, 5000);
  first?.fill(0xdd);
  await assertWhole(context, adapter, item);
}

async function storedTwice(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const item = sample(context, 1, 3000);
  const base = adapter.usage().totalBytesUsed;
  await storeAll(context, adapter, [item]);
  const again = await adapter.store([item.key], [item.source], context.signal);
  assert.ok(again.stored.has(0), "a key that is there counts as stored");
  assert.equal(adapter.usage().totalBytesUsed - base, 3000, "the same key was counted twice");
  await assertWhole(context, adapter, item);
  if (context.capabilities.maxBatchKeys < 2) return;
  const twin = sample(context, 2, 800);
  const both = await adapter.store([twin.key, twin.key], [twin.source, twin.source], context.signal);
  assert.ok(both.stored.has(0) || both.stored.has(1), "a key twice in one batch was not stored at all");
  assert.equal(adapter.usage().totalBytesUsed - base, 3800, "a key twice in one batch was counted twice");
  await assertWhole(context, adapter, twin);
}

async function tooLarge(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const { maxObjectBytes } = context.capabilities;
  if (maxObjectBytes > 8 * 1024 * 1024) {
    context.note(`maxObjectBytes ${maxObjectBytes} is too large to be tried here`);
    return;
  }
  const item = sample(context, 1, maxObjectBytes + 1);
  const refused = await adapter.store([item.key], [item.source], context.signal).then(
    (result) => !result.stored.has(0),
    (error: unknown) => isCacheError(error),
  );
  assert.ok(refused, "an object above maxObjectBytes was stored");
}

async function tooManyKeys(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const count = context.capabilities.maxBatchKeys + 1;
  if (count > 100_000) {
    context.note(`maxBatchKeys ${count - 1} is too many to be tried here`);
    return;
  }
  const requests = Array.from({ length: count }, () => ({ key: sampleKey(1), byteLength: 10 }));
  // Answered or refused: the wrapper checks one bit a key, or a typed error.
  const bits = await adapter.lookupAndLock(requests, context.signal).catch((error: unknown) => {
    assert.ok(isCacheError(error));
    return null;
  });
  assert.ok(bits === null || bits.count() === 0, "a lookup of too many missing keys found some");
  const item = sample(context, 2, 100);
  await storeAll(context, adapter, [item]);
  await assertWhole(context, adapter, item);
}

async function outsideArena(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const own = (): MemoryObj => ({ bytes: new Uint8Array(2000), poolOffset: null });
  const source = own();
  fillPattern(source.bytes, 9);
  const key = sampleKey(9);
  const result = await adapter.store([key], [source], context.signal);
  assert.ok(result.stored.has(0), "store refused a buffer outside the arena");
  const into = own();
  const loaded = await adapter.load([{ key, byteLength: 2000 }], [into], context.signal);
  assert.ok(loaded.has(0) && holdsPattern(into.bytes, 9), "load into a buffer outside the arena failed");
}

/** Laws about bytes: what was stored is what is loaded, and nothing else is touched. */
export const ROUND_TRIP_LAWS: readonly Law[] = [
  { id: "roundtrip.sizes", title: "store, lookup, load give the same bytes at all sizes", run: allSizes },
  {
    id: "roundtrip.empty-object",
    title: "an object of 0 bytes is stored or refused, not half",
    run: emptyObject,
  },
  {
    id: "roundtrip.own-buffers",
    title: "buffers outside L1 work where no mapping is required",
    excuse: needs("l1Registration", "none"),
    run: outsideArena,
  },
  { id: "batch.equals-singles", title: "a batch does what its keys do singly", run: batchEqualsSingles },
  { id: "batch.largest", title: "a batch of maxBatchKeys (at most 1000) works", run: largestBatch },
  {
    id: "batch.bytes-transferred",
    title: "a batch counts the bytes that were written: new keys wholly, others wholly or not at all",
    run: bytesOfBatches,
  },
  { id: "batch.empty", title: "empty batches are answered", run: emptyBatches },
  {
    id: "miss.zero-bits",
    title: "missing keys are 0 bits, not errors",
    async run(context) {
      const adapter = await context.open();
      const requests = [1, 2].slice(0, context.capabilities.maxBatchKeys).map((n) => ({
        key: sampleKey(n),
        byteLength: 100,
      }));
      assert.equal((await adapter.lookupAndLock(requests, context.signal)).count(), 0);
      const into = requests.map(() => context.arena.allocate(100));
      assert.equal((await adapter.load(requests, into, context.signal)).count(), 0);
    },
  },
  { id: "partial.positions", title: "partial hits keep their positions", run: partialHits },
  { id: "length.mismatch", title: "an entry of another length is a 0 bit and stays", run: otherLength },
  { id: "length.store", title: "a store at another length tells the truth", run: storeOtherLength },
  {
    id: "load.within-buffers",
    title: "nothing is written outside the buffers; a 1 bit is whole",
    run: withinBuffers,
  },
  { id: "store.no-reference", title: "no buffer is kept after settling", run: sourceUntouched },
  { id: "store.twice", title: "the same key again: same bytes, counted once", run: storedTwice },
  { id: "limits.batch-keys", title: "more than maxBatchKeys is answered or refused", run: tooManyKeys },
  { id: "limits.object-bytes", title: "an object above maxObjectBytes is refused", run: tooLarge },
];

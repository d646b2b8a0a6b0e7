import { strict as assert } from "node:assert";
import { type Bitmap, keyString, type L2Adapter, type MemoryObj } from "@cache/contracts";
import { deleteOf, holdsPattern, isThere, type Law, type LawContext, needs, turns } from "../law.ts";
import { assertWhole, type Sample, sample, sampleKey, sized, storeAll } from "../law.ts";

const SALTS = ["", "tenant-a", "tenant-b"];

function assertUsage(adapter: L2Adapter, base: number, held: ReadonlyMap<string, Sample>): void {
  const bySalt = new Map<string, number>();
  let total = 0;
  for (const { key, source } of held.values()) {
    total += source.bytes.length;
    bySalt.set(key.cacheSalt, (bySalt.get(key.cacheSalt) ?? 0) + source.bytes.length);
  }
  const usage = adapter.usage();
  assert.equal(usage.totalBytesUsed - base, total, "usage differs from the acknowledged stores and deletes");
  assert.deepEqual(
    new Map(usage.bytesByCacheSalt),
    bySalt,
    "usage by salt differs from the acknowledged stores and deletes, or has an entry of 0",
  );
}

async function usageIsFold(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const base = adapter.usage().totalBytesUsed;
  const held = new Map<string, Sample>();
  const { random } = context;
  assertUsage(adapter, base, held);
  for (let step = 0; step < 40; step++) {
    const n = random.below(12);
    const key = sampleKey(n, { cacheSalt: SALTS[n % 3] });
    const known = held.get(keyString(key));
    if (known !== undefined && context.capabilities.delete && random.below(2) === 0) {
      if ((await deleteOf(adapter)([key], context.signal)).has(0)) held.delete(keyString(key));
    } else {
      const item = sample(context, n + 1, 100 + n * 7, key);
      await storeAll(context, adapter, [item]);
      held.set(keyString(key), item);
    }
    assertUsage(adapter, base, held);
  }
}

async function sameKeyRace(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const base = adapter.usage().totalBytesUsed;
  const byteLength = Math.min(100_000, context.capabilities.maxObjectBytes);
  const twins = Array.from({ length: 6 }, () => sample(context, 5, byteLength, sampleKey(5)));
  const results = await Promise.all(
    twins.map((item) => adapter.store([item.key], [item.source], context.signal)),
  );
  assert.ok(
    results.some((result) => result.stored.has(0)),
    "six stores of one key at once: none succeeded",
  );
  await assertWhole(context, adapter, twins[0] as Sample);
  assert.equal(adapter.usage().totalBytesUsed - base, byteLength, "racing stores of one key count once");
}

/** Deletes race loads and stores of one key: whatever wins, a 1 bit is the whole object. */
async function deleteRace(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const remove = deleteOf(adapter);
  const base = adapter.usage().totalBytesUsed;
  const byteLength = Math.min(200_000, context.capabilities.maxObjectBytes);
  const item = sample(context, 3, byteLength);
  const targets = [1, 2, 3].map(() => context.arena.allocate(byteLength));
  for (let round = 0; round < 10; round++) {
    await storeAll(context, adapter, [item]);
    const loads = targets.map(async (target) => {
      const loaded = await adapter.load([sized(item)], [target], context.signal);
      if (loaded.has(0)) assert.ok(holdsPattern(target.bytes, 3), "a load beside a delete is not whole");
    });
    await turns(round % 3);
    await Promise.all([...loads, remove([item.key], context.signal)]);
    await Promise.all([
      adapter.store([item.key], [item.source], context.signal),
      remove([item.key], context.signal),
    ]);
    const there = await isThere(context, adapter, item.key, byteLength);
    if (there) await assertWhole(context, adapter, item);
    const used = adapter.usage().totalBytesUsed - base;
    assert.equal(used, there ? byteLength : 0, "usage after a store beside a delete of one key");
    await remove([item.key], context.signal);
  }
}

/** What the model knows of one key. Operations on one key follow each other; keys run beside each other. */
interface ModelCell {
  readonly item: Sample;
  present: boolean;
  locks: number;
  busy: boolean;
}

type ModelStep = (context: LawContext, adapter: L2Adapter, cells: readonly ModelCell[]) => Promise<void>;

const requestsOf = (cells: readonly ModelCell[]) => cells.map((cell) => sized(cell.item));
const keysOf = (cells: readonly ModelCell[]) => cells.map((cell) => cell.item.key);

function assertBits(operation: string, bits: Bitmap, cells: readonly ModelCell[]): void {
  cells.forEach((cell, i) => {
    assert.equal(
      bits.has(i),
      cell.present,
      `${operation}: bit of ${keyString(cell.item.key)} against the model`,
    );
  });
}

const storeStep: ModelStep = async (context, adapter, cells) => {
  const sources = cells.map((cell) => cell.item.source);
  const { stored } = await adapter.store(keysOf(cells), sources, context.signal);
  assert.equal(stored.count(), cells.length, "store in the concurrent model");
  for (const cell of cells) cell.present = true;
};

const lookupStep: ModelStep = async (context, adapter, cells) => {
  const found = await adapter.lookupAndLock(requestsOf(cells), context.signal);
  assertBits("lookup", found, cells);
  for (const cell of found.gather(cells)) cell.locks++;
};

const unlockStep: ModelStep = async (_context, adapter, cells) => {
  adapter.unlock(keysOf(cells));
  for (const cell of cells) cell.locks = Math.max(0, cell.locks - 1);
};

const loadStep: ModelStep = async (context, adapter, cells) => {
  const targets = cells.map((cell) => context.arena.allocate(cell.item.source.bytes.length));
  const loaded = await adapter.load(requestsOf(cells), targets, context.signal);
  assertBits("load", loaded, cells);
  for (const i of loaded.positions()) {
    const seed = (cells[i] as ModelCell).item.patternSeed;
    assert.ok(
      holdsPattern((targets[i] as MemoryObj).bytes, seed),
      "load in the concurrent model: other bytes",
    );
  }
};

const deleteStep: ModelStep = async (context, adapter, cells) => {
  const gone = await deleteOf(adapter)(keysOf(cells), context.signal);
  cells.forEach((cell, i) => {
    assert.equal(gone.has(i), !cell.present || cell.locks === 0, "delete against the model");
    if (gone.has(i)) cell.present = false;
  });
};

async function concurrentModel(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const { random, capabilities } = context;
  const base = adapter.usage().totalBytesUsed;
  const cells: ModelCell[] = Array.from({ length: 24 }, (_, n) => ({
    item: sample(context, n + 1, 200 + n * 331, sampleKey(n, { cacheSalt: SALTS[n % 3] })),
    present: false,
    locks: 0,
    busy: false,
  }));
  const steps: ModelStep[] = [storeStep, storeStep, lookupStep, unlockStep, loadStep];
  if (capabilities.delete) steps.push(deleteStep);
  const running = new Set<Promise<void>>();
  for (let step = 0; step < 300; step++) {
    while (running.size >= 5) await Promise.race(running);
    const free = cells.filter((cell) => !cell.busy);
    const wanted = 1 + random.below(Math.min(4, capabilities.maxBatchKeys));
    const chosen = new Set(
      Array.from({ length: wanted }, () => (free.length > 0 ? random.pick(free) : null)),
    );
    const batch = [...chosen].filter((cell) => cell !== null);
    if (batch.length === 0) {
      await turns(1);
      continue;
    }
    for (const cell of batch) cell.busy = true;
    const work = random
      .pick(steps)(context, adapter, batch)
      .finally(() => {
        for (const cell of batch) cell.busy = false;
        running.delete(work);
      });
    work.catch(() => undefined);
    running.add(work);
  }
  await Promise.all(running);
  const held = new Map<string, Sample>();
  for (const cell of cells) {
    const { key, source } = cell.item;
    assert.equal(await isThere(context, adapter, key, source.bytes.length), cell.present, "the final state");
    if (cell.present) held.set(keyString(key), cell.item);
  }
  assertUsage(adapter, base, held);
  assert.equal(context.arena.damage(), null, "a buffer's surroundings were written");
}

/** Laws about usage, and about many operations at once. */
export const ACCOUNTING_LAWS: readonly Law[] = [
  { id: "usage.fold", title: "usage is the sum of acknowledged stores and deletes", run: usageIsFold },
  { id: "concurrent.same-key", title: "one key stored six times at once is stored once", run: sameKeyRace },
  {
    id: "concurrent.delete-race",
    title: "loads and stores beside deletes of one key stay whole",
    excuse: needs("delete", true),
    run: deleteRace,
  },
  {
    id: "concurrent.model",
    title: "concurrent operations agree with a model in memory",
    run: concurrentModel,
  },
];

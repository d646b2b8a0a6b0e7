import { strict as assert } from "node:assert";
import { hasCode, type L2Adapter, type MemoryObj } from "@cache/contracts";
import { graceForLateWrites, holdsPattern, type Law, type LawContext, loadOne } from "../law.ts";
import { assertWhole, type Sample, sample, sized, storeAll, turns } from "../law.ts";

const SCRIBBLE = 0x5a;
/** The abort comes at once, after a microtask, then after more and more turns of the event loop. */
const ATTEMPTS = [0, 0.5, 1, 2, 3, 5, 8, 13, 21, 34] as const;

async function pause(attempt: number): Promise<void> {
  if (attempt === 0.5) await Promise.resolve();
  else await turns(attempt);
}

function assertAborted(operation: string, error: unknown): void {
  assert.ok(hasCode(error, "ABORTED"), `an aborted ${operation} rejected with ${String(error)}, not ABORTED`);
}

function objectBytes(context: LawContext): number {
  return Math.min(192 * 1024, context.capabilities.maxObjectBytes);
}

/** Settles one store; the answer is which samples it reports as stored. */
async function outcomeOfStore(
  adapter: L2Adapter,
  items: readonly Sample[],
  signal: AbortSignal,
): Promise<boolean[]> {
  const storing = adapter.store(
    items.map((item) => item.key),
    items.map((item) => item.source),
    signal,
  );
  return storing.then(
    (result) => items.map((_, i) => result.stored.has(i)),
    (error: unknown) => {
      assertAborted("store", error);
      return items.map(() => false);
    },
  );
}

async function assertAbsentOrWhole(context: LawContext, adapter: L2Adapter, item: Sample): Promise<boolean> {
  const bytes = await loadOne(context, adapter, item.key, item.source.bytes.length);
  if (bytes === null) return false;
  assert.ok(holdsPattern(bytes, item.patternSeed), "an aborted store left an object that is not whole");
  return true;
}

async function abortedBefore(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const signal = AbortSignal.abort();
  const present = sample(context, 1, 900);
  await storeAll(context, adapter, [present]);
  const item = sample(context, 2, 900);
  const [stored] = await outcomeOfStore(adapter, [item], signal);
  item.source.bytes.fill(SCRIBBLE);
  const into = context.arena.allocate(900);
  await adapter.load([sized(present)], [into], signal).then(
    (loaded) => assert.ok(!loaded.has(0) || holdsPattern(into.bytes, present.patternSeed)),
    (error: unknown) => assertAborted("load", error),
  );
  into.bytes.fill(SCRIBBLE);
  await graceForLateWrites(context);
  assert.ok(
    into.bytes.every((byte) => byte === SCRIBBLE),
    "a buffer was written after its load had settled",
  );
  const there = await assertAbsentOrWhole(context, adapter, item);
  if (stored === true) assert.ok(there, "a store under an aborted signal claims to have stored");
  await assertWhole(context, adapter, present);
}

async function abortedStore(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const width = Math.min(4, context.capabilities.maxBatchKeys);
  const claimed: { item: Sample; stored: boolean }[] = [];
  for (const [round, attempt] of ATTEMPTS.entries()) {
    const items = Array.from({ length: width }, (_, n) =>
      sample(context, round * 10 + n + 1, objectBytes(context)),
    );
    const controller = new AbortController();
    const outcome = outcomeOfStore(adapter, items, controller.signal);
    await pause(attempt);
    controller.abort();
    const stored = await outcome;
    // The buffers are ours again: an adapter that still reads them would store this.
    for (const item of items) item.source.bytes.fill(SCRIBBLE);
    items.forEach((item, i) => claimed.push({ item, stored: stored[i] === true }));
  }
  await graceForLateWrites(context);
  for (const { item, stored } of claimed) {
    const there = await assertAbsentOrWhole(context, adapter, item);
    if (stored) assert.ok(there, "a store that was aborted claims a key that is not there");
  }
  assert.equal(context.arena.damage(), null, "an aborted store wrote outside");
}

async function abortedLoad(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const width = Math.min(4, context.capabilities.maxBatchKeys);
  const items = Array.from({ length: width }, (_, n) => sample(context, n + 1, objectBytes(context)));
  await storeAll(context, adapter, items);
  const targets: MemoryObj[] = [];
  for (const attempt of ATTEMPTS) {
    const into = items.map((item) => context.arena.allocate(item.source.bytes.length));
    const controller = new AbortController();
    const loading = adapter.load(items.map(sized), into, controller.signal).then(
      (loaded) => loaded,
      (error: unknown) => assertAborted("load", error),
    );
    await pause(attempt);
    controller.abort();
    const loaded = await loading;
    for (const i of loaded?.positions() ?? []) {
      assert.ok(
        holdsPattern((into[i] as MemoryObj).bytes, (items[i] as Sample).patternSeed),
        "an aborted load reports an object that is not whole",
      );
    }
    for (const target of into) target.bytes.fill(SCRIBBLE);
    targets.push(...into);
  }
  for (const item of items) await assertWhole(context, adapter, item);
  await graceForLateWrites(context);
  for (const { bytes } of targets) {
    assert.ok(
      bytes.every((byte) => byte === SCRIBBLE),
      "a buffer was written after its load had settled",
    );
  }
  assert.equal(context.arena.damage(), null, "an aborted load wrote outside");
}

/** Laws about abort: an operation settles only when nothing touches its buffers any more. */
export const ABORT_LAWS: readonly Law[] = [
  { id: "abort.before", title: "an aborted signal ends an operation cleanly", run: abortedBefore },
  {
    id: "abort.store-settles-last",
    title: "an aborted store reads nothing after it settled",
    run: abortedStore,
  },
  {
    id: "abort.load-settles-last",
    title: "an aborted load writes nothing after it settled",
    run: abortedLoad,
  },
];

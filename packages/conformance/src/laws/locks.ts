import { strict as assert } from "node:assert";
import { hasCode } from "@cache/contracts";
import { assertWhole, deleteOf, isThere, type Law, type LawContext, needs } from "../law.ts";
import { sample, sampleKey, sized, storeAll, turns } from "../law.ts";

async function lockPreventsDelete(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const remove = deleteOf(adapter);
  const item = sample(context, 1, 600);
  await storeAll(context, adapter, [item]);
  for (let i = 0; i < 3; i++) await adapter.lookupAndLock([sized(item)], context.signal);
  for (let held = 3; held > 0; held--) {
    const gone = await remove([item.key], context.signal);
    assert.ok(!gone.has(0), `delete removed a key with ${held} locks`);
    const into = context.arena.allocate(600);
    assert.ok(
      (await adapter.load([sized(item)], [into], context.signal)).has(0),
      "a locked key is not loadable",
    );
    adapter.unlock([item.key]);
  }
  assert.ok(
    (await remove([item.key], context.signal)).has(0),
    "delete refuses after as many unlocks as locks",
  );
  assert.ok(!(await isThere(context, adapter, item.key, 600)), "the deleted key is still there");
}

async function unlockHarmless(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const item = sample(context, 1, 600);
  adapter.unlock([item.key, sampleKey(77)]);
  await storeAll(context, adapter, [item]);
  adapter.unlock([item.key]);
  await assertWhole(context, adapter, item);
  if (!context.capabilities.delete) return;
  await adapter.lookupAndLock([sized(item)], context.signal);
  const gone = await deleteOf(adapter)([item.key], context.signal);
  assert.ok(!gone.has(0), "unlocks without a lock were counted against a later lock");
}

async function missTakesNoLock(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const item = sample(context, 1, 600);
  assert.ok(!(await adapter.lookupAndLock([sized(item)], context.signal)).has(0));
  await storeAll(context, adapter, [item]);
  const other = [{ key: item.key, byteLength: 601 }];
  assert.ok(!(await adapter.lookupAndLock(other, context.signal)).has(0));
  const gone = await deleteOf(adapter)([item.key], context.signal);
  assert.ok(gone.has(0), "a lookup that answered 0 took a lock");
}

async function abortedLookup(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const item = sample(context, 1, 600);
  await storeAll(context, adapter, [item]);
  for (let attempt = 0; attempt < 6; attempt++) {
    const controller = new AbortController();
    if (attempt === 0) controller.abort();
    const looking = adapter.lookupAndLock([sized(item)], controller.signal);
    const outcome = looking.then(
      (found) => found.has(0),
      (error: unknown) => {
        assert.ok(hasCode(error, "ABORTED"), `an aborted lookup rejected with ${String(error)}`);
        return false;
      },
    );
    await turns(Math.max(0, attempt - 2));
    controller.abort();
    if (await outcome) adapter.unlock([item.key]);
  }
  const gone = await deleteOf(adapter)([item.key], context.signal);
  assert.ok(gone.has(0), "an aborted lookup left a lock behind");
}

async function deleteIdempotent(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const remove = deleteOf(adapter);
  const item = sample(context, 1, 600);
  assert.ok(
    (await remove([sampleKey(50)], context.signal)).has(0),
    "a key that never was is not there: 1 bit",
  );
  await storeAll(context, adapter, [item]);
  assert.ok((await remove([item.key], context.signal)).has(0));
  assert.ok((await remove([item.key], context.signal)).has(0), "a second delete is a 1 bit too");
  assert.ok(!(await isThere(context, adapter, item.key, 600)), "delete left the key");
  await storeAll(context, adapter, [item]);
  await assertWhole(context, adapter, item);
}

async function deletePositions(context: LawContext): Promise<void> {
  const adapter = await context.open();
  if (context.capabilities.maxBatchKeys < 3) {
    context.note("maxBatchKeys below 3: not tried");
    return;
  }
  const items = [1, 2, 3].map((n) => sample(context, n, 300));
  await storeAll(context, adapter, items);
  await adapter.lookupAndLock(items.slice(1, 2).map(sized), context.signal);
  const gone = await deleteOf(adapter)(
    items.map((item) => item.key),
    context.signal,
  );
  assert.deepEqual([...gone.positions()], [0, 2], "delete of a batch with its middle key locked");
}

async function quarantineTakesAway(context: LawContext): Promise<void> {
  const adapter = await context.open();
  assert.ok(adapter.quarantine !== undefined, "the manifest says quarantine: true and it is absent");
  const [bad, good] = [sample(context, 1, 600), sample(context, 2, 600)];
  await storeAll(context, adapter, [bad, good]);
  await adapter.quarantine([bad.key, sampleKey(60)], "digest differs", context.signal);
  assert.ok(!(await isThere(context, adapter, bad.key, 600)), "a quarantined key is still found");
  const into = context.arena.allocate(600);
  assert.ok(
    !(await adapter.load([sized(bad)], [into], context.signal)).has(0),
    "a quarantined key is loaded",
  );
  await assertWhole(context, adapter, good);
  if (context.capabilities.listKeys) {
    const page = await adapter.listKeys?.({ pageSize: 100 }, context.signal);
    const listed = page?.entries.map(({ key }) => key.chunk_hash_hex);
    assert.deepEqual(
      listed,
      [Buffer.from(good.key.chunkHash).toString("hex")],
      "the listing after a quarantine",
    );
  }
  await storeAll(context, adapter, [bad]);
  await assertWhole(context, adapter, bad);
}

/** Laws about locks, delete and quarantine. */
export const LOCK_LAWS: readonly Law[] = [
  {
    id: "lock.prevents-delete",
    title: "a locked key is not deleted until as many unlocks",
    excuse: needs("delete", true),
    run: lockPreventsDelete,
  },
  { id: "lock.unlock-harmless", title: "unlocking what is not locked changes nothing", run: unlockHarmless },
  {
    id: "lock.miss-takes-none",
    title: "a lookup bit of 0 takes no lock",
    excuse: needs("delete", true),
    run: missTakesNoLock,
  },
  {
    id: "abort.lookup-leaks-no-lock",
    title: "an aborted lookup leaves no lock",
    excuse: needs("delete", true),
    run: abortedLookup,
  },
  {
    id: "delete.idempotent",
    title: "delete twice, delete of nothing, store after delete",
    excuse: needs("delete", true),
    run: deleteIdempotent,
  },
  {
    id: "delete.positions",
    title: "delete skips a locked key and keeps positions",
    excuse: needs("delete", true),
    run: deletePositions,
  },
  {
    id: "quarantine.out-of-service",
    title: "a quarantined object is a miss and may be stored anew",
    excuse: needs("quarantine", true),
    run: quarantineTakesAway,
  },
];

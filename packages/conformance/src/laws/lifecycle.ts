import { strict as assert } from "node:assert";
import { hasCode, type L2Adapter, type L2Capabilities } from "@cache/contracts";
import { deleteOf, graceForLateWrites, type Law, type LawContext, loadOne, needs } from "../law.ts";
import { assertWhole, isThere, sample, sampleKey, sized, storeAll, turns } from "../law.ts";

const FLAGS = [
  "persistent",
  "shared",
  "delete",
  "listKeys",
  "quarantine",
  "globalEviction",
  "needsStateDir",
  "writesOnlyFromEngineProcess",
] as const satisfies readonly (keyof L2Capabilities)[];

async function manifestTruthful(context: LawContext): Promise<void> {
  const adapter = context.createRaw();
  const manifest = adapter.capabilities;
  assert.ok(Object.isFrozen(manifest), "capabilities is not frozen");
  const before = JSON.stringify(manifest);
  assert.deepEqual(JSON.parse(before), { ...manifest }, "capabilities is not plain data");
  for (const flag of FLAGS) {
    assert.equal(typeof manifest[flag], "boolean", `capabilities.${flag} is not a boolean`);
  }
  assert.ok(["none", "required"].includes(manifest.l1Registration), "l1Registration is unknown");
  for (const limit of ["maxBatchKeys", "maxObjectBytes"] as const) {
    const value = manifest[limit];
    assert.ok(Number.isSafeInteger(value) && value >= 1, `capabilities.${limit} is ${value}, not a count`);
  }
  await context.openAdapter(adapter);
  assert.equal(JSON.stringify(adapter.capabilities), before, "capabilities changed with open");
  if (manifest.globalEviction) {
    assert.ok(manifest.delete, "globalEviction: true needs delete: true");
    const { capacityBytes } = adapter.usage();
    assert.ok(typeof capacityBytes === "number", "globalEviction: true needs usage().capacityBytes in bytes");
  }
}

async function optionalOperations(context: LawContext): Promise<void> {
  const adapter = context.createRaw();
  await context.openAdapter(adapter);
  const calls = {
    delete: () => adapter.delete?.([sampleKey(1)], context.signal),
    listKeys: () => adapter.listKeys?.({ pageSize: 10 }, context.signal),
    quarantine: () => adapter.quarantine?.([sampleKey(1)], "conformance", context.signal),
  };
  for (const name of ["delete", "listKeys", "quarantine"] as const) {
    if (context.capabilities[name]) {
      assert.equal(typeof adapter[name], "function", `the manifest says ${name}: true and it is absent`);
    } else if (adapter[name] !== undefined) {
      await assert.rejects(
        async () => calls[name](),
        (error) => hasCode(error, "UNSUPPORTED"),
        `the manifest says ${name}: false, so a call must fail with UNSUPPORTED`,
      );
    }
  }
}

async function locationConstant(context: LawContext): Promise<void> {
  const adapter = context.createRaw();
  const { location } = adapter;
  assert.ok(typeof location === "string" && location.length > 0, "location is empty");
  await context.openAdapter(adapter);
  assert.equal(adapter.location, location, "location changed with open");
  const status = JSON.stringify(adapter.status());
  assert.doesNotMatch(location, /:\/\/[^/\s]*:[^/\s]*@/, "location holds credentials");
  for (const secret of context.harness.secrets ?? []) {
    assert.ok(!location.includes(secret), "location holds a secret");
    assert.ok(!status.includes(secret), "status holds a secret");
  }
  await adapter.close();
  assert.equal(adapter.location, location, "location changed with close");
}

async function assertAllClosed(context: LawContext, adapter: L2Adapter, when: string): Promise<void> {
  const item = sample(context, 1, 512);
  const calls: Record<string, () => Promise<unknown>> = {
    store: () => adapter.store([item.key], [item.source], context.signal),
    lookupAndLock: () => adapter.lookupAndLock([sized(item)], context.signal),
    load: () => adapter.load([sized(item)], [context.arena.allocate(512)], context.signal),
  };
  const { capabilities, signal } = context;
  if (capabilities.delete) calls["delete"] = async () => adapter.delete?.([item.key], signal);
  if (capabilities.listKeys) calls["listKeys"] = async () => adapter.listKeys?.({ pageSize: 10 }, signal);
  if (capabilities.quarantine) {
    calls["quarantine"] = async () => adapter.quarantine?.([item.key], "conformance", signal);
  }
  for (const [name, call] of Object.entries(calls)) {
    await assert.rejects(
      async () => call(),
      (error) => hasCode(error, "ADAPTER_CLOSED"),
      `${name} ${when} must reject with ADAPTER_CLOSED`,
    );
  }
  adapter.unlock([item.key]);
  adapter.usage();
  adapter.status();
}

async function closeDrains(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const byteLength = Math.min(256 * 1024, context.capabilities.maxObjectBytes);
  const present = [1, 2, 3, 4].map((n) => sample(context, n, byteLength));
  await storeAll(context, adapter, present);
  const fresh = [11, 12, 13, 14].map((n) => sample(context, n, byteLength));
  const targets = present.map(() => context.arena.allocate(byteLength));
  let unsettled = 0;
  const watch = (operation: Promise<unknown>): void => {
    unsettled++;
    const settled = (): void => void unsettled--;
    operation.then(settled, settled);
  };
  for (const item of fresh) watch(adapter.store([item.key], [item.source], context.signal));
  present.forEach((item, i) => {
    const into = targets[i];
    if (into !== undefined) watch(adapter.load([sized(item)], [into], context.signal));
  });
  await adapter.close();
  await turns(1);
  assert.equal(unsettled, 0, "close resolved while operations were in flight");
  for (const target of targets) target.bytes.fill(0x5a);
  await graceForLateWrites(context);
  for (const target of targets) {
    assert.ok(
      target.bytes.every((byte) => byte === 0x5a),
      "a buffer was written after close",
    );
  }
}

async function reopenKeeps(context: LawContext): Promise<void> {
  const first = await context.open();
  const items = [0, 1, 2].map((n) => sample(context, n + 1, 700 + n));
  await storeAll(context, first, items);
  const gone = items[2];
  assert.ok(gone !== undefined);
  if (context.capabilities.delete) await deleteOf(first)([gone.key], context.signal);
  // A lock that is held at close dies with the adapter: it must not outlive it.
  await first.lookupAndLock(items.slice(0, 1).map(sized), context.signal);
  await first.close();
  const second = await context.open();
  for (const item of context.capabilities.delete ? items.slice(0, 2) : items) {
    if (context.capabilities.persistent) await assertWhole(context, second, item);
    else {
      assert.ok(
        !(await isThere(context, second, item.key, item.source.bytes.length)),
        "persistent: false, and an object is there after close and a new adapter",
      );
    }
  }
  if (!context.capabilities.delete) return;
  assert.equal(await loadOne(context, second, gone.key, 702), null, "a deleted object came back");
  const deleted = await deleteOf(second)(
    items.map((item) => item.key),
    context.signal,
  );
  assert.equal(deleted.count(), items.length, "a lock outlived the adapter that held it");
}

/** Laws about the manifest, the place's identity, and opening and closing. */
export const LIFECYCLE_LAWS: readonly Law[] = [
  {
    id: "manifest.truthful",
    title: "capabilities are frozen plain data and consistent",
    run: manifestTruthful,
  },
  {
    id: "manifest.optional-operations",
    title: "optional operations exist exactly where the manifest says so",
    run: optionalOperations,
  },
  {
    id: "location.constant",
    title: "location is there from creation, constant, no secret",
    run: locationConstant,
  },
  {
    id: "lifecycle.before-open",
    title: "before open everything rejects with ADAPTER_CLOSED",
    run: (context) => assertAllClosed(context, context.create(), "before open"),
  },
  {
    id: "lifecycle.after-close",
    title: "after close everything rejects with ADAPTER_CLOSED",
    async run(context) {
      const adapter = await context.open();
      await adapter.close();
      await assertAllClosed(context, adapter, "after close");
    },
  },
  {
    id: "lifecycle.idempotent",
    title: "open and close may be called again",
    async run(context) {
      const adapter = await context.open();
      await context.openAdapter(adapter);
      const item = sample(context, 1, 100);
      await storeAll(context, adapter, [item]);
      await assertWhole(context, adapter, item);
      await Promise.all([adapter.close(), adapter.close()]);
      await adapter.close();
      await context.create().close();
    },
  },
  {
    id: "lifecycle.open-aborted",
    title: "an aborted open rejects with ABORTED or succeeds, and does no harm to a later one",
    async run(context) {
      const adapter = context.create();
      await context.openAdapter(adapter, AbortSignal.abort()).catch((error: unknown) => {
        assert.ok(hasCode(error, "ABORTED"), `an aborted open rejected with ${String(error)}, not ABORTED`);
      });
      await adapter.close();
      const item = sample(context, 1, 300);
      const later = await context.open();
      await storeAll(context, later, [item]);
      await assertWhole(context, later, item);
    },
  },
  {
    id: "lifecycle.status",
    title: "status is plain JSON with isHealthy and type",
    async run(context) {
      const adapter = await context.open();
      const status = adapter.status();
      assert.equal(status.isHealthy, true, "an open adapter on a good place is not healthy");
      assert.ok(typeof status.type === "string" && status.type.length > 0, "status.type is empty");
      assert.deepEqual(JSON.parse(JSON.stringify(status)), status, "status is not plain JSON");
    },
  },
  { id: "close.drains", title: "close settles operations in flight first", run: closeDrains },
  { id: "reopen.keeps", title: "a new adapter finds exactly what `persistent` promises", run: reopenKeeps },
  {
    id: "shared.visible",
    title: "a second adapter on the same place sees what the first stored",
    excuse: needs("shared", true),
    async run(context) {
      const writer = await context.open();
      const reader = await context.open();
      const items = [1, 2].map((n) => sample(context, n, 900));
      await storeAll(context, writer, items);
      for (const item of items) await assertWhole(context, reader, item);
    },
  },
];

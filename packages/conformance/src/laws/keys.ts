import { strict as assert } from "node:assert";
import { decodeObjectKey, isCacheError, keyString, type L2Adapter, type ObjectKey } from "@cache/contracts";
import { type KeyListEntry, type ObjectKeyFields, objectKey } from "@cache/contracts";
import { assertWhole, holdsPattern, type Law, type LawContext, loadOne, needs } from "../law.ts";
import { type Sample, sample, sampleKey, storeAll } from "../law.ts";

const MODELS = [
  "plain",
  "org/name",
  "a/b/c/d",
  "../../escape",
  "..",
  ".",
  "/absolute",
  "trailing/",
  "double//slash",
  "white space",
  "percent%2Fname",
  "plus+and&amp;?#",
  "star*[x]{y}",
  "back\\slash",
  "quote'\"`$(x)",
  "line\nbreak",
  "ünïcode-模型-🚀",
  "-leading-dash",
  "C:drive",
  "m".repeat(512),
];
const SALTS = ["tenant", "..", ".", "ü salt+%", "a b", "%2F", "*?", "'\"", "s".repeat(128), "🚀".repeat(128)];

/** Groups whose names fall together in careless encodings: `/` replaced, case or accents folded, parts joined. */
const LOOKALIKES: readonly (readonly Partial<ObjectKeyFields>[])[] = [
  ["a/b", "a-SEP-b", "a--b", "a_b", "a%2Fb", "a%2fb", "a b", "a+b", "a:b"].map((modelName) => ({
    modelName,
  })),
  ["Model", "model", "MODEL"].map((modelName) => ({ modelName })),
  ["é", "e\u0301"].map((modelName) => ({ modelName })),
  ["x", "x.", "x ", "x/", "./x", "x/../x"].map((modelName) => ({ modelName })),
  ["", "0", ".data", "x.data"].map((cacheSalt) => ({ cacheSalt })),
  [
    { kvRank: 0x01000100, objectGroupId: 0x10 },
    { kvRank: 0x10001000, objectGroupId: 0x1 },
    { kvRank: 1, objectGroupId: 0x0100 },
  ],
];

/** Stores one key; false if the adapter refused it, which must be typed. */
async function tryStore(context: LawContext, adapter: L2Adapter, item: Sample): Promise<boolean> {
  try {
    const result = await adapter.store([item.key], [item.source], context.signal);
    return result.stored.has(0);
  } catch (error) {
    assert.ok(isCacheError(error), `a key was refused with ${String(error)}`);
    return false;
  }
}

async function tryLoad(
  context: LawContext,
  adapter: L2Adapter,
  key: ObjectKey,
  byteLength: number,
): Promise<Uint8Array | null> {
  try {
    return await loadOne(context, adapter, key, byteLength);
  } catch (error) {
    assert.ok(isCacheError(error), `a key was refused with ${String(error)}`);
    return null;
  }
}

/** Stores each, then requires that each reads back its own bytes or, if refused, nothing. */
async function storeApart(
  context: LawContext,
  adapter: L2Adapter,
  items: readonly Sample[],
): Promise<number> {
  const stored: boolean[] = [];
  for (const item of items) stored.push(await tryStore(context, adapter, item));
  for (const [i, item] of items.entries()) {
    const bytes = await tryLoad(context, adapter, item.key, item.source.bytes.length);
    const name = JSON.stringify(keyString(item.key)).slice(0, 120);
    if (stored[i] === true) {
      assert.ok(bytes !== null, `stored and not loadable: ${name}`);
      assert.ok(holdsPattern(bytes, item.patternSeed), `another key's bytes came back for ${name}`);
    } else {
      assert.equal(bytes, null, `store refused ${name}, and load finds something there`);
    }
  }
  return stored.filter(Boolean).length;
}

async function isolation(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const base = sampleKey(1);
  const fields: ObjectKeyFields[] = [
    base,
    { ...base, cacheSalt: "tenant-a" },
    { ...base, cacheSalt: "tenant-b" },
    { ...base, modelName: "conformance/other" },
    { ...base, kvRank: 0x02010201 },
    { ...base, objectGroupId: 1 },
    { ...base, chunkHash: Buffer.concat([base.chunkHash, Buffer.from([0])]) },
    { ...base, chunkHash: base.chunkHash.subarray(0, 31) },
  ];
  const keys = fields.map((one) => objectKey(one));
  for (const [i, key] of keys.entries()) {
    assert.equal(await loadOne(context, adapter, key, 256), null, `key ${i} is there before it was stored`);
    await storeAll(context, adapter, [sample(context, 100 + i, 256, key)]);
  }
  for (const [i, key] of keys.entries()) {
    const bytes = await loadOne(context, adapter, key, 256);
    assert.ok(bytes !== null && holdsPattern(bytes, 100 + i), `key ${i} gives another key's bytes`);
  }
}

async function hostileKeys(context: LawContext): Promise<void> {
  const adapter = await context.open();
  const fields: Partial<ObjectKeyFields>[] = [
    ...MODELS.map((modelName) => ({ modelName })),
    ...SALTS.map((cacheSalt) => ({ cacheSalt })),
    { kvRank: 0 },
    { kvRank: 0xffffffff, objectGroupId: 0xffffffff },
    { chunkHash: Buffer.from([0]) },
    { chunkHash: Buffer.alloc(64, 0xff) },
  ];
  // All with one hash, so that nothing but the hostile field keeps them apart.
  const items = fields.map((one, n) => sample(context, n + 1, 200, sampleKey(7, one)));
  const stored = await storeApart(context, adapter, items);
  if (stored < items.length)
    context.note(`${items.length - stored} of ${items.length} hostile keys were refused`);
  assert.equal(
    await tryStore(context, adapter, sample(context, 999, 200)),
    true,
    "a plain key after hostile ones",
  );
}

async function lookalikes(context: LawContext): Promise<void> {
  const adapter = await context.open();
  let n = 0;
  for (const group of LOOKALIKES) {
    const items = group.map((fields) => sample(context, ++n, 200, sampleKey(8, fields)));
    await storeApart(context, adapter, items);
  }
}

async function readPages(
  context: LawContext,
  adapter: L2Adapter,
  pageSize: number,
  modelName?: string,
): Promise<KeyListEntry[]> {
  assert.ok(adapter.listKeys !== undefined, "the manifest says listKeys: true and it is absent");
  const entries: KeyListEntry[] = [];
  let pageToken: string | undefined;
  for (let pages = 0; pages < 10_000; pages++) {
    const page = await adapter.listKeys({ pageSize, pageToken, modelName }, context.signal);
    assert.ok(
      page.entries.length <= pageSize,
      `a page of ${page.entries.length} entries for size ${pageSize}`,
    );
    entries.push(...page.entries);
    if (page.nextPageToken === null) return entries;
    pageToken = page.nextPageToken;
  }
  throw new Error("listKeys never says that a page is the last");
}

async function listExactly(context: LawContext): Promise<void> {
  const adapter = await context.open();
  assert.deepEqual(await readPages(context, adapter, 10), [], "an empty place lists keys");
  const items = Array.from({ length: 23 }, (_, n) =>
    sample(
      context,
      n + 1,
      100 + n,
      sampleKey(n, {
        modelName: n % 3 === 0 ? "org/listed" : "other",
        cacheSalt: n % 2 === 0 ? "" : "tenant",
      }),
    ),
  );
  await storeAll(context, adapter, items);
  const expected = (chosen: readonly Sample[]): string[] =>
    chosen.map((item) => `${keyString(item.key)} ${item.source.bytes.length}`).toSorted();
  const listed = (entries: readonly KeyListEntry[]): string[] =>
    entries.map((entry) => `${keyString(decodeObjectKey(entry.key))} ${entry.size_bytes}`).toSorted();
  for (const pageSize of [1, 5, 23, 24, 5000]) {
    const entries = await readPages(context, adapter, pageSize);
    assert.deepEqual(listed(entries), expected(items), `pages of ${pageSize}`);
  }
  const ofModel = await readPages(context, adapter, 4, "org/listed");
  assert.deepEqual(listed(ofModel), expected(items.filter((item) => item.key.modelName === "org/listed")));
  assert.deepEqual(await readPages(context, adapter, 4, "nobody"), [], "keys of a model that stored none");
}

async function listRefuses(context: LawContext): Promise<void> {
  const adapter = await context.open();
  await storeAll(context, adapter, [sample(context, 1, 100)]);
  for (const pageSize of [0, -1, 1.5, 5001, Number.NaN]) {
    await assert.rejects(
      async () => adapter.listKeys?.({ pageSize }, context.signal),
      isCacheError,
      `pageSize ${pageSize} must be refused`,
    );
  }
  for (const pageToken of ["", "../../etc/passwd", "x".repeat(10_000), "\0", "%", "-1"]) {
    // A token comes from outside: an answer or a typed refusal, never anything else (checked on each call).
    await adapter.listKeys?.({ pageSize: 10, pageToken }, context.signal).catch(() => undefined);
  }
  await assertWhole(context, adapter, sample(context, 1, 100));
}

/** Laws about keys: apart from each other, hostile ones, listing. */
export const KEY_LAWS: readonly Law[] = [
  { id: "keys.isolation", title: "salt, model, rank, group and hash keep objects apart", run: isolation },
  {
    id: "keys.hostile",
    title: "hostile keys are stored apart or refused with a typed error",
    run: hostileKeys,
  },
  { id: "keys.lookalikes", title: "keys that look alike never share an object", run: lookalikes },
  {
    id: "list.exact",
    title: "pages of any size list exactly what is there",
    excuse: needs("listKeys", true),
    run: listExactly,
  },
  {
    id: "list.refuses",
    title: "bad page sizes and tokens are refused with a typed error",
    excuse: needs("listKeys", true),
    run: listRefuses,
  },
];

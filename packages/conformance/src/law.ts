import { strict as assert } from "node:assert";
import type { L2Adapter, L2Capabilities, MemoryObj, ObjectKey, SizedKey } from "@cache/contracts";
import { type ObjectKeyFields, objectKey } from "@cache/contracts";
import type { Arena } from "./arena.ts";
import type { AdapterHarness } from "./harness.ts";
import { fillPattern, type Prng } from "./prng.ts";

/** What a law works with: a place of its own and an arena of its own. */
export interface LawContext {
  readonly harness: AdapterHarness;
  readonly arena: Arena;
  readonly capabilities: L2Capabilities;
  readonly random: Prng;
  /** Never aborted. */
  readonly signal: AbortSignal;
  /** How long the suite watches buffers for writes that come after an operation has settled, in milliseconds. */
  readonly lateWriteGraceMs: number;
  /** An adapter as the factory made it, closed by the suite in the end. */
  createRaw(): L2Adapter;
  /** The same behind checks that hold for every call: shapes of answers, codes of rejections. */
  create(): L2Adapter;
  /** A checked adapter, opened. */
  open(): Promise<L2Adapter>;
  /** Opens an adapter of {@link create} or {@link createRaw}. */
  openAdapter(adapter: L2Adapter, signal?: AbortSignal): Promise<void>;
  /** A line beside the law's own, e.g. a size that was left out and why. */
  note(line: string): void;
}

/** One rule of the adapter contract, and how it is tried. */
export interface Law {
  /** Stable name, `group.rule`. */
  readonly id: string;
  /** The rule as a sentence. */
  readonly title: string;
  /** The capability that excuses the adapter from this law, as `name: value`; null if it must hold. */
  excuse?(capabilities: L2Capabilities): string | null;
  run(context: LawContext): Promise<void>;
}

/** An object that a law stores: key, bytes, and the seed of the bytes. */
export interface Sample {
  readonly key: ObjectKey;
  readonly source: MemoryObj;
  readonly patternSeed: number;
}

/** A key that differs from every other `n` in its 32-byte hash. */
export function sampleKey(n: number, fields: Partial<ObjectKeyFields> = {}): ObjectKey {
  const chunkHash = Buffer.alloc(32);
  fillPattern(chunkHash, n * 2654435761 + 17);
  chunkHash.writeUInt32BE(n >>> 0, 0);
  return objectKey({ chunkHash, modelName: "conformance/model", kvRank: 0x01000100, ...fields });
}

/** An object with a pattern of its own, in the arena. */
export function sample(context: LawContext, n: number, byteLength: number, key = sampleKey(n)): Sample {
  const source = context.arena.allocate(byteLength);
  fillPattern(source.bytes, n);
  return { key, source, patternSeed: n };
}

/** The request for a sample at its true length. */
export function sized(item: Sample): SizedKey {
  return { key: item.key, byteLength: item.source.bytes.length };
}

/** True if the bytes are the sample's. */
export function holdsPattern(bytes: Uint8Array, patternSeed: number): boolean {
  const expected = new Uint8Array(bytes.length);
  fillPattern(expected, patternSeed);
  return Buffer.compare(bytes, expected) === 0;
}

/** Stores the samples in one call, or in as many as the manifest demands, and requires every bit. */
export async function storeAll(
  context: LawContext,
  adapter: L2Adapter,
  items: readonly Sample[],
): Promise<void> {
  const step = Math.max(1, context.capabilities.maxBatchKeys);
  for (let at = 0; at < items.length; at += step) {
    const part = items.slice(at, at + step);
    const result = await adapter.store(
      part.map((item) => item.key),
      part.map((item) => item.source),
      context.signal,
    );
    for (let i = 0; i < part.length; i++) {
      assert.ok(result.stored.has(i), `store refused key ${at + i}: ${result.failed.get(i)?.message ?? "?"}`);
    }
  }
}

/** Looks one key up and gives the lock back at once. */
export async function isThere(
  context: LawContext,
  adapter: L2Adapter,
  key: ObjectKey,
  byteLength: number,
): Promise<boolean> {
  const found = await adapter.lookupAndLock([{ key, byteLength }], context.signal);
  if (!found.has(0)) return false;
  adapter.unlock([key]);
  return true;
}

/** Loads one key into a new buffer of the arena; null if its bit is clear. */
export async function loadOne(
  context: LawContext,
  adapter: L2Adapter,
  key: ObjectKey,
  byteLength: number,
): Promise<Uint8Array | null> {
  const into = context.arena.allocate(byteLength);
  into.bytes.fill(0x11);
  const loaded = await adapter.load([{ key, byteLength }], [into], context.signal);
  return loaded.has(0) ? into.bytes : null;
}

/** Requires that the sample is there, whole. */
export async function assertWhole(context: LawContext, adapter: L2Adapter, item: Sample): Promise<void> {
  const { key, source, patternSeed } = item;
  assert.ok(
    await isThere(context, adapter, key, source.bytes.length),
    `lookup misses a stored object of ${source.bytes.length} bytes`,
  );
  const bytes = await loadOne(context, adapter, key, source.bytes.length);
  assert.ok(bytes !== null, `load misses a stored object of ${source.bytes.length} bytes`);
  assert.ok(
    holdsPattern(bytes, patternSeed),
    `load gave other bytes than were stored (${bytes.length} bytes)`,
  );
}

/** Waits for `count` turns of the event loop. */
export async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

/**
 * Watches for what must not happen: a write after an operation has settled. There is no condition to wait for,
 * so this is the one place of the suite that lets time pass.
 */
export async function graceForLateWrites(context: LawContext): Promise<void> {
  await new Promise<void>((resolve) => setTimeout(resolve, context.lateWriteGraceMs));
  await turns(2);
}

/** `delete` where the manifest offers it. */
export function deleteOf(adapter: L2Adapter): NonNullable<L2Adapter["delete"]> {
  assert.ok(adapter.delete !== undefined, "the manifest says delete: true and there is no delete");
  return adapter.delete.bind(adapter);
}

/** Excuses an adapter whose capability has not the wanted value. */
export function needs<Name extends keyof L2Capabilities>(
  name: Name,
  value: L2Capabilities[Name],
): (capabilities: L2Capabilities) => string | null {
  return (capabilities) =>
    capabilities[name] === value ? null : `${name}: ${JSON.stringify(capabilities[name])}`;
}

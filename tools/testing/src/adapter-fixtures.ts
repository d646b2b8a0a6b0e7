// What the tests of several adapters need. Vitest is known here, which is why it is no part of @cache/conformance.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type AdapterLog,
  type L1MemoryDesc,
  type L2Adapter,
  type MemoryObj,
  type ObjectKey,
  type ObjectKeyFields,
  objectKey,
  type OpenContext,
  type SizedKey,
} from "@cache/contracts";
import { afterEach } from "vitest";

/** A signal that never fires. */
export const never = new AbortController().signal;

/** L1 of which nothing is mapped. */
export const noL1: L1MemoryDesc = { ptr: null, size: 0, alignBytes: 4096, views: [] };

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** Runs after the test, last registered first. */
export function after(cleanup: () => Promise<unknown>): void {
  cleanups.push(cleanup);
}

/** A new directory, removed after the test. */
export async function temporaryDirectory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "cache-l2-test-"));
  after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** Waits for a condition, without a bound of its own: the runner's time-out ends it. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise<void>((resolve) => setTimeout(resolve, 2));
}

/** One log line. */
export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields: unknown;
}

/** A context for `open`; log lines go to `lines`. */
export function openContext(
  lines: LogLine[] = [],
  { id = "l2", signal = never, stateDir = null }: Partial<Omit<OpenContext, "log">> = {},
): OpenContext {
  const at =
    (level: string): AdapterLog["info"] =>
    (message, fields) =>
      void lines.push({ level, message, fields });
  const log = { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
  return { id, stateDir, log, signal };
}

/** An adapter that deletes and lists. */
export type TestAdapter = L2Adapter & Required<Pick<L2Adapter, "delete" | "listKeys">>;

/** A key of its own for each n. */
export function key(n: number, fields: Partial<ObjectKeyFields> = {}): ObjectKey {
  const chunkHash = Buffer.alloc(32);
  chunkHash.writeUInt32BE(n >>> 0, 0);
  return objectKey({ chunkHash, modelName: "org/model", kvRank: 0x01000100, ...fields });
}

/** The request for a key. */
export function sized(n: number, byteLength: number): SizedKey {
  return { key: key(n), byteLength };
}

/** A buffer of its own. */
export function memory(bytes: Uint8Array | number): MemoryObj {
  return { bytes: typeof bytes === "number" ? new Uint8Array(bytes) : bytes, poolOffset: null };
}

/** The byte at a position of object n: it tells n and every position apart. */
function patternByte(n: number, position: number): number {
  return Math.imul(position + 1, 2654435761 + n * 40503) >>> 24;
}

/** Fills memory with the bytes of object n. */
export function fillPattern(bytes: Uint8Array, n: number): Uint8Array {
  for (let i = 0; i < bytes.length; i++) bytes[i] = patternByte(n, i);
  return bytes;
}

/** The bytes of object n. */
export function pattern(n: number, byteLength: number): Uint8Array {
  return fillPattern(new Uint8Array(byteLength), n);
}

/** True if these are the bytes of object n. */
export function isPattern(bytes: Uint8Array, n: number): boolean {
  return bytes.every((byte, i) => byte === patternByte(n, i));
}

/** The bytes of a key, null if it is a miss. */
export async function loadOne(
  adapter: L2Adapter,
  k: ObjectKey,
  byteLength: number,
  { into = memory(byteLength), signal = never } = {},
): Promise<Uint8Array | null> {
  const loaded = await adapter.load([{ key: k, byteLength }], [into], signal);
  return loaded.has(0) ? into.bytes : null;
}

/** Stores objects, requires that all were acknowledged, and tells how many bytes were written. */
export async function storeAll(
  adapter: L2Adapter,
  keys: readonly ObjectKey[],
  objects: readonly MemoryObj[],
): Promise<number> {
  const result = await adapter.store(keys, objects, never);
  const [failure] = result.failed.values();
  if (failure !== undefined) throw failure;
  return result.bytesTransferred;
}

/** Stores one object and requires that it was acknowledged. */
export function storeOne(adapter: L2Adapter, k: ObjectKey, bytes: Uint8Array): Promise<number> {
  return storeAll(adapter, [k], [memory(bytes)]);
}

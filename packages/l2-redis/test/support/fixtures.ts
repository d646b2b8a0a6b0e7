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
import { createRedisAdapter } from "../../src/adapter.ts";
import { redisConfigSchema } from "../../src/config.ts";

/** L1 of which nothing is mapped. */
export const noL1: L1MemoryDesc = { ptr: null, size: 0, alignBytes: 4096, views: [] };
export const never = new AbortController().signal;

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
  const path = await mkdtemp(join(tmpdir(), "cache-l2-redis-test-"));
  after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** One log line. */
export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields: unknown;
}

/** A context for `open`; log lines go to `lines`. */
export function openContext(lines: LogLine[] = [], signal = never): OpenContext {
  const at =
    (level: string): AdapterLog["info"] =>
    (message, fields) =>
      void lines.push({ level, message, fields });
  const log = { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
  return { id: "redis", stateDir: null, log, signal };
}

export type TestAdapter = L2Adapter & Required<Pick<L2Adapter, "delete" | "listKeys">>;

/** An adapter, open, closed after the test. */
export async function openRedis(
  config: Record<string, unknown>,
  lines: LogLine[] = [],
): Promise<TestAdapter> {
  const adapter = createRedisAdapter(
    redisConfigSchema.parse({ num_workers: 4, ...config }),
    noL1,
  ) as TestAdapter;
  after(() => adapter.close());
  await adapter.open(openContext(lines));
  return adapter;
}

/** A key of its own for each n. */
export function key(n: number, fields: Partial<ObjectKeyFields> = {}): ObjectKey {
  const chunkHash = Buffer.alloc(32);
  chunkHash.writeUInt32BE(n >>> 0, 0);
  return objectKey({ chunkHash, modelName: "org/model", kvRank: 0x01000100, ...fields });
}

/** A buffer of its own. */
export function memory(bytes: Uint8Array | number): MemoryObj {
  return { bytes: typeof bytes === "number" ? new Uint8Array(bytes) : bytes, poolOffset: null };
}

/** Bytes that tell n and every position apart. */
export function pattern(n: number, byteLength: number): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  for (let i = 0; i < byteLength; i++) bytes[i] = Math.imul(i + 1, 2654435761 + n * 40503) >>> 24;
  return bytes;
}

/** The request for a key. */
export function sized(n: number, byteLength: number): SizedKey {
  return { key: key(n), byteLength };
}

/** The bytes of a key, null if it is a miss. */
export async function loadOne(
  adapter: L2Adapter,
  k: ObjectKey,
  byteLength: number,
  signal = never,
): Promise<Uint8Array | null> {
  const into = memory(byteLength);
  const loaded = await adapter.load([{ key: k, byteLength }], [into], signal);
  return loaded.has(0) ? into.bytes : null;
}

/** Stores one object and requires that it was acknowledged. */
export async function storeOne(adapter: L2Adapter, k: ObjectKey, bytes: Uint8Array): Promise<number> {
  const result = await adapter.store([k], [memory(bytes)], never);
  const failure = result.failed.get(0);
  if (failure !== undefined) throw failure;
  return result.bytesTransferred;
}

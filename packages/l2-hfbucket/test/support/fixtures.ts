import {
  type L1MemoryDesc,
  type L2Adapter,
  type MemoryObj,
  type ObjectKey,
  objectKey,
} from "@cache/contracts";
import type { AdapterLog, ObjectKeyFields, OpenContext, SizedKey } from "@cache/contracts";
import { afterEach } from "vitest";
import { type Hub, startHub } from "../../../../tools/hub/server.mjs";
import { createHfBucketAdapter } from "../../src/adapter.ts";
import { hfBucketConfigSchema } from "../../src/config.ts";

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** Runs after the test, last registered first. */
export function after(cleanup: () => Promise<unknown>): void {
  cleanups.push(cleanup);
}

/** A signal that never fires. */
export const never = new AbortController().signal;

/** No mapped L1. */
export const noL1: L1MemoryDesc = { ptr: null, size: 0, alignBytes: 4096, views: [] };

export const TOKEN = "hf_S3cretOfTheTests";
export const BUCKET = "team/cache";
export const HANDLE = `hf://buckets/${BUCKET}/kv/prod`;

/** A Hub with an empty bucket, ended after the test. */
export async function newHub(): Promise<Hub> {
  const hub = await startHub({ token: TOKEN });
  after(() => hub.close());
  hub.buckets.create(BUCKET);
  return hub;
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
  return { id: "hfbucket", stateDir: null, log, signal };
}

export type TestAdapter = L2Adapter & Required<Pick<L2Adapter, "delete" | "listKeys">>;

/** An adapter that is not open yet, closed after the test. */
export function newAdapter(hub: Hub, config: Record<string, unknown> = {}): TestAdapter {
  const options = { bucket_handle: HANDLE, token_env: "", token: TOKEN, endpoint: hub.url, ...config };
  const adapter = createHfBucketAdapter(hfBucketConfigSchema.parse(options), noL1) as TestAdapter;
  after(() => adapter.close());
  return adapter;
}

/** An open adapter with one thread and without memory of what is there. */
export async function openAdapter(
  hub: Hub,
  config: Record<string, unknown> = {},
  lines: LogLine[] = [],
): Promise<TestAdapter> {
  const adapter = newAdapter(hub, { num_workers: 1, metadata_cache_ttl_secs: 0, ...config });
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
  n: number,
  byteLength: number,
  signal = never,
): Promise<Uint8Array | null> {
  const into = memory(byteLength);
  const loaded = await adapter.load([sized(n, byteLength)], [into], signal);
  return loaded.has(0) ? into.bytes : null;
}

/** Stores the patterns of keys and requires that all were acknowledged. */
export async function storePatterns(
  adapter: L2Adapter,
  numbers: readonly number[],
  byteLength: number,
): Promise<number> {
  const objects = numbers.map((n) => memory(pattern(n, byteLength)));
  const result = await adapter.store(
    numbers.map((n) => key(n)),
    objects,
    never,
  );
  const [failure] = result.failed.values();
  if (failure !== undefined) throw failure;
  return result.bytesTransferred;
}

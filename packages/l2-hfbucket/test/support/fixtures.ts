import type { L2Adapter } from "@cache/contracts";
import { type Hub, startHub } from "../../../../tools/hub/server.mjs";
import {
  after,
  key,
  loadOne,
  type LogLine,
  memory,
  noL1,
  openContext,
  pattern,
  storeAll,
  type TestAdapter,
} from "../../../../tools/testing/src/adapter-fixtures.ts";
import { createHfBucketAdapter } from "../../src/adapter.ts";
import { hfBucketConfigSchema } from "../../src/config.ts";

export {
  after,
  key,
  type LogLine,
  memory,
  never,
  noL1,
  openContext,
  pattern,
  sized,
  type TestAdapter,
} from "../../../../tools/testing/src/adapter-fixtures.ts";

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

/** The bytes of object n, null if it is a miss. */
export function loadNth(
  adapter: L2Adapter,
  n: number,
  byteLength: number,
  signal?: AbortSignal,
): Promise<Uint8Array | null> {
  return loadOne(adapter, key(n), byteLength, { signal });
}

/** Stores the patterns of keys and requires that all were acknowledged. */
export function storePatterns(
  adapter: L2Adapter,
  numbers: readonly number[],
  byteLength: number,
): Promise<number> {
  const keys = numbers.map((n) => key(n));
  return storeAll(
    adapter,
    keys,
    numbers.map((n) => memory(pattern(n, byteLength))),
  );
}

import { type L1MemoryDesc, type L2Adapter, PERCENT_ENCODED_NAMES } from "@cache/contracts";
import { createSimpleAdapter } from "@cache/simple-store";
import { BucketStore } from "./bucket-store.ts";
import type { HfBucketConfig } from "./config.ts";
import { placeOf } from "./settings.ts";

const GIB = 1024 ** 3;
/** Most keys of one operation: the way to the Hub is long, and each operation has a deadline. */
const OPERATION_KEYS = 64;
/** Most bytes of one upload, which is one change of the bucket. */
const BATCH_BYTES = 16 * 1024 * 1024;
/** Calls that wait for the Hub beside each other, for each thread. */
const CALLS_PER_THREAD = 4;
/** What one thread packs in a call's time, also on a slow machine. */
const OBJECT_BYTES_MAX = 256 * 1024 * 1024;
/** A call that takes longer fails, in milliseconds. Loads and stores have nearer deadlines of their own. */
const CALL_TIMEOUT_MS = 60_000;

/**
 * Makes the adapter on a bucket of the Hugging Face Hub: one file an object, with the names and the bytes of LMCache's
 * `hfbucket` adapter. No I/O before `open`.
 *
 * @throws CacheError `INVALID_CONFIG` if `HF_ENDPOINT` is needed and is no URL.
 */
export function createHfBucketAdapter(config: HfBucketConfig, _l1?: L1MemoryDesc): L2Adapter {
  const place = placeOf(config);
  const store = new BucketStore(config, place);
  const capacityBytes = Math.floor(config.max_capacity_gb * GIB);
  const secrets = [config.token ?? "", process.env[config.token_env] ?? ""];
  return createSimpleAdapter(store, {
    type: "hfbucket",
    location: place.location,
    persistent: true,
    shared: true,
    names: PERCENT_ENCODED_NAMES,
    prefix: place.namePrefix,
    ...(capacityBytes > 0 ? { capacityBytes } : {}),
    concurrency: config.num_workers * CALLS_PER_THREAD,
    callTimeoutMs: CALL_TIMEOUT_MS,
    maxBatchKeys: OPERATION_KEYS,
    maxObjectBytes: OBJECT_BYTES_MAX,
    batchKeys: OPERATION_KEYS,
    batchBytes: BATCH_BYTES,
    zeroCopyPut: true,
    secrets,
    status: () => ({
      endpoint: place.endpoint,
      bucket: place.bucketId,
      verify_content: config.verify_content,
      ...store.figures,
    }),
  });
}

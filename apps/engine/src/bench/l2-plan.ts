import { CacheError, type ObjectKey, objectKey } from "@cache/contracts";

/** The three operations, in the order in which they run. */
export type L2Operation = "Store" | "Lookup" | "Load";

/** What `bench l2` measures: the flags of `lmcache bench l2` (0.5.6), whose rounds and keys these are. */
export interface L2BenchPlan {
  /** Keys in one call. */
  readonly numKeys: number;
  /** Calls of a round that are under way together. */
  readonly inFlight: number;
  /** Of one object. */
  readonly dataSizeBytes: number;
  /** Measured rounds of each operation. */
  readonly rounds: number;
  /** Rounds before these, which are not measured. */
  readonly warmupRounds: number;
  /** Share of the looked-up keys that may be there, 0 to 1. */
  readonly lookupMaxHitRate: number;
  /** Compare what the last round loaded with what it stored. */
  readonly verify: boolean;
  readonly only: L2Operation | null;
}

/** Bytes that are stored and loaded at a time: beyond this a benchmark has nothing more to tell. */
const BUFFER_BYTES_MAX = 64 * 2 ** 30;
const MODEL = "bench-model";
const HASH_BYTES = 16;
/** The number of a key is its kv rank too, which has 32 bits. */
const KEYS_MAX = 2 ** 32;

/** Keys of one round. */
export function keysPerRound(plan: L2BenchPlan): number {
  return plan.numKeys * plan.inFlight;
}

/**
 * Refuses what cannot be run.
 *
 * @throws CacheError `INVALID_ARGUMENT`.
 */
export function checkPlan(plan: L2BenchPlan): void {
  const bytes = 2 * keysPerRound(plan) * plan.dataSizeBytes;
  if (bytes > BUFFER_BYTES_MAX) {
    throw new CacheError(
      "INVALID_ARGUMENT",
      `--num-keys, --in-flight and --data-size-kb need ${bytes} bytes of buffers, at most ${BUFFER_BYTES_MAX}`,
    );
  }
  const keys = 2 * keysPerRound(plan) * (plan.rounds + plan.warmupRounds);
  if (keys > KEYS_MAX) {
    throw new CacheError(
      "INVALID_ARGUMENT",
      `${keys} keys, at most ${KEYS_MAX}: fewer --rounds or --num-keys`,
    );
  }
}

/** The calls of a round that stores or loads. Rounds count from 0, warm-up first. */
export function transferKeys(plan: L2BenchPlan, round: number): ObjectKey[][] {
  const base = round * keysPerRound(plan);
  return Array.from({ length: plan.inFlight }, (_, call) =>
    numbered(base + call * plan.numKeys, plan.numKeys),
  );
}

/** The calls of a round that looks up: first keys that may be there, then keys that nobody ever stored. */
export function lookupKeys(plan: L2BenchPlan, round: number): ObjectKey[][] {
  const hits = Math.floor(keysPerRound(plan) * plan.lookupMaxHitRate);
  const misses = keysPerRound(plan) - hits;
  const never = (plan.rounds + plan.warmupRounds) * keysPerRound(plan);
  const keys = [...numbered(round * hits, hits), ...numbered(never + round * misses, misses)];
  return Array.from({ length: plan.inFlight }, (_, call) =>
    keys.slice(call * plan.numKeys, (call + 1) * plan.numKeys),
  );
}

/** Hits of all measured rounds, as LMCache counts them: scaled from all rounds, rounded down. */
export function expectedHits(plan: L2BenchPlan): number {
  const measured = Math.floor(keysPerRound(plan) * plan.lookupMaxHitRate) * plan.rounds;
  return Math.floor((measured * plan.rounds) / Math.max(1, plan.rounds + plan.warmupRounds));
}

/** Keys `first`, `first + 1`, …: the number is the hash (16 bytes, big-endian) and the kv rank. */
function numbered(first: number, count: number): ObjectKey[] {
  return Array.from({ length: count }, (_, index) => {
    const chunkHash = Buffer.alloc(HASH_BYTES);
    chunkHash.writeBigUInt64BE(BigInt(first + index), HASH_BYTES - 8);
    return objectKey({ chunkHash, modelName: MODEL, kvRank: first + index });
  });
}

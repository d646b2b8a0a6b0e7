/** Everything that the storage manager lets an operator choose. Times in milliseconds, sizes in bytes. */
export interface StorageManagerOptions {
  /** Another namespace for keys at rest; "" for LMCache's own. */
  readonly cacheIdentity: string;
  /** `LRU`: oldest first, tails of prefixes before their heads. `noop`: L1 never evicts. */
  readonly evictionPolicy: "LRU" | "noop";
  /** L1 is evicted from this used fraction on (0..1). */
  readonly evictionWatermark: number;
  /** Fraction of L1 that one eviction frees (0..1). */
  readonly evictionRatio: number;
  /** `skip_l1`: an object leaves L1 once L2 has it. */
  readonly storePolicy: "default" | "skip_l1";
  /** `retain`: what was loaded from L2 stays in L1; `default`: it leaves after its last reader. */
  readonly prefetchPolicy: "default" | "retain";
  readonly prefetchMaxInFlight: number;
  /** Lookups that wait for a free prefetch place; beyond them the answer is what L1 has. */
  readonly prefetchQueueMax: number;
  readonly prefetchBaseMs: number;
  readonly prefetchMsPer1024Tokens: number;
  readonly prefetchMsMax: number;
  /** How long `prepare_store` waits for room; the client's model thread waits with it. */
  readonly storeWaitMs: number;
  readonly storeWaitersMax: number;
  /** A lookup's locks end this long after the last one on the object. */
  readonly readTtlMs: number;
  /** After this time a hand-out may be recognised as given up by a living client. */
  readonly writeTtlMs: number;
  /** Silence after which an instance's hand-outs are over where nothing can be proven. */
  readonly clientGraceMs: number;
  /** Silence after which an instance that has pinged is dropped; 0 never. */
  readonly reapMs: number;
  /** The same for one that never pinged; 0 never. */
  readonly reapUnpingedMs: number;
  readonly sessionTtlMs: number;
  readonly sessionsMax: number;
  readonly clientsMax: number;
  /** Stores of one batch to an adapter. */
  readonly storeBatchKeysMax: number;
  readonly storeBatchBytesMax: number;
  /** Batches in flight to one adapter. */
  readonly storeInFlightMax: number;
  /** Tries of one object's store before it is given up. */
  readonly storeAttemptsMax: number;
  /** A store is not given up before this time has passed since its first failure. */
  readonly storeGiveUpMs: number;
  /** Buffers for adapters where the pool is not mapped. */
  readonly bounceBytesMax: number;
  /** Tokens of a chunk, for deadlines. */
  readonly chunkTokens: number;
  /** Write token records of stored chunks (for KV events). */
  readonly tokenRecords: boolean;
  /** Changes that KV-event subscribers may lag behind; 0: no KV events, and no token records. */
  readonly kvEventLogSize: number;
  /** Pause between two reconciliations of an adapter. */
  readonly reconcileMs: number;
  /** A listed object that no event names is adopted once it is this old. */
  readonly adoptAgeMs: number;
  /** Objects that listings may add to the account of one adapter. */
  readonly adoptedKeysMax: number;
  /** A snapshot is made after this many journal bytes at the latest; earlier where the state is small. */
  readonly snapshotBytes: number;
}

/** The defaults, as `config check` shows them. */
export const DEFAULT_OPTIONS: StorageManagerOptions = Object.freeze({
  cacheIdentity: "",
  evictionPolicy: "LRU",
  evictionWatermark: 0.8,
  evictionRatio: 0.2,
  storePolicy: "default",
  prefetchPolicy: "default",
  prefetchMaxInFlight: 8,
  prefetchQueueMax: 256,
  prefetchBaseMs: 2_000,
  prefetchMsPer1024Tokens: 100,
  prefetchMsMax: 30_000,
  storeWaitMs: 200,
  storeWaitersMax: 64,
  readTtlMs: 300_000,
  writeTtlMs: 600_000,
  clientGraceMs: 600_000,
  reapMs: 120_000,
  reapUnpingedMs: 3_600_000,
  sessionTtlMs: 600_000,
  sessionsMax: 8_192,
  clientsMax: 1_024,
  storeBatchKeysMax: 64,
  storeBatchBytesMax: 64 * 1024 * 1024,
  storeInFlightMax: 2,
  storeAttemptsMax: 5,
  storeGiveUpMs: 60_000,
  bounceBytesMax: 64 * 1024 * 1024,
  chunkTokens: 256,
  tokenRecords: true,
  kvEventLogSize: 32_768,
  reconcileMs: 3_600_000,
  adoptAgeMs: 60_000,
  adoptedKeysMax: 1_000_000,
  snapshotBytes: 32 * 1024 * 1024,
});

/** Time and timers, replaceable in tests. `now` is monotonic, in milliseconds. */
export interface Clock {
  now(): number;
  /** Calls back once after `ms`; never keeps the process alive. Returns how to cancel. */
  after(ms: number, callback: () => void): () => void;
}

/** The machine's clock. */
export const systemClock: Clock = {
  now: () => performance.now(),
  after: (ms, callback) => {
    const timer = setTimeout(callback, ms);
    timer.unref();
    return () => clearTimeout(timer);
  },
};

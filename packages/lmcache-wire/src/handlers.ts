/** What the server does with decoded requests: implemented by the engine. The wire knows no storage. */

/** A chunk range of a request, decoded and checked, its tokens hashed. LMCache's `IPCCacheServerKey`. */
export interface ChunkRange {
  readonly modelName: string;
  readonly worldSize: number;
  /** Null: all ranks (lookup, free_lookup_locks). */
  readonly workerId: number | null;
  readonly cacheSalt: string;
  readonly requestId: string;
  readonly numKvReaders: number;
  /** First chunk of the range, and the one after its last. Lookups begin at 0. */
  readonly firstChunk: number;
  readonly endChunk: number;
  /** Digests of chunks 0..endChunk, 32 bytes each: `hashes.subarray(32 * i, 32 * i + 32)`. */
  readonly hashes: Uint8Array;
  /** Token ids of chunk i, big-endian as hashed: `chunkSize * 4` bytes. Valid only until the handler returns. */
  tokensOfChunk(chunk: number): Uint8Array;
}

/** `register_kv_cache_engine_driven_context`, checked: shape and bytes are computed from it by the engine. */
export interface EngineDrivenRegistration {
  readonly instanceId: bigint;
  readonly modelName: string;
  readonly worldSize: number;
  readonly blockSize: number;
  readonly numLayers: number;
  readonly hiddenDimSize: number;
  /** torch dtype name without prefix, one of the names with a known size. */
  readonly dtype: string;
  /** One plane instead of two. */
  readonly singlePlane: boolean;
  /** Token slots of one chunk (the chunk size if the client said nil). */
  readonly slots: number;
  /** `[layers, slots, hidden]`, or `[2, layers, slots, hidden]`. */
  readonly shape: readonly number[];
  /** Product of the shape and the item size. */
  readonly objectBytes: number;
}

/** A slot of the pool that a client copies into or out of. */
export interface SlotDesc {
  readonly offset: number;
  readonly length: number;
  readonly shape: readonly number[];
  readonly dtype: string;
}

/** Reply of `prepare_store`. */
export type PrepareStoreAnswer =
  /** Slots for some chunks; `chunkIndices` count from the range's first chunk. Empty: everything is resident and committed. */
  | { readonly kind: "slots"; readonly slots: readonly SlotDesc[]; readonly chunkIndices: readonly number[] }
  /** `{}`: an inline client gathers everything; a client with the pool reports a failed store. */
  | { readonly kind: "empty-context" };

/** One object of an inline (pickle) message. */
export interface InlineObject {
  readonly bytes: Uint8Array;
  readonly shape: readonly number[];
  readonly dtype: string;
}

/** Reply of `prepare_retrieve`. */
export type PrepareRetrieveAnswer =
  | { readonly kind: "miss" }
  | { readonly kind: "slots"; readonly slots: readonly SlotDesc[] }
  /** The server makes the pickle, on other threads perhaps. `bytes` may be views of the pool: `release` is called once they are copied. */
  | { readonly kind: "inline"; readonly objects: readonly InlineObject[]; readonly release: () => void };

/**
 * An answer that leaves after the turn's events are in the journal. A bare value stands for `{ value }`.
 */
export interface Answer<T> {
  readonly value: T;
  /** Called instead of sending if the events could not be recorded, or if the reply could not be sent: takes back what the reply would have given. */
  readonly takeBack?: () => void;
}

/** A value, an answer, or one later. */
export type Answered<T> = T | Answer<T> | Promise<T | Answer<T>>;

/** `subscribe_kv_events`, checked. */
export interface KvEventSubscription {
  readonly instanceId: bigint;
  readonly modelName: string;
  /** The last seq that the subscriber saw; 0 for nothing. */
  readonly cursor: number;
  /** Records of one batch, 1 to 1,024. */
  readonly maxEvents: number;
}

/** One change of the cache. */
export interface KvEventRecord {
  readonly seq: number;
  readonly kind: "stored" | "removed";
  readonly modelName: string;
  /** 32 bytes each. */
  readonly blockHashes: readonly Uint8Array[];
  readonly parentBlockHash: Uint8Array | null;
  /** Big-endian uint32 each. */
  readonly tokenIds: Uint8Array;
}

/** LMCache's `KVEventBatch`. */
export interface KvEventBatch {
  /** False ends the stream. */
  readonly enabled: boolean;
  readonly incarnation: bigint;
  readonly nextCursor: number;
  readonly lost: boolean;
  readonly events: readonly KvEventRecord[];
}

/** Where the batches of a stream come from. */
export interface KvEventStream {
  /** Asked once for each credit. Null: the stream is over. What it tells must be recorded already. */
  next(): Promise<KvEventBatch | null>;
  /** Settles a pending `next` with null. Idempotent. */
  close(): void;
}

/** Thrown by a handler to refuse a call: its text reaches the client where the operation has no value for "no". */
export interface LmcacheHandlers {
  getChunkSize(): number;
  /** Names of experiments that the server offers; `kv_event_stream` only with `subscribeKvEvents`. */
  getExperimental(): readonly string[];
  ping(instanceId: bigint | null): Answered<boolean>;
  registerEngineDriven(
    registration: EngineDrivenRegistration,
  ): Answered<{ shmName: string; poolSize: number }>;
  unregisterEngineDriven(instanceId: bigint): Answered<void>;
  lookup(range: ChunkRange): Answered<void>;
  /** Null while loading. */
  queryPrefetchStatus(requestId: string): Answered<number | null>;
  /** Null when the time is up. */
  waitPrefetchStatus(requestId: string, seconds: number): Answered<number | null>;
  freeLookupLocks(range: ChunkRange): Answered<void>;
  endSession(requestId: string): Answered<void>;
  prepareStore(range: ChunkRange, instanceId: bigint): Answered<PrepareStoreAnswer>;
  /** `inline` is null in SHM mode, else one object a chunk of the range. Its bytes are valid until the answer settles. */
  commitStore(
    range: ChunkRange,
    instanceId: bigint,
    inline: readonly InlineObject[] | null,
  ): Answered<boolean>;
  prepareRetrieve(range: ChunkRange, instanceId: bigint): Answered<PrepareRetrieveAnswer>;
  commitRetrieve(range: ChunkRange, instanceId: bigint): Answered<boolean>;
  clear(force: boolean): Answered<void>;
  reportBlockAllocation(instanceId: bigint): Answered<void>;
  /** Absent: refused. */
  subscribeKvEvents?(subscription: KvEventSubscription): KvEventStream;
  /** Any message that names this instance: a sign of life. */
  noteSignOfLife(instanceId: bigint): void;
  /**
   * The end of a turn (up to 32 messages or 2 ms): writes the turn's events. The replies of the turn leave once it
   * resolves; false: the events could not be recorded, answers are taken back and degraded values are sent.
   */
  commitTurn(): boolean | Promise<boolean>;
}

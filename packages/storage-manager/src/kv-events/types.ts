/** What a subscriber asks for. */
export interface KvEventSubscription {
  /** One stream an instance: a new one ends the old. */
  readonly instanceId: bigint;
  /** As registered, without what a cache identity adds. */
  readonly modelName: string;
  /** The last seq that was seen; 0 for nothing. */
  readonly cursor: number;
  /** Records of one batch, 1 to 1,024. */
  readonly maxEvents: number;
}

/** A chunk came into L1, or chunks left it. */
export interface KvEventRecord {
  readonly seq: number;
  readonly kind: "stored" | "removed";
  readonly modelName: string;
  /** 32 bytes each; exactly one of a stored record. */
  readonly blockHashes: readonly Uint8Array[];
  /** The chunk before; null for a first chunk and for removed records. */
  readonly parentBlockHash: Uint8Array | null;
  /** Big-endian uint32 each; empty for removed records. */
  readonly tokenIds: Uint8Array;
}

/** One ordered batch. A changed `incarnation`, or `lost`, tells to withdraw everything that was announced before. */
export interface KvEventBatch {
  readonly enabled: boolean;
  /** Stays while the pool is re-attached; at least 2^62. */
  readonly incarnation: bigint;
  /** Where to subscribe again. */
  readonly nextCursor: number;
  readonly lost: boolean;
  readonly events: readonly KvEventRecord[];
}

/** A running subscription. */
export interface KvEventStream {
  /** The next batch, when there is something to tell; null once the stream is over. One call at a time. */
  next(): Promise<KvEventBatch | null>;
  /** Ends the stream. Idempotent. */
  close(): void;
}

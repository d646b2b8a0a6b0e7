/** The shapes and dtypes of an object, parallel lists; LMCache's `MemoryLayoutDesc`. */
export interface MemoryLayoutDesc {
  readonly shapes: readonly (readonly number[])[];
  /** torch names without prefix, e.g. `bfloat16`. */
  readonly dtypes: readonly string[];
}

/**
 * One object's memory, owned by the caller. An adapter reads or fills exactly `bytes` and keeps no reference
 * after its operation has settled.
 */
export interface MemoryObj {
  /** The object's logical bytes: no padding. */
  readonly bytes: Uint8Array;
  /**
   * Where `bytes` begins inside the L1 memory of {@link L1MemoryDesc}, in bytes; null where the object lies in
   * a buffer of its own (no mapping, or a test). `ptr + poolOffset` is its address.
   */
  readonly poolOffset: number | null;
}

/** One mapped part of L1, at most 4 GiB; no object crosses the end of a view. */
export interface L1View {
  /** Offset of the view inside L1, in bytes. */
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** What an adapter may know about L1 memory, to register it once with its transport. */
export interface L1MemoryDesc {
  /** Address of the mapping; null where nothing is mapped. Valid while the process lives. */
  readonly ptr: bigint | null;
  /** Bytes of L1. */
  readonly size: number;
  /** Every object begins at a multiple of this, in bytes. */
  readonly alignBytes: number;
  /** Bytes from `ptr` that may be registered for good; absent where the backing may change. */
  readonly stableRegistrationSize?: number;
  /** The mapped parts in order; empty where nothing is mapped. */
  readonly views: readonly L1View[];
}

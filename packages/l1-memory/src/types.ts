import type { L1MemoryDesc } from "@cache/contracts";

/** How JavaScript reaches the bytes of the pool. */
export type PoolAccess =
  /** A koffi mapping: views, no copies. */
  | "mapped"
  /** Without koffi: `pread`/`pwrite` on the pool file; adapters get bounce buffers. */
  | "file"
  /** `--shm-name ""` : memory of this process; clients go inline, nothing survives. */
  | "anonymous";

/** What to create or re-attach. */
export interface L1PoolOptions {
  /** Pool name as LMCache clients know it, with or without `lmcache_l1_pool_`; `""` turns shared memory off. */
  readonly shmName: string;
  /** L1 size in bytes; the file is 4,096 bytes longer. A multiple of `alignBytes`. */
  readonly sizeBytes: number;
  /** Objects begin at multiples of this (power of two, at least 4,096... 4096 by default). */
  readonly alignBytes: number;
  /** Mode of the pool file; default 0o600. */
  readonly mode?: number;
  /** Numeric group of the pool file. */
  readonly group?: number;
  /** False: act as if koffi were absent. */
  readonly useKoffi?: boolean;
  /** Directory of POSIX shared memory; default `/dev/shm` (tests use another tmpfs or a directory). */
  readonly shmDirectory?: string;
  /** 32 hex digits: the journal that this pool belongs to. */
  readonly journalId: string;
  /** What the journal says of the last pool; null if it knows none. */
  readonly expected: PoolIdentity | null;
  /**
   * Asked last, before anything is mapped, with the position in the pool that would be re-attached: null if the
   * journal reaches it undamaged, else why not; L1 then starts empty with a refusal of check `position`.
   */
  readonly checkPosition?: (position: bigint) => string | null;
}

/** What must agree for a pool file to be re-attached; recorded by the engine in its journal. */
export interface PoolIdentity {
  /** 32 hex digits, random, made with the pool file. */
  readonly poolId: string;
  readonly bootId: string;
  /** Decimal strings: device and inode may exceed 2^53. */
  readonly device: string;
  readonly inode: string;
  readonly sizeBytes: number;
  readonly alignBytes: number;
}

/** Why an existing pool was not taken over. */
export interface PoolRefusal {
  readonly check: "absent" | "boot" | "identity" | "geometry" | "trailer" | "marked" | "position";
  readonly detail: string;
}

/** Who else maps the pool file (the proof of `design.md` §3 rule 2c). */
export type MapperScan =
  | { readonly kind: "none" }
  | {
      readonly kind: "mapped";
      readonly pids: readonly number[];
      /** Mappings in these processes together: one process may have several. */
      readonly mappings: number;
      readonly unreadable: number;
    }
  | { readonly kind: "cannot-be-seen"; readonly reason: string };

/** The pool while the engine runs. Offsets are bytes from the start of L1. */
export interface L1Pool {
  readonly identity: PoolIdentity;
  readonly access: PoolAccess;
  /** Name for clients, without `/`; `""` where clients go inline. */
  readonly shmName: string;
  /** Path of the pool file, null for anonymous memory. */
  readonly path: string | null;
  readonly sizeBytes: number;
  /** Bytes whose pages are reserved; the allocator hands out only these. Grows to `sizeBytes`, or stops with `reserveError`. */
  readonly reservedBytes: number;
  readonly reserveError: Error | null;
  /** True if objects of an earlier process are still in it. */
  readonly reattached: boolean;
  /** Why an earlier pool was not taken over; null if it was. */
  readonly refusal: PoolRefusal | null;
  readonly desc: L1MemoryDesc;
  /** Reserves the remaining pages in steps, off the main thread; calls back after each step. Settles at the end or at the first failure. */
  reserve(onProgress: (reservedBytes: number) => void): Promise<void>;
  /** The object's bytes without a copy, null where `access` is `file`. */
  view(offset: number, length: number): Buffer | null;
  /** Copies out of the pool. Works for each kind of access. */
  read(offset: number, into: Uint8Array): Promise<void>;
  /** Copies into the pool. Works for each kind of access. */
  write(offset: number, from: Uint8Array): Promise<void>;
  /** Position of the last record whose effect may be in the pool: one aligned 8-byte store. */
  storePosition(position: bigint): void;
  /** The position found at re-attachment. */
  readonly attachedPosition: bigint | null;
  /** The pool will not be re-attached by the next start (until `markReattachable`). */
  markNotReattachable(): void;
  markReattachable(): void;
  /** True if the pool's name still leads to the inode that we hold. */
  nameIsOurs(): boolean;
  /** Looks who else maps the pool, off the main thread. */
  scanMappers(): Promise<MapperScan>;
  /** Releases the lock; `keep: false` unlinks the file (a client may go on mapping it). Never unmaps. */
  close(options: { keep: boolean }): Promise<void>;
}

/** A byte range of L1. */
export interface L1Range {
  readonly offset: number;
  readonly length: number;
}

/**
 * Hands out byte ranges of L1. Constant or logarithmic time, independent of the number of objects; coalesces
 * free neighbours at once; no range crosses a view's end.
 */
export interface L1Allocator {
  /** Bytes that may be handed out now. */
  readonly capacityBytes: number;
  /** Bytes handed out, rounded up to the alignment. */
  readonly usedBytes: number;
  /** Longest range that `allocate` would give now. */
  readonly largestFreeBytes: number;
  /** Offset of a new range, -1 if there is no room. */
  allocate(length: number): number;
  /** Gives a range back. Throws `TypeError` if exactly this range was not handed out. */
  free(offset: number, length: number): void;
  /** More bytes are reserved now. */
  grow(capacityBytes: number): void;
  /** Starts anew with exactly these ranges handed out (recovery). Throws `DATA_CORRUPT` if two overlap or one lies outside. */
  rebuild(ranges: Iterable<L1Range>): void;
  /** Bytes that a range of this length occupies. */
  roundUp(length: number): number;
}

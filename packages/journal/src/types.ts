import type { CacheError } from "@cache/contracts";

/** When records reach the medium: `none` never on purpose, `batch` at most every 50 ms (replies do not wait), `always` before the replies. */
export type FsyncPolicy = "none" | "batch" | "always";

/** One record: opaque bytes at a position. Positions count records, from 1, without gaps, over all segments. */
export interface JournalRecord {
  readonly position: bigint;
  readonly payload: Uint8Array;
}

/** Where and how to keep the journal. */
export interface JournalOptions {
  /** Directory of the segments, 0700, made if absent; null keeps everything in memory and nothing survives. */
  readonly directory: string | null;
  readonly fsync?: FsyncPolicy;
  /** A segment is closed once it is this long, in bytes. Default 16 MiB. */
  readonly segmentBytesMax?: number;
  /** Longest record, in bytes; longer ones are refused on append and are damage on read. Default 16 MiB. */
  readonly recordBytesMax?: number;
  /** Bytes kept for a file that cannot be written before `append` throws `LIMIT_REACHED`. Default 64 MiB. */
  readonly pendingBytesMax?: number;
  /** False: act as if koffi were absent. */
  readonly useKoffi?: boolean;
  /** Called when the journal degrades or recovers. */
  readonly onHealth?: (health: JournalHealth) => void;
}

/** `degraded`: the file cannot be written; appended records wait in memory and a commit is retried every second. */
export type JournalHealth =
  | { readonly state: "ok" }
  | { readonly state: "degraded"; readonly cause: CacheError; readonly pendingBytes: number };

/** Damage that is not a torn tail. */
export interface JournalDamage {
  readonly segment: string;
  /** Byte offset of the damaged record in the segment. */
  readonly offset: number;
  readonly reason: string;
  /** Under which names the damaged segment and those after it are kept. */
  readonly keptAs: readonly string[];
}

/** What `openJournal` found. */
export interface JournalRecovery {
  /** The newest snapshot that could be verified, null if none. */
  readonly snapshot: { readonly position: bigint; readonly bytes: Uint8Array } | null;
  /** Bytes of a torn tail that were cut off. */
  readonly tornBytes: number;
  readonly damage: JournalDamage | null;
  /** Position of the last good record (0 for a new journal). */
  readonly lastPosition: bigint;
  /** Calls back for each record after the snapshot, in order. To be called once, before the first append. */
  replay(onRecord: (position: bigint, payload: Uint8Array) => void): void;
}

/** What a subscription delivers. `lost`: the cursor lies before the oldest retained record, or the consumer fell too far behind. */
export type SubscriptionItem =
  | { readonly kind: "record"; readonly record: JournalRecord }
  | { readonly kind: "lost"; readonly resumeFrom: bigint };

/**
 * Where a snapshot comes from: a module (file URL of built JavaScript) whose export
 * `foldSnapshot(previous: Uint8Array | null, records: Iterable<JournalRecord>): Uint8Array` runs in a worker.
 */
export interface SnapshotSource {
  readonly module: URL;
}

/** Figures for status and metrics. */
export interface JournalStatus {
  readonly health: JournalHealth;
  readonly directory: string | null;
  readonly fsync: FsyncPolicy;
  readonly lockMechanism: string | null;
  readonly position: bigint;
  readonly segments: number;
  readonly bytes: number;
  readonly snapshotPosition: bigint | null;
  readonly lastSnapshotError: string | null;
  readonly sideSegments: number;
  readonly sideBytes: number;
}

/**
 * Append-only log. Records are appended in memory and reach the file with `commit`: one `writeSync` an event-loop
 * turn. Whatever others may see leaves only after `commit` answered true.
 */
export interface Journal {
  /** 32 hex digits, random, made with the journal; stands in each segment. */
  readonly id: string;
  /** Position of the last appended record, in the file or not. */
  readonly position: bigint;
  readonly health: JournalHealth;
  /**
   * Adds records to the turn's batch. Returns the position of the last.
   *
   * @throws CacheError `LIMIT_REACHED` while degraded and `pendingBytesMax` is used up.
   */
  append(records: readonly Uint8Array[]): bigint;
  /** Writes all that was appended. False: the journal is degraded (again); the batch is kept and retried. */
  commit(): boolean;
  /** Settles once everything committed so far is as durable as the policy promises to a reply (at once unless `always`). */
  durable(): Promise<void>;
  /** Records from a position on, as far as retained and committed. */
  read(options: { from: bigint }): Iterable<JournalRecord>;
  /** Records from a position on, then live ones, at most `bufferMax` waiting (default 4,096). */
  subscribe(options: {
    from: bigint;
    bufferMax?: number;
    signal: AbortSignal;
  }): AsyncIterable<SubscriptionItem>;
  /** Closes the current segment, folds all closed ones in a worker, verifies the snapshot by reading it back, then removes what it covers. One at a time. */
  snapshot(source: SnapshotSource): Promise<{ position: bigint }>;
  /** Bytes appended since the last snapshot: the caller decides when to make the next. */
  readonly bytesSinceSnapshot: number;
  /** Bytes of the last snapshot, 0 if there is none: what reading it costs at the next start. */
  readonly snapshotBytes: number;
  /** Records of their own files that the log only refers to: see {@link SideLog}. */
  readonly side: SideLog;
  status(): JournalStatus;
  /** Commits, syncs, releases the lock. Idempotent. */
  close(): Promise<void>;
}

/** Where a side record lies: segment number and byte offset. */
export interface SideRef {
  readonly segment: number;
  readonly offset: number;
}

/**
 * Records that are looked up seldom and must not stay in memory (token ids of a chunk): in segment files of their
 * own, checksummed, written by the same `commit`, before the log's batch that refers to them.
 */
export interface SideLog {
  append(payload: Uint8Array): SideRef;
  /** @throws CacheError `DATA_CORRUPT` for damage, `INVALID_ARGUMENT` if nothing is there. */
  read(ref: SideRef): Uint8Array;
  /** Counts a record as dead; reads nothing. */
  markDead(ref: SideRef): void;
  /**
   * After recovery: tells which records are alive, so that the part of each segment that is dead is known. How many
   * records a closed segment has is taken from the length of a few of them.
   */
  setAlive(refs: Iterable<SideRef>): void;
  /** A closed segment that is less than half alive, null if none. */
  candidate(): number | null;
  /** Removes a closed segment, off the main thread. The caller has copied what is alive, and the log's record of the new refs is in the file. */
  removeSegment(segment: number): Promise<void>;
}

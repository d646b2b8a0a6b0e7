import type { Bitmap } from "./bitmap.ts";
import type { CacheError } from "./errors.ts";
import type { L1MemoryDesc, MemoryObj } from "./memory.ts";
import type { EncodedObjectKey, ObjectKey } from "./object-key.ts";

/**
 * What an adapter can do: plain, frozen data. The engine acts on it and the conformance suite tests it, also
 * that what is absent fails with `UNSUPPORTED`.
 */
export interface L2Capabilities {
  /** Objects are still there after `close` and a new `open` with the same configuration. */
  readonly persistent: boolean;
  /** Other processes may read and write the same data. */
  readonly shared: boolean;
  /** `delete` is offered. */
  readonly delete: boolean;
  /** `listKeys` is offered. */
  readonly listKeys: boolean;
  /** `quarantine` is offered. */
  readonly quarantine: boolean;
  /** The engine may evict by capacity: `usage().capacityBytes` is a number and `delete` is offered. */
  readonly globalEviction: boolean;
  /** `required`: the adapter needs a mapped L1 and is refused without one. */
  readonly l1Registration: "none" | "required";
  /** The adapter wants a directory of its own, kept across restarts. */
  readonly needsStateDir: boolean;
  /** True if no other process writes into the buffers of `load`: they are safe once this process is gone. */
  readonly writesOnlyFromEngineProcess: boolean;
  /** Most keys in one call; the engine splits larger batches. */
  readonly maxBatchKeys: number;
  /** Largest object in bytes. */
  readonly maxObjectBytes: number;
}

/** A key with the exact byte length that its object must have. An entry of another length is a miss. */
export interface SizedKey {
  readonly key: ObjectKey;
  readonly byteLength: number;
}

/** Writes a structured log line. No secret in message or fields. */
export interface AdapterLog {
  debug(message: string, fields?: Readonly<Record<string, unknown>>): void;
  info(message: string, fields?: Readonly<Record<string, unknown>>): void;
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void;
  error(message: string, fields?: Readonly<Record<string, unknown>>): void;
}

/** What only the engine knows, given to {@link L2Adapter.open}. */
export interface OpenContext {
  /** The configured id, `{type}` or `{type}.{instance}`. */
  readonly id: string;
  /** A directory that is the adapter's own (mode 0700), null unless the manifest has `needsStateDir`. */
  readonly stateDir: string | null;
  readonly log: AdapterLog;
  /** Ends the attempt to connect. */
  readonly signal: AbortSignal;
}

/** The outcome of one `store` call. */
export interface L2StoreResult {
  /** Bit i: key i is in the store now, whole (also when it was there before). */
  readonly stored: Bitmap;
  /** Why key i is not, for each clear bit. */
  readonly failed: ReadonlyMap<number, CacheError>;
  /** Payload bytes that were really written: nothing for keys that failed or were there and were left as they are. */
  readonly bytesTransferred: number;
}

/** Bytes in use, as far as the adapter itself knows (its own process's acknowledged stores and deletes). */
export interface AdapterUsage {
  readonly totalBytesUsed: number;
  readonly capacityBytes: number | "unbounded";
  /** Positive entries only. */
  readonly bytesByCacheSalt: ReadonlyMap<string, number>;
}

/** What an operator sees. Further fields are welcome: plain JSON, no secrets. */
export interface AdapterStatus {
  readonly isHealthy: boolean;
  readonly type: string;
  readonly [field: string]: unknown;
}

/** Which page of keys to list. */
export interface PageRequest {
  /** Only keys of this model. */
  readonly modelName?: string | undefined;
  /** 1..5000. */
  readonly pageSize: number;
  /** `nextPageToken` of the page before; absent for the first. */
  readonly pageToken?: string | undefined;
}

/** One listed object. */
export interface KeyListEntry {
  readonly key: EncodedObjectKey;
  readonly size_bytes: number;
  /** When the store last wrote it, in milliseconds since the epoch, where the store can tell. */
  readonly modified_ms?: number;
}

/** A page of keys. */
export interface KeyListPage {
  readonly entries: readonly KeyListEntry[];
  /** Null on the last page; opaque, passed back verbatim. */
  readonly nextPageToken: string | null;
}

/**
 * A store behind the engine. Optional operations are there exactly if {@link L2Capabilities} says so.
 *
 * Rules for every waiting operation:
 * - A miss is a clear bit, never an error. A broken backend is an error (rejection, or `failed` of a store).
 * - Abort means "finish early", not "answer early": settle only when nothing will touch the buffers again.
 * - Write nothing outside the given buffers, and report "loaded" only what arrived whole.
 * - After `close`, reject with `ADAPTER_CLOSED`.
 * - Rejections are `CacheError`s that name cause and remedy, without secrets.
 */
export interface L2Adapter {
  readonly capabilities: L2Capabilities;
  /** What identifies the data (directory; bucket and prefix; server, database, prefix). Holds no secret. */
  readonly location: string;
  /** Connects. Rejects with a typed error if the backend is not there. */
  open(context: OpenContext): Promise<void>;
  /**
   * Stores each object under its key. An object that is there with the same length stays untouched. One of another
   * length, which may be another node's, is replaced, or the key fails with `CONFLICT` and `details.reason`
   * `"other-length"`: the engine gives up this key and goes on with the others.
   */
  store(
    keys: readonly ObjectKey[],
    objects: readonly MemoryObj[],
    signal: AbortSignal,
  ): Promise<L2StoreResult>;
  /** Bit i: key i is there with that length, and one lock reference was taken for it. */
  lookupAndLock(requests: readonly SizedKey[], signal: AbortSignal): Promise<Bitmap>;
  /** Drops one lock reference of each key. Must not fail; unknown keys are ignored; never retried by the caller. */
  unlock(keys: readonly ObjectKey[]): void;
  /** Fills each buffer. Bit i: buffer i holds the whole object. Buffers with a clear bit may hold anything. */
  load(requests: readonly SizedKey[], into: readonly MemoryObj[], signal: AbortSignal): Promise<Bitmap>;
  /** Takes damaged objects out of service without destroying them. */
  quarantine?(keys: readonly ObjectKey[], reason: string, signal: AbortSignal): Promise<void>;
  /** Removes objects. Idempotent. Bit i: key i is not there any more. A locked key is skipped: clear bit. */
  delete?(keys: readonly ObjectKey[], signal: AbortSignal): Promise<Bitmap>;
  /** Lists what is there, a page at a time, also objects of other processes. */
  listKeys?(page: PageRequest, signal: AbortSignal): Promise<KeyListPage>;
  usage(): AdapterUsage;
  status(): AdapterStatus;
  /** Idempotent. Operations in flight settle first. */
  close(): Promise<void>;
}

/** Makes an adapter from its checked configuration. Returns at once and does no I/O. */
export type L2AdapterFactory<Config> = (config: Config, l1: L1MemoryDesc) => L2Adapter;

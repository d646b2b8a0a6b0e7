import type { OpenContext } from "@cache/contracts";

/** One object of a listing. */
export interface ListedObject {
  /** Its name, as `put` was given it. Names of others are skipped. */
  readonly name: string;
  /** Its length in bytes. Left out, `exists` is asked for it. */
  readonly byteLength?: number | undefined;
  /** When it was last written, in milliseconds since the epoch. */
  readonly modifiedMs?: number | undefined;
}

/** One object of a batched put. */
export interface NamedBytes {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/**
 * What you write for a store of yours: {@link SimpleStore.exists}, {@link SimpleStore.get} and
 * {@link SimpleStore.put}; the rest is optional, and what is missing is switched off in the adapter's manifest.
 * The methods are those of LMCache's `RemoteConnector`.
 *
 * Rules:
 * - "Not there" is `null` (or false), never an error. Any error is a failing backend, never "not there".
 *   Throw what your client throws; throw a `CacheError` where you know the code (`BACKEND_FULL`, …).
 * - `put` replaces: whoever reads meanwhile gets the old object or the new one, whole.
 * - `signal` says "finish early". You may ignore it, but a method that is given memory of the engine (`getInto`, and
 *   `put` with `zeroCopyPut`) settles only when nothing touches that memory any more, also after an abort.
 */
export interface SimpleStore {
  /** Connects, before any other method. Called again if it failed. */
  open?(context: OpenContext): Promise<unknown>;
  /**
   * The object's length in bytes; true if it is there and its length cannot be told (then it is read once to learn
   * it); false or null if it is not there.
   */
  exists(name: string, signal: AbortSignal): Promise<number | boolean | null>;
  /** The object, whole or as a stream of its parts; null if it is not there. What you return is copied. */
  get(name: string, signal: AbortSignal): Promise<Uint8Array | AsyncIterable<Uint8Array> | null>;
  /**
   * Fills `into` with the object's bytes from `offset` on, and answers the length of the whole object; null if it is
   * not there. Spares a copy. `offset` is 0 unless `rangeBytes` is set.
   */
  getInto?(name: string, into: Uint8Array, offset: number, signal: AbortSignal): Promise<number | null>;
  /** Writes the object. `bytes` is a copy that is yours to keep, unless `zeroCopyPut` is set. */
  put(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<unknown>;
  /** Removes the object if it is there. Without it the adapter has no `delete`. */
  remove?(name: string, signal: AbortSignal): Promise<unknown>;
  /** All objects whose names begin with `prefix`, in any order, each once. Without it there is no `listKeys`. */
  list?(prefix: string, signal: AbortSignal): AsyncIterable<ListedObject>;
  /** Rejects if the store cannot be reached. Without it `exists` is asked for a name that nobody stores. */
  ping?(signal: AbortSignal): Promise<unknown>;
  /** Ends connections. Called once, when no other call is under way. */
  close?(): Promise<unknown>;
  /** `exists` of several names, answers in their order; an `Error` in place of an answer is that key's failure. */
  batchedExists?(
    names: readonly string[],
    signal: AbortSignal,
  ): Promise<readonly (number | boolean | null | Error)[]>;
  /** `get` of several names, answers in their order; an `Error` in place of an answer is that key's failure. */
  batchedGet?(names: readonly string[], signal: AbortSignal): Promise<readonly (Uint8Array | null | Error)[]>;
  /** `put` of several objects. Answers nothing if all were stored, else for each null or the `Error` why not. */
  batchedPut?(objects: readonly NamedBytes[], signal: AbortSignal): Promise<readonly (Error | null)[] | void>;
  /** `remove` of several names. Answers nothing if all are gone, else for each null or the `Error` why not. */
  batchedRemove?(names: readonly string[], signal: AbortSignal): Promise<readonly (Error | null)[] | void>;
}

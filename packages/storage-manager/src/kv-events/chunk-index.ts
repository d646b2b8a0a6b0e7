import { Column } from "../state/columns.ts";
import type { KeyTable } from "../state/key-table.ts";

const SHARDS = 256;
const SHARD_ROWS_MIN = 16;

/**
 * Which keys make a chunk known, by model and chunk hash: the keys of all tenants and world sizes are one chunk to a
 * subscriber. Open addressing in 256 parts, as in {@link KeyTable}; keys of one chunk are chained.
 */
export class ChunkIndex {
  readonly #keys: KeyTable;
  readonly #tagOf: (key: number) => number;
  /** The next key of the same chunk plus one; 0 none. */
  readonly #next = new Column(Uint32Array);
  readonly #shards: Uint32Array[];
  #counts = new Uint32Array(SHARDS);

  /**
   * @param tagOf a number for the model of a key, below 2^48.
   * @param expected chunks that room is made for at once.
   */
  constructor(keys: KeyTable, tagOf: (key: number) => number, expected = 0) {
    this.#keys = keys;
    this.#tagOf = tagOf;
    let rows = SHARD_ROWS_MIN;
    while (rows * SHARDS < expected * 2.5) rows *= 2;
    this.#shards = Array.from({ length: SHARDS }, () => new Uint32Array(rows));
  }

  #home(bytes: Uint8Array, from: number, tag: number): number {
    const word =
      ((bytes[from + 1] as number) |
        ((bytes[from + 2] as number) << 8) |
        ((bytes[from + 3] as number) << 16) |
        ((bytes[from + 4] as number) << 24)) ^
      (tag % 0xffffffff);
    return (word ^ (word >>> 15)) >>> 0;
  }

  #homeOf(key: number): number {
    return this.#home(this.#keys.hash.get(key), 0, this.#tagOf(key));
  }

  /** Place of the chunk in its shard, or of the free place where it belongs. */
  #at(shard: Uint32Array, tag: number, bytes: Uint8Array, from: number): number {
    const mask = shard.length - 1;
    for (let at = this.#home(bytes, from, tag) & mask; ; at = (at + 1) & mask) {
      const entry = shard[at] as number;
      if (entry === 0) return at;
      if (this.#keys.hash.equals(entry - 1, bytes, from) && this.#tagOf(entry - 1) === tag) return at;
    }
  }

  /** A key of the chunk, the same while it stays; -1 if the chunk is not known. */
  find(tag: number, bytes: Uint8Array, from = 0): number {
    const shard = this.#shards[bytes[from] as number] as Uint32Array;
    return (shard[this.#at(shard, tag, bytes, from)] as number) - 1;
  }

  /** Whether the key was added. */
  has(key: number): boolean {
    let at = this.find(this.#tagOf(key), this.#keys.hash.get(key));
    while (at >= 0 && at !== key) at = this.#next.get(at) - 1;
    return at === key;
  }

  /** Adds a key. True if the chunk was not known before. */
  add(key: number): boolean {
    const bytes = this.#keys.hash.get(key);
    const part = bytes[0] as number;
    const shard = this.#roomIn(part);
    const at = this.#at(shard, this.#tagOf(key), bytes, 0);
    const head = shard[at] as number;
    if (head === 0) {
      shard[at] = key + 1;
      this.#counts[part] = (this.#counts[part] as number) + 1;
      this.#next.set(key, 0);
      return true;
    }
    this.#next.set(key, this.#next.get(head - 1));
    this.#next.set(head - 1, key + 1);
    return false;
  }

  #roomIn(part: number): Uint32Array {
    const old = this.#shards[part] as Uint32Array;
    if (((this.#counts[part] as number) + 1) * 2 <= old.length) return old;
    const shard = new Uint32Array(old.length * 2);
    const mask = shard.length - 1;
    for (const entry of old) {
      if (entry === 0) continue;
      let at = this.#homeOf(entry - 1) & mask;
      while (shard[at] !== 0) at = (at + 1) & mask;
      shard[at] = entry;
    }
    this.#shards[part] = shard;
    return shard;
  }

  /** Takes a key out. True if the chunk is not known any more. */
  remove(key: number): boolean {
    const bytes = this.#keys.hash.get(key);
    const part = bytes[0] as number;
    const shard = this.#shards[part] as Uint32Array;
    const at = this.#at(shard, this.#tagOf(key), bytes, 0);
    let before = (shard[at] as number) - 1;
    if (before < 0) return false;
    const after = this.#next.get(key);
    if (before === key) {
      shard[at] = after;
      if (after !== 0) return false;
      this.#close(shard, at);
      this.#counts[part] = (this.#counts[part] as number) - 1;
      return true;
    }
    while (this.#next.get(before) !== key + 1) before = this.#next.get(before) - 1;
    this.#next.set(before, after);
    return false;
  }

  /** Shifts back what follows a hole: no tombstones. */
  #close(shard: Uint32Array, from: number): void {
    const mask = shard.length - 1;
    let hole = from;
    for (let at = (hole + 1) & mask; shard[at] !== 0; at = (at + 1) & mask) {
      const home = this.#homeOf((shard[at] as number) - 1) & mask;
      if (((at - home) & mask) < ((at - hole) & mask)) continue;
      shard[hole] = shard[at] as number;
      hole = at;
    }
    shard[hole] = 0;
  }
}

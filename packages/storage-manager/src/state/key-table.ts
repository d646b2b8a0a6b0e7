import { BytesColumn, Column, NumberPool } from "./columns.ts";

const HASH_BYTES = 32;
const SHARDS = 256;
const SHARD_ROWS_MIN = 16;

/** What many keys share. */
export interface KeyGroup {
  readonly modelName: string;
  readonly kvRank: number;
  readonly objectGroupId: number;
  readonly cacheSalt: string;
}

/** Text that is equal exactly for equal groups. */
function groupText(group: KeyGroup): string {
  return JSON.stringify([group.modelName, group.kvRank, group.objectGroupId, group.cacheSalt]);
}

/**
 * Numbers for groups and keys, and the way back: an open-addressing index in 256 parts, each small enough that
 * growing one is not felt. (A `Map` of key strings costs 226 bytes and 3.4 microseconds a key.)
 */
export class KeyTable {
  readonly hash = new BytesColumn(HASH_BYTES);
  readonly group = new Column(Uint32Array);
  /** How many slots and ledger records name the key; at 0 the number is free. */
  readonly references = new Column(Uint32Array);
  /** 1 while the number stands for a key. */
  readonly bound = new Column(Uint8Array);
  /** Resident slot plus one; 0 none. */
  readonly resident = new Column(Uint32Array);
  /** Token record: segment plus one (0 none) and byte offset. */
  readonly tokenSegment = new Column(Uint32Array);
  readonly tokenOffset = new Column(Uint32Array);
  readonly numbers = new NumberPool();

  readonly #groups: (KeyGroup | undefined)[] = [];
  readonly #groupKeys: number[] = [];
  readonly #groupByText = new Map<string, number>();
  readonly groupNumbers = new NumberPool();
  #shards: Uint32Array[] = [];
  #counts = new Uint32Array(SHARDS);

  constructor() {
    for (let i = 0; i < SHARDS; i++) this.#shards.push(new Uint32Array(SHARD_ROWS_MIN));
  }

  /** Number of a group, -1 if unknown. */
  findGroup(group: KeyGroup): number {
    return this.#groupByText.get(groupText(group)) ?? -1;
  }

  defineGroup(number: number, group: KeyGroup): void {
    this.groupNumbers.take(number);
    this.#groups[number] = group;
    this.#groupKeys[number] = 0;
    this.#groupByText.set(groupText(group), number);
  }

  groupOf(number: number): KeyGroup {
    const group = this.#groups[number];
    if (group === undefined) throw new TypeError(`group ${number} is not defined`);
    return group;
  }

  /** The group of a number, if it stands for one. */
  groupAt(number: number): KeyGroup | undefined {
    return this.#groups[number];
  }

  /** The group of a key. */
  groupOfKey(key: number): KeyGroup {
    return this.groupOf(this.group.get(key));
  }

  #home(bytes: Uint8Array, from: number, group: number): number {
    const word =
      ((bytes[from + 1] as number) |
        ((bytes[from + 2] as number) << 8) |
        ((bytes[from + 3] as number) << 16) |
        ((bytes[from + 4] as number) << 24)) ^
      Math.imul(group + 1, 0x9e3779b1);
    return (word ^ (word >>> 15)) >>> 0;
  }

  /** Number of a key, -1 if unknown. `from` is where the 32-byte hash begins. */
  find(group: number, bytes: Uint8Array, from: number): number {
    const shard = this.#shards[bytes[from] as number] as Uint32Array;
    const mask = shard.length - 1;
    for (let at = this.#home(bytes, from, group) & mask; ; at = (at + 1) & mask) {
      const entry = shard[at] as number;
      if (entry === 0) return -1;
      if (this.group.get(entry - 1) === group && this.hash.equals(entry - 1, bytes, from)) return entry - 1;
    }
  }

  bind(number: number, group: number, bytes: Uint8Array, from: number): void {
    this.numbers.take(number);
    this.hash.set(number, bytes, from);
    this.group.set(number, group);
    this.references.set(number, 0);
    this.bound.set(number, 1);
    this.resident.set(number, 0);
    this.tokenSegment.set(number, 0);
    this.#groupKeys[group] = (this.#groupKeys[group] ?? 0) + 1;
    this.#insert(number);
  }

  #partOf(key: number): number {
    return this.hash.pageOf(key)[this.hash.offsetOf(key)] as number;
  }

  #homeOf(key: number): number {
    return this.#home(this.hash.pageOf(key), this.hash.offsetOf(key), this.group.get(key));
  }

  #insert(number: number): void {
    const part = this.#partOf(number);
    let shard = this.#shards[part] as Uint32Array;
    if (((this.#counts[part] as number) + 1) * 2 > shard.length) {
      const old = shard;
      shard = new Uint32Array(old.length * 2);
      this.#shards[part] = shard;
      for (const entry of old) if (entry !== 0) this.#place(shard, entry);
    }
    this.#place(shard, number + 1);
    this.#counts[part] = (this.#counts[part] as number) + 1;
  }

  #place(shard: Uint32Array, entry: number): void {
    const mask = shard.length - 1;
    let at = this.#homeOf(entry - 1) & mask;
    while (shard[at] !== 0) at = (at + 1) & mask;
    shard[at] = entry;
  }

  retain(key: number): void {
    if (this.bound.get(key) === 0) throw new TypeError(`key ${key} is not bound`);
    this.references.set(key, this.references.get(key) + 1);
  }

  /** Drops one reference; at 0 the key, and at its group's last key the group, are forgotten. */
  release(key: number): void {
    const left = this.references.get(key) - 1;
    if (left < 0) throw new TypeError(`key ${key} has no reference to drop`);
    this.references.set(key, left);
    if (left > 0) return;
    this.#remove(key);
    this.bound.set(key, 0);
    this.numbers.give(key);
    const group = this.group.get(key);
    const keys = (this.#groupKeys[group] ?? 1) - 1;
    this.#groupKeys[group] = keys;
    if (keys === 0) {
      this.#groupByText.delete(groupText(this.groupOf(group)));
      this.#groups[group] = undefined;
      this.groupNumbers.give(group);
    }
  }

  /** Takes an entry out of the index by shifting back what follows: no tombstones. */
  #remove(key: number): void {
    const part = this.#partOf(key);
    const shard = this.#shards[part] as Uint32Array;
    const mask = shard.length - 1;
    let hole = this.#homeOf(key) & mask;
    while (shard[hole] !== key + 1) hole = (hole + 1) & mask;
    for (let at = (hole + 1) & mask; shard[at] !== 0; at = (at + 1) & mask) {
      const entry = (shard[at] as number) - 1;
      const home = this.#homeOf(entry) & mask;
      if (((at - home) & mask) >= ((at - hole) & mask)) {
        shard[hole] = entry + 1;
        hole = at;
      }
    }
    shard[hole] = 0;
    this.#counts[part] = (this.#counts[part] as number) - 1;
  }

  columns(): readonly (Column | BytesColumn)[] {
    return [
      this.hash,
      this.group,
      this.references,
      this.bound,
      this.resident,
      this.tokenSegment,
      this.tokenOffset,
    ] as readonly (Column | BytesColumn)[];
  }

  dumpGroups(): [number, KeyGroup][] {
    const groups: [number, KeyGroup][] = [];
    for (const [number, group] of this.#groups.entries())
      if (group !== undefined) groups.push([number, group]);
    return groups;
  }

  /** After the columns and number pools were restored: rebuilds groups and index. */
  restoreIndex(groups: readonly (readonly [number, KeyGroup])[]): void {
    for (const [number, group] of groups) {
      this.#groups[number] = group;
      this.#groupKeys[number] = 0;
      this.#groupByText.set(groupText(group), number);
    }
    // Not by references: a snapshot may end between a key's binding and its first use.
    const isBound = (key: number): boolean => this.bound.get(key) === 1;
    const counts = new Uint32Array(SHARDS);
    for (let key = 0; key < this.numbers.bound; key++) {
      if (isBound(key)) counts[this.#partOf(key)] = (counts[this.#partOf(key)] as number) + 1;
    }
    // As large as they end up: growing on the way would place every key twice.
    this.#shards = Array.from(counts, (count) => {
      return new Uint32Array(Math.max(SHARD_ROWS_MIN, 2 ** Math.ceil(Math.log2((count + 1) * 2))));
    });
    this.#counts = new Uint32Array(SHARDS);
    for (let key = 0; key < this.numbers.bound; key++) {
      if (!isBound(key)) continue;
      this.#insert(key);
      const group = this.group.get(key);
      this.#groupKeys[group] = (this.#groupKeys[group] ?? 0) + 1;
    }
  }
}

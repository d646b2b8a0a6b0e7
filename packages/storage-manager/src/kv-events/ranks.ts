import { workerKvRank } from "@cache/contracts";
import type { KeyGroup, KeyTable } from "../state/key-table.ts";

/** How many ranks share a chunk of this kv rank. */
function worldSizeOf(kvRank: number): number {
  return kvRank >>> 24;
}

interface Sibling {
  readonly group: KeyGroup;
  readonly number: number;
}

/** The objects of one chunk: one for each rank of a model, tenant and world size. A hit needs all of them. */
export class Ranks {
  readonly #keys: KeyTable;
  /** Groups of the other ranks, as last found: making their text is dearer than looking a key up. */
  readonly #siblings = new WeakMap<KeyGroup, (Sibling | undefined)[]>();

  constructor(keys: KeyTable) {
    this.#keys = keys;
  }

  /** Number of the group of another rank, -1 if there is none. */
  #groupOf(group: KeyGroup, rank: number): number {
    let found = this.#siblings.get(group);
    if (found === undefined) {
      found = [];
      this.#siblings.set(group, found);
    }
    const known = found[rank];
    // A group's number goes to another one once its last key is gone.
    if (known !== undefined && this.#keys.groupAt(known.number) === known.group) return known.number;
    const number = this.#keys.findGroup({ ...group, kvRank: workerKvRank(worldSizeOf(group.kvRank), rank) });
    if (number >= 0) found[rank] = { group: this.#keys.groupOf(number), number };
    return number;
  }

  #keyOf(key: number, rank: number): number {
    const group = this.#groupOf(this.#keys.groupOfKey(key), rank);
    return group < 0 ? -1 : this.#keys.find(group, this.#keys.hash.get(key), 0);
  }

  /** The first rank's key of the same chunk; -1 if there is none, or if `key` is of a model with one rank. */
  firstOf(key: number): number {
    return worldSizeOf(this.#keys.groupOfKey(key).kvRank) > 1 ? this.#keyOf(key, 0) : -1;
  }

  /** Whether every rank's object of this key's chunk is resident. */
  areResident(key: number): boolean {
    const ranks = worldSizeOf(this.#keys.groupOfKey(key).kvRank);
    if (ranks <= 1) return this.#keys.resident.get(key) !== 0;
    for (let rank = 0; rank < ranks; rank++) {
      const one = this.#keyOf(key, rank);
      if (one < 0 || this.#keys.resident.get(one) === 0) return false;
    }
    return true;
  }
}

const HASH_BYTES = 32;

/** What one entry of the ring says. */
export interface RingEntry {
  readonly seq: number;
  /** Model, as {@link modelTag} makes it. */
  readonly tag: number;
  readonly stored: boolean;
  /** Token record of a stored chunk: segment and byte offset in the journal's side log. */
  readonly segment: number;
  readonly offset: number;
}

/** The last changes, oldest overwritten first; 64 bytes each, no object an entry. Entries count from 0 for ever. */
export class EventRing {
  readonly capacity: number;
  readonly #seq: Float64Array;
  readonly #tag: Float64Array;
  readonly #stored: Uint8Array;
  readonly #segment: Uint32Array;
  readonly #offset: Uint32Array;
  readonly #hash: Uint8Array;
  /** Entries ever appended. */
  total = 0;
  /** Everything that happened after this seq is in the ring. */
  floorSeq: number;

  /** @param floorSeq the seq after which the ring begins. */
  constructor(capacity: number, floorSeq: number) {
    this.capacity = capacity;
    this.floorSeq = floorSeq;
    this.#seq = new Float64Array(capacity);
    this.#tag = new Float64Array(capacity);
    this.#stored = new Uint8Array(capacity);
    this.#segment = new Uint32Array(capacity);
    this.#offset = new Uint32Array(capacity);
    this.#hash = new Uint8Array(capacity * HASH_BYTES);
  }

  /** The oldest entry that is still there. */
  get oldest(): number {
    return Math.max(0, this.total - this.capacity);
  }

  get depth(): number {
    return this.total - this.oldest;
  }

  append(entry: RingEntry, hash: Uint8Array): void {
    const at = this.total % this.capacity;
    if (this.total >= this.capacity) this.floorSeq = this.#seq[at] as number;
    this.#seq[at] = entry.seq;
    this.#tag[at] = entry.tag;
    this.#stored[at] = entry.stored ? 1 : 0;
    this.#segment[at] = entry.segment;
    this.#offset[at] = entry.offset;
    this.#hash.set(hash, at * HASH_BYTES);
    this.total++;
  }

  seqAt(entry: number): number {
    return this.#seq[entry % this.capacity] as number;
  }

  /** The entry, as long as it is not overwritten. */
  get(entry: number): RingEntry {
    const at = entry % this.capacity;
    return {
      seq: this.#seq[at] as number,
      tag: this.#tag[at] as number,
      stored: this.#stored[at] === 1,
      segment: this.#segment[at] as number,
      offset: this.#offset[at] as number,
    };
  }

  /** A copy of the entry's chunk hash. */
  hashAt(entry: number): Uint8Array {
    const at = (entry % this.capacity) * HASH_BYTES;
    return this.#hash.slice(at, at + HASH_BYTES);
  }

  /** The first entry after a seq. */
  after(seq: number): number {
    let from = this.oldest;
    let to = this.total;
    while (from < to) {
      const middle = Math.floor((from + to) / 2);
      if (this.seqAt(middle) > seq) to = middle;
      else from = middle + 1;
    }
    return from;
  }
}

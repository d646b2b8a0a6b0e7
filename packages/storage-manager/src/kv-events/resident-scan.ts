import type { ChunkIndex } from "./chunk-index.ts";

/** Keys looked at in one step. */
const KEYS_A_STEP = 512;

/** A chunk with what its token record says. */
export interface AnnouncedChunk {
  readonly hash: Uint8Array;
  readonly parent: Uint8Array | null;
  readonly tokens: Uint8Array;
}

/** What the scan works on. */
export interface ScanSource {
  readonly index: ChunkIndex;
  /** One more than the highest key number. */
  readonly bound: number;
  /** The chunk of a key if it is announced and of the model; else null. */
  hashOf(key: number, tag: number): Uint8Array | null;
  /** The chunk of an announced key; null if its record cannot be read. */
  read(key: number): AnnouncedChunk | null;
}

/**
 * Walks over all chunks of a model, a chunk's parent before it where both are there. A step reads one token record
 * at most. Memory: a bit a key, and the hashes of one chain while it is climbed.
 */
export class ResidentScan {
  readonly #source: ScanSource;
  readonly #tag: number;
  readonly #bound: number;
  readonly #seen: Uint8Array;
  readonly #chain: Uint8Array[] = [];
  #key = 0;

  constructor(source: ScanSource, tag: number) {
    this.#source = source;
    this.#tag = tag;
    this.#bound = source.bound;
    this.#seen = new Uint8Array((source.bound >>> 3) + 1);
  }

  /** The next chunk; "more": none yet, ask again; null: that was all. */
  step(): AnnouncedChunk | "more" | null {
    if (this.#chain.length === 0 && !this.#advance()) return this.#key < this.#bound ? "more" : null;
    const hash = this.#chain.at(-1) as Uint8Array;
    // The key that stood for the chunk may be gone, and another stand for it now.
    const key = this.#source.index.find(this.#tag, hash);
    const chunk = key < 0 ? null : this.#source.read(key);
    if (chunk !== null && chunk.parent !== null && this.#enter(chunk.parent)) return "more";
    this.#chain.pop();
    return chunk ?? "more";
  }

  /** Finds the next key whose chunk was not told. */
  #advance(): boolean {
    const until = Math.min(this.#bound, this.#key + KEYS_A_STEP);
    while (this.#key < until) {
      const hash = this.#source.hashOf(this.#key++, this.#tag);
      if (hash !== null && this.#enter(hash)) return true;
    }
    return false;
  }

  /** Puts a chunk on the chain unless it is unknown or was there before. */
  #enter(hash: Uint8Array): boolean {
    const key = this.#source.index.find(this.#tag, hash);
    // A key that came after the scan began: its chunk is told by the log.
    if (key < 0 || key >= this.#bound) return false;
    const bit = 1 << (key & 7);
    const at = key >>> 3;
    if (((this.#seen[at] as number) & bit) !== 0) return false;
    this.#seen[at] = (this.#seen[at] as number) | bit;
    this.#chain.push(Uint8Array.from(hash));
    return true;
  }
}

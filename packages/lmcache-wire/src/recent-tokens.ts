import { CHUNK_HASH_BYTES } from "./token-hasher.ts";

/** A token array that was read and hashed before. */
export interface KnownTokens {
  /** The msgpack array as it came, header included. */
  readonly raw: Buffer;
  readonly count: number;
  /** Hashes of the first chunks; never changed. */
  hashes: Uint8Array;
  /** Whose arrays these were: tenants are not told apart by how fast a repeated prompt is answered. */
  readonly cacheSalt: string;
  readonly bucket: number;
}

const BYTES_MAX_DEFAULT = 8 * 2 ** 20;
/** Arrays that are alike in count and in the bytes that are looked at; more would be compared one by one. */
const BUCKET_ENTRIES_MAX = 4;
const ENTRY_OVERHEAD = 256;

/**
 * Token arrays of the last calls with their hashes. A request sends the same array with each call, and so do other
 * requests with the same prompt: comparing its bytes takes a tenth of the time of reading and hashing them. Equal
 * means equal in every byte, so a hash is never taken for other tokens.
 */
export class RecentTokens {
  readonly #bytesMax: number;
  /** In order of last use, oldest first. */
  readonly #entries = new Set<KnownTokens>();
  readonly #buckets = new Map<number, KnownTokens[]>();
  #bytes = 0;

  /** @param bytesMax bytes that are kept at most, the arrays and their hashes; default 8 MiB, 0 keeps nothing */
  constructor(bytesMax: number = BYTES_MAX_DEFAULT) {
    this.#bytesMax = bytesMax;
  }

  /** Bytes that are kept. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The arrays that begin at `at` in `frame`, byte for byte; of each tenant one. `count` is what its header says. */
  find(frame: Buffer, at: number, count: number): readonly KnownTokens[] {
    const entries = this.#buckets.get(bucketOf(frame, at, count));
    if (entries === undefined) return NONE;
    return entries.filter(({ raw }) => {
      const end = at + raw.length;
      return end <= frame.length && frame.compare(raw, 0, raw.length, at, end) === 0;
    });
  }

  /** Keeps an array (copied) and its hashes (not copied: they must never change). */
  add(frame: Buffer, from: number, to: number, count: number, cacheSalt: string, hashes: Uint8Array): void {
    const cost = to - from + hashes.length + ENTRY_OVERHEAD;
    if (hashes.length < CHUNK_HASH_BYTES || cost > this.#bytesMax) return;
    const raw = Buffer.allocUnsafeSlow(to - from);
    frame.copy(raw, 0, from, to);
    const bucket = bucketOf(frame, from, count);
    const entry: KnownTokens = { raw, count, hashes, cacheSalt, bucket };
    const alike = this.#buckets.get(bucket);
    if (alike === undefined) this.#buckets.set(bucket, [entry]);
    else if (alike.push(entry) > BUCKET_ENTRIES_MAX) this.#drop(alike[0] as KnownTokens);
    this.#entries.add(entry);
    this.#bytes += cost;
    this.#shrink();
  }

  /** An array was asked for again, perhaps with hashes of more chunks. */
  used(entry: KnownTokens, hashes: Uint8Array = entry.hashes): void {
    if (!this.#entries.delete(entry)) return;
    this.#entries.add(entry);
    this.#bytes += hashes.length - entry.hashes.length;
    entry.hashes = hashes;
    this.#shrink();
  }

  #shrink(): void {
    for (const oldest of this.#entries) {
      if (this.#bytes <= this.#bytesMax) return;
      this.#drop(oldest);
    }
  }

  #drop(entry: KnownTokens): void {
    if (!this.#entries.delete(entry)) return;
    this.#bytes -= entry.raw.length + entry.hashes.length + ENTRY_OVERHEAD;
    const left = (this.#buckets.get(entry.bucket) ?? []).filter((other) => other !== entry);
    if (left.length === 0) this.#buckets.delete(entry.bucket);
    else this.#buckets.set(entry.bucket, left);
  }
}

const NONE: readonly KnownTokens[] = [];

/** Equal for equal arrays: the count, and eight bytes from inside of the array (an id takes a byte at least). */
function bucketOf(frame: Buffer, at: number, count: number): number {
  let bucket = Math.imul(count, 0x9e3779b1);
  const last = Math.min(at + count, frame.length) - 4;
  const middle = at + ((last - at) >> 1);
  if (middle >= at) bucket ^= frame.readInt32LE(middle);
  if (last >= at) bucket = Math.imul(bucket, 31) ^ frame.readInt32LE(last);
  return bucket;
}

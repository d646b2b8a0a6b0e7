import type { IHasher } from "hash-wasm";

/** Bytes of a chunk hash. */
export const CHUNK_HASH_BYTES = 32;

/**
 * LMCache's chunk hash `blake3`: BLAKE3-256 of the hash before and the chunk's token ids, each a big-endian
 * uint32; the first chunk is chained to BLAKE3 of 12 zero bytes (0.5.6, `TokenHasher`).
 */
export class TokenHasher {
  readonly #blake3: IHasher;
  /** Hash before and tokens, side by side: one update a chunk. */
  readonly #input: Uint8Array;
  readonly chunkSize: number;
  /** What chunk 0 is chained to. */
  readonly noneHash: Uint8Array;

  private constructor(blake3: IHasher, chunkSize: number) {
    this.#blake3 = blake3;
    this.chunkSize = chunkSize;
    this.#input = new Uint8Array(CHUNK_HASH_BYTES + chunkSize * 4);
    this.noneHash = blake3.init().update(new Uint8Array(12)).digest("binary");
  }

  /** Loads the hash (WebAssembly). `chunkSize` in tokens. */
  static async load(chunkSize: number): Promise<TokenHasher> {
    const { createBLAKE3 } = await import("hash-wasm");
    return new TokenHasher(await createBLAKE3(), chunkSize);
  }

  /**
   * Hashes chunks `from`..`to` of `tokens` into `hashes`, whose chunks below `from` are there already.
   * Allocates nothing a chunk but the digest that hash-wasm returns.
   */
  hashChunks(tokens: Uint8Array, hashes: Uint8Array, from: number, to: number): void {
    const input = this.#input;
    const chunkBytes = this.chunkSize * 4;
    if (from < to) {
      const before = CHUNK_HASH_BYTES * from;
      input.set(from === 0 ? this.noneHash : hashes.subarray(before - CHUNK_HASH_BYTES, before));
    }
    for (let chunk = from; chunk < to; chunk++) {
      input.set(tokens.subarray(chunk * chunkBytes, (chunk + 1) * chunkBytes), CHUNK_HASH_BYTES);
      const digest = this.#blake3.init().update(input).digest("binary");
      hashes.set(digest, chunk * CHUNK_HASH_BYTES);
      input.set(digest);
    }
  }
}

/** Hashes of the full chunks of `tokens` (big-endian uint32 each), 32 bytes a chunk, one after the other. */
export function chunkHashes(hasher: TokenHasher, tokens: Uint8Array): Uint8Array {
  const chunks = Math.floor(tokens.length / (hasher.chunkSize * 4));
  const hashes = new Uint8Array(chunks * CHUNK_HASH_BYTES);
  hasher.hashChunks(tokens, hashes, 0, chunks);
  return hashes;
}

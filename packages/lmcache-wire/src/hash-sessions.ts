import { randomBytes } from "node:crypto";
import type { IHasher } from "hash-wasm";
import { CHUNK_HASH_BYTES, type TokenHasher } from "./token-hasher.ts";

/** Bytes of the fast digest of one chunk's tokens. */
const DIGEST_BYTES = 16;

/** Bounds of {@link HashSessions}. */
export interface HashSessionLimits {
  /** Most sessions; the least recently used is dropped. Default 8,192. */
  readonly maxSessions?: number | undefined;
  /** Most bytes of hashes and digests of all sessions. Default 32 MiB (700,000 chunks). */
  readonly maxBytes?: number | undefined;
  /** Seconds after the last use until a session is dropped. Default 600. */
  readonly ttlSeconds?: number | undefined;
  /** Seconds on a clock that does not jump; for tests. */
  readonly now?: (() => number) | undefined;
}

interface Session {
  /** Room for some chunks; `chunks` of them are there. Written once: callers hold views. */
  hashes: Uint8Array;
  digests: Uint8Array;
  chunks: number;
  lastUse: number;
}

/**
 * Hash chains of running requests: a request sends its tokens again with every call. Kept are the chain and a
 * digest of each chunk's tokens, not the tokens (half a megabyte for 128k).
 *
 * The digest is XXH3-128 with a seed drawn at start that never leaves the process. Different tokens under one
 * request id meet with probability 2^-128; nobody can search a collision without the seed. A client that
 * guessed one would only mislabel its own store, which it can do anyway: it writes the bytes itself.
 */
export class HashSessions {
  readonly #hasher: TokenHasher;
  readonly #xxh: IHasher;
  /** In order of last use, oldest first. */
  readonly #sessions = new Map<string, Session>();
  readonly #maxSessions: number;
  readonly #maxBytes: number;
  readonly #ttl: number;
  readonly #now: () => number;
  #bytes = 0;
  #reused = 0;
  #hashed = 0;

  private constructor(hasher: TokenHasher, xxh: IHasher, limits: HashSessionLimits) {
    this.#hasher = hasher;
    this.#xxh = xxh;
    this.#maxSessions = limits.maxSessions ?? 8192;
    this.#maxBytes = limits.maxBytes ?? 32 * 2 ** 20;
    this.#ttl = limits.ttlSeconds ?? 600;
    this.#now = limits.now ?? (() => performance.now() / 1000);
  }

  /** Loads the digest (WebAssembly). */
  static async load(hasher: TokenHasher, limits: HashSessionLimits = {}): Promise<HashSessions> {
    const { createXXHash128 } = await import("hash-wasm");
    const seed = randomBytes(8);
    return new HashSessions(
      hasher,
      await createXXHash128(seed.readUInt32LE(0), seed.readUInt32LE(4)),
      limits,
    );
  }

  /** Sessions that are kept. */
  get size(): number {
    return this.#sessions.size;
  }

  /** Bytes of all sessions, and chunks whose hash was taken from a session or computed. */
  get counters(): { readonly bytes: number; readonly reusedChunks: number; readonly hashedChunks: number } {
    return { bytes: this.#bytes, reusedChunks: this.#reused, hashedChunks: this.#hashed };
  }

  /**
   * Hashes of chunks 0..`chunks` of `tokens`; what agrees with the session of `requestId` is not hashed again.
   * The result is never changed afterwards.
   */
  hashesFor(requestId: string, tokens: Uint8Array, chunks: number): Uint8Array {
    this.#expire();
    if (chunks === 0) return new Uint8Array(0);
    const old = this.#sessions.get(requestId);
    const agreed = old === undefined ? 0 : this.#agreeing(old, tokens, chunks);
    this.#reused += agreed;
    if (old !== undefined && agreed === chunks) {
      this.#touch(requestId, old);
      return old.hashes.subarray(0, chunks * CHUNK_HASH_BYTES);
    }
    this.#hashed += chunks - agreed;
    const session = this.#extended(old, agreed, chunks);
    this.#hasher.hashChunks(tokens, session.hashes, agreed, chunks);
    for (let chunk = agreed; chunk < chunks; chunk++) {
      session.digests.set(this.#digest(tokens, chunk), chunk * DIGEST_BYTES);
    }
    session.chunks = chunks;
    this.#drop(requestId);
    this.#bytes += session.hashes.length + session.digests.length;
    this.#touch(requestId, session);
    this.#shrink();
    return session.hashes.subarray(0, chunks * CHUNK_HASH_BYTES);
  }

  /** Counts hashes that were taken from an equal token array, without a session. */
  noteReused(chunks: number): void {
    this.#reused += chunks;
  }

  /** Forgets a session; true if there was one. */
  end(requestId: string): boolean {
    return this.#drop(requestId);
  }

  #digest(tokens: Uint8Array, chunk: number): Uint8Array {
    const chunkBytes = this.#hasher.chunkSize * 4;
    const view = tokens.subarray(chunk * chunkBytes, (chunk + 1) * chunkBytes);
    return this.#xxh.init().update(view).digest("binary");
  }

  #agreeing(session: Session, tokens: Uint8Array, chunks: number): number {
    const most = Math.min(session.chunks, chunks);
    for (let chunk = 0; chunk < most; chunk++) {
      const digest = this.#digest(tokens, chunk);
      for (let i = 0; i < DIGEST_BYTES; i++) {
        if (digest[i] !== session.digests[chunk * DIGEST_BYTES + i]) return chunk;
      }
    }
    return most;
  }

  /** A session with room for `chunks`; the old one's memory only if nothing of it would be overwritten. */
  #extended(old: Session | undefined, agreed: number, chunks: number): Session {
    if (old !== undefined && agreed === old.chunks && old.hashes.length >= chunks * CHUNK_HASH_BYTES)
      return old;
    // A grown request grows again, chunk by chunk: leave room.
    const room = agreed === 0 ? chunks : chunks + Math.max(8, chunks >> 2);
    const hashes = new Uint8Array(room * CHUNK_HASH_BYTES);
    const digests = new Uint8Array(room * DIGEST_BYTES);
    if (old !== undefined) {
      hashes.set(old.hashes.subarray(0, agreed * CHUNK_HASH_BYTES));
      digests.set(old.digests.subarray(0, agreed * DIGEST_BYTES));
    }
    return { hashes, digests, chunks: agreed, lastUse: 0 };
  }

  #touch(requestId: string, session: Session): void {
    session.lastUse = this.#now();
    this.#sessions.delete(requestId);
    this.#sessions.set(requestId, session);
  }

  #drop(requestId: string): boolean {
    const session = this.#sessions.get(requestId);
    if (session === undefined) return false;
    this.#bytes -= session.hashes.length + session.digests.length;
    return this.#sessions.delete(requestId);
  }

  #expire(): void {
    const before = this.#now() - this.#ttl;
    for (const [requestId, session] of this.#sessions) {
      if (session.lastUse >= before) return;
      this.#drop(requestId);
    }
  }

  #shrink(): void {
    for (const requestId of this.#sessions.keys()) {
      if (this.#sessions.size <= this.#maxSessions && this.#bytes <= this.#maxBytes) return;
      this.#drop(requestId);
    }
  }
}

import { createHash } from "node:crypto";
import type { RegistrationRequest } from "../../src/l1/clients.ts";
import type { ChunkRequest } from "../../src/l1/requests.ts";

export const MODEL = "test-model";

/** What a client registers, without who it is. */
export type TestLayout = Pick<RegistrationRequest, "shape" | "dtype" | "blockSize" | "objectBytes">;

/** Two layouts of equal size, and one of another. */
export const BFLOAT16: TestLayout = {
  shape: [2, 1, 16, 64],
  dtype: "bfloat16",
  blockSize: 16,
  objectBytes: 4_096,
};
export const FLOAT16: TestLayout = { ...BFLOAT16, dtype: "float16" };
export const FLOAT32: TestLayout = {
  ...BFLOAT16,
  shape: [2, 1, 16, 47],
  dtype: "float32",
  objectBytes: 6_016,
};

/** A part of a prompt as a request names it. */
export interface RangeOptions {
  readonly first?: number;
  readonly end?: number;
  /** Null: all ranks. */
  readonly rank?: number | null;
  readonly worldSize?: number;
  readonly salt?: string;
  readonly requestId?: string;
  readonly readers?: number;
  readonly model?: string;
}

/** Chunks whose hashes are chained, as those of real tokens are: equal beginnings have equal hashes. */
export class Prompt {
  readonly hashes: Uint8Array;
  readonly chunks: number;

  /** @param tokens one word a chunk. */
  constructor(tokens: readonly (string | number)[]) {
    this.chunks = tokens.length;
    this.hashes = new Uint8Array(tokens.length * 32);
    let parent: Uint8Array = new Uint8Array(32);
    for (const [i, token] of tokens.entries()) {
      parent = createHash("sha256").update(parent).update(String(token)).digest();
      this.hashes.set(parent, i * 32);
    }
  }

  /** The whole prompt, or a part of it, of one rank. */
  range(options: RangeOptions = {}): ChunkRequest {
    const { first = 0, end = this.chunks, rank = 0, worldSize = 1, salt = "" } = options;
    return {
      modelName: options.model ?? MODEL,
      worldSize,
      workerId: rank,
      cacheSalt: salt,
      requestId: options.requestId ?? "request",
      numKvReaders: options.readers ?? 1,
      firstChunk: first,
      endChunk: end,
      hashes: this.hashes.subarray(0, end * 32),
      tokensOfChunk: (chunk) => Buffer.from(`tokens of ${chunk}`),
    };
  }

  /** The same for all ranks: what a lookup asks for. */
  lookup(options: RangeOptions = {}): ChunkRequest {
    return this.range({ ...options, rank: null });
  }
}

/** A prompt of `chunks` chunks that shares nothing with one of another name. */
export function prompt(name: string, chunks: number): Prompt {
  return new Prompt(Array.from({ length: chunks }, () => name));
}

/** The bytes that an object must have: different for each chunk, rank, tenant, model and layout. */
export function contentOf(request: ChunkRequest, chunk: number, layout: TestLayout): Buffer {
  const digest = createHash("sha256")
    .update(request.hashes.subarray(chunk * 32, chunk * 32 + 32))
    .update(
      JSON.stringify([
        request.modelName,
        request.worldSize,
        request.workerId,
        request.cacheSalt,
        layout.dtype,
        layout.shape,
        layout.blockSize,
      ]),
    )
    .digest();
  return Buffer.alloc(layout.objectBytes, digest);
}

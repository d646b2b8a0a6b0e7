import { createHash } from "node:crypto";
import { workerKvRank } from "@cache/contracts";

/** A chunk range of a request, as the storage manager takes it. */
export interface ChunkRequest {
  readonly modelName: string;
  readonly worldSize: number;
  /** Null: all ranks. */
  readonly workerId: number | null;
  readonly cacheSalt: string;
  readonly requestId: string;
  readonly numKvReaders: number;
  readonly firstChunk: number;
  readonly endChunk: number;
  /** Digests of chunks 0..endChunk, 32 bytes each. */
  readonly hashes: Uint8Array;
  /** What a lookup loads from L2 stays in L1, whatever the prefetch policy says. */
  readonly retain?: boolean;
  /** Token ids of a chunk, big-endian; valid only until the call returns. */
  tokensOfChunk(chunk: number): Uint8Array;
}

/** A slot as a client is told of it. */
export interface SlotAnswer {
  readonly offset: number;
  readonly length: number;
  readonly shape: readonly number[];
  readonly dtype: string;
}

/** The kv ranks that a request names. */
export function kvRanksOf(request: ChunkRequest): number[] {
  if (request.workerId !== null) return [workerKvRank(request.worldSize, request.workerId)];
  return Array.from({ length: request.worldSize }, (_, worker) => workerKvRank(request.worldSize, worker));
}

/**
 * What makes two transfer calls the same transfer: instance, request, model, rank, range, tenant and (through the
 * last digest) the tokens.
 */
export function matchText(kind: "write" | "read", instance: bigint, request: ChunkRequest): string {
  const digest = createHash("sha256");
  digest.update(
    JSON.stringify([
      kind,
      String(instance),
      request.requestId,
      request.modelName,
      request.worldSize,
      request.workerId,
      request.firstChunk,
      request.endChunk,
      request.cacheSalt,
    ]),
  );
  if (request.endChunk > 0)
    digest.update(request.hashes.subarray((request.endChunk - 1) * 32, request.endChunk * 32));
  return digest.digest("hex").slice(0, 32);
}

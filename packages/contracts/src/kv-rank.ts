import { CacheError } from "./errors.ts";

/** The parts of a kv rank, each 0..255 (sizes 1..255). */
export interface KvRankParts {
  readonly worldSize: number;
  readonly globalRank: number;
  readonly localWorldSize: number;
  readonly localRank: number;
}

/**
 * Packs a kv rank: `world_size<<24 | global_rank<<16 | local_world_size<<8 | local_rank`, eight bits each
 * (LMCache 0.5.6). LMCache does not check the ranges, and an overflow there spills into the neighbour.
 *
 * @throws CacheError `INVALID_KEY` when a part does not fit.
 */
export function packKvRank(parts: KvRankParts): number {
  const { worldSize, globalRank, localWorldSize, localRank } = parts;
  const fits = (size: number, rank: number): boolean =>
    Number.isInteger(size) && Number.isInteger(rank) && size >= 1 && size <= 255 && rank >= 0 && rank < size;
  if (!fits(worldSize, globalRank) || !fits(localWorldSize, localRank)) {
    throw new CacheError(
      "INVALID_KEY",
      `rank ${globalRank} of ${worldSize} (local ${localRank} of ${localWorldSize}) cannot be packed: sizes are 1..255 and a rank is below its size`,
    );
  }
  return ((worldSize << 24) | (globalRank << 16) | (localWorldSize << 8) | localRank) >>> 0;
}

/** The kv rank that LMCache's multiprocess server gives to a worker: local parts equal the global ones. */
export function workerKvRank(worldSize: number, workerId: number): number {
  return packKvRank({ worldSize, globalRank: workerId, localWorldSize: worldSize, localRank: workerId });
}

/** Takes a packed kv rank apart. Never throws: any 32-bit value has parts. */
export function unpackKvRank(kvRank: number): KvRankParts {
  return {
    worldSize: (kvRank >>> 24) & 0xff,
    globalRank: (kvRank >>> 16) & 0xff,
    localWorldSize: (kvRank >>> 8) & 0xff,
    localRank: kvRank & 0xff,
  };
}

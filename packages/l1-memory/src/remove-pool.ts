import { closeSync, unlinkSync } from "node:fs";
import { lstat, readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { CacheError } from "@cache/contracts";
import type { FileLockOptions } from "@cache/libc";
import { SHM_DIRECTORY } from "./open-pool.ts";
import {
  assertNotForeignAndMapped,
  leadsTo,
  lockPoolFile,
  openExisting,
  readTrailerBytes,
} from "./pool-file.ts";
import { POOL_NAME_PREFIX } from "./pool-name.ts";
import { decodeTrailer } from "./trailer.ts";

/** A pool file as found. */
export interface PoolListing {
  readonly path: string;
  /** File name, with the prefix. */
  readonly name: string;
  /** Length of the file in bytes, ours with its last 4,096. */
  readonly fileBytes: number;
  /** Bytes of memory that it takes now. */
  readonly residentBytes: number;
  /** Ids of a pool that this engine made; null if it is none or cannot be read. */
  readonly poolId: string | null;
  readonly journalId: string | null;
}

function idsOf(path: string): Pick<PoolListing, "poolId" | "journalId"> {
  let fd: number | null = null;
  try {
    fd = openExisting(path);
    const trailer = fd === null ? null : decodeTrailer(readTrailerBytes(fd));
    if (trailer !== null && "poolId" in trailer) {
      return { poolId: trailer.poolId, journalId: trailer.journalId };
    }
  } catch {
    // Another user's: listed all the same.
  } finally {
    if (fd !== null) closeSync(fd);
  }
  return { poolId: null, journalId: null };
}

/** The pool files in a directory of shared memory, by name. Takes no lock. */
export async function listPools(shmDirectory: string = SHM_DIRECTORY): Promise<PoolListing[]> {
  const pools: PoolListing[] = [];
  for (const name of (await readdir(shmDirectory)).sort()) {
    if (!name.startsWith(POOL_NAME_PREFIX)) continue;
    const path = join(shmDirectory, name);
    const stat = await lstat(path).catch(() => null);
    if (stat === null || !stat.isFile()) continue;
    pools.push({ path, name, fileBytes: stat.size, residentBytes: stat.blocks * 512, ...idsOf(path) });
  }
  return pools;
}

/**
 * Unlinks a pool file that no live process holds; clients that map it keep their memory until they end.
 *
 * @param path a file whose name begins with `lmcache_l1_pool_`.
 * @returns false if there is none.
 * @throws CacheError `LOCKED_BY_OTHER_PROCESS` if a live engine holds it, or if it is another server's and mapped;
 *   `LOCK_UNAVAILABLE`, `POOL_UNAVAILABLE`, `INVALID_ARGUMENT`.
 */
export async function removePool(path: string, options: FileLockOptions = {}): Promise<boolean> {
  if (!basename(path).startsWith(POOL_NAME_PREFIX)) {
    throw new CacheError(
      "INVALID_ARGUMENT",
      `${path} is no pool: its name must begin with ${POOL_NAME_PREFIX}`,
    );
  }
  const fd = openExisting(path);
  if (fd === null) return false;
  const lock = await lockPoolFile(fd, path, options);
  try {
    if (!leadsTo(path, fd)) return false;
    await assertNotForeignAndMapped(lock);
    unlinkSync(path);
    return true;
  } finally {
    lock.release();
  }
}

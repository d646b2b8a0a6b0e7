import { readFileSync, statfsSync } from "node:fs";
import { totalmem } from "node:os";

const GIB = 2 ** 30;
const DEFAULT_MAX_BYTES = 4 * GIB;
const DEFAULT_MIN_BYTES = 16 * 2 ** 20;

/** What the default L1 size is chosen from, in bytes; null where it cannot be told. */
export interface MemoryFacts {
  readonly totalBytes: number;
  readonly cgroupLimitBytes: number | null;
  /** All of it, used or free: a pool that is kept must not change what the next start asks for. */
  readonly shmTotalBytes: number | null;
}

/** The least of 4 GiB, a quarter of the memory and half of /dev/shm; at least 16 MiB, whole MiB. */
export function defaultL1SizeBytes(facts: MemoryFacts): number {
  const memory = Math.min(facts.totalBytes, facts.cgroupLimitBytes ?? Number.POSITIVE_INFINITY);
  const candidates = [DEFAULT_MAX_BYTES, memory / 4];
  if (facts.shmTotalBytes !== null) candidates.push(facts.shmTotalBytes / 2);
  const mib = 2 ** 20;
  return Math.max(DEFAULT_MIN_BYTES, Math.floor(Math.min(...candidates) / mib) * mib);
}

/** Reads the facts of this machine. */
export function memoryFacts(shmDirectory = "/dev/shm"): MemoryFacts {
  let shmTotalBytes: number | null = null;
  try {
    const stat = statfsSync(shmDirectory);
    shmTotalBytes = stat.blocks * stat.bsize;
  } catch {
    // No /dev/shm: the pool itself says what that means.
  }
  return { totalBytes: totalmem(), cgroupLimitBytes: cgroupLimitBytes(), shmTotalBytes };
}

function cgroupLimitBytes(): number | null {
  for (const file of ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]) {
    try {
      const limit = Number(readFileSync(file, "utf8").trim());
      if (Number.isFinite(limit) && limit > 0) return limit;
    } catch {
      // That cgroup version is not mounted.
    }
  }
  return null;
}

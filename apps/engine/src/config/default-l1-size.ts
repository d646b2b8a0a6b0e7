import { readFileSync, statfsSync } from "node:fs";
import { totalmem } from "node:os";

const GIB = 2 ** 30;
const DEFAULT_MAX_BYTES = 4 * GIB;
const DEFAULT_MIN_BYTES = 64 * 2 ** 20;

/** What the default L1 size is chosen from, in bytes; null where it cannot be told. */
export interface MemoryFacts {
  readonly totalBytes: number;
  readonly cgroupLimitBytes: number | null;
  readonly shmFreeBytes: number | null;
}

/** The least of 4 GiB, a quarter of the memory and half of what /dev/shm has free; at least 64 MiB, whole MiB. */
export function defaultL1SizeBytes(facts: MemoryFacts): number {
  const memory = Math.min(facts.totalBytes, facts.cgroupLimitBytes ?? Number.POSITIVE_INFINITY);
  const candidates = [DEFAULT_MAX_BYTES, memory / 4];
  if (facts.shmFreeBytes !== null) candidates.push(facts.shmFreeBytes / 2);
  const mib = 2 ** 20;
  return Math.max(DEFAULT_MIN_BYTES, Math.floor(Math.min(...candidates) / mib) * mib);
}

/** Reads the facts of this machine. */
export function memoryFacts(shmDirectory = "/dev/shm"): MemoryFacts {
  let shmFreeBytes: number | null = null;
  try {
    const stat = statfsSync(shmDirectory);
    shmFreeBytes = stat.bavail * stat.bsize;
  } catch {
    // No /dev/shm: the pool itself says what that means.
  }
  return { totalBytes: totalmem(), cgroupLimitBytes: cgroupLimitBytes(), shmFreeBytes };
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

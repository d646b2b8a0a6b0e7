import { join } from "node:path";
import { CacheError } from "@cache/contracts";
import { AnonymousPool } from "./anonymous-pool.ts";
import { assertRoom, type MachineRoomOptions } from "./machine-room.ts";
import { openPoolFile } from "./pool-file.ts";
import { poolFileName } from "./pool-name.ts";
import { SharedPool } from "./shared-pool.ts";
import type { L1Pool, L1PoolOptions } from "./types.ts";

/** Where POSIX shared memory lies on Linux. */
export const SHM_DIRECTORY = "/dev/shm";
const ALIGN_BYTES_MIN = 4096;

function assertOptions(options: L1PoolOptions): void {
  const { sizeBytes, alignBytes, journalId, mode } = options;
  const wrong = (text: string): never => {
    throw new CacheError("INVALID_CONFIG", text);
  };
  if (!(alignBytes >= ALIGN_BYTES_MIN) || !Number.isInteger(Math.log2(alignBytes)) || alignBytes > 2 ** 32) {
    wrong(`--l1-align-bytes must be a power of two from ${ALIGN_BYTES_MIN} to 2^32, got ${alignBytes}`);
  }
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes % alignBytes !== 0) {
    wrong(`L1 must have a positive multiple of ${alignBytes} bytes, got ${sizeBytes}; change --l1-size-gb`);
  }
  if (mode !== undefined && (!Number.isInteger(mode) || (mode & ~0o666) !== 0 || (mode & 0o600) !== 0o600)) {
    wrong(
      `--shm-mode must lie between 0600 and 0666 and let the owner read and write, got ${mode.toString(8)}`,
    );
  }
  if (!/^[0-9a-f]{32}$/.test(journalId)) throw new TypeError(`journalId must be 32 hex digits: ${journalId}`);
}

/**
 * Creates L1, or takes over the pool of an earlier process if every check holds; says in `refusal` which failed.
 * Holds the lock of the pool file until `close`. No page is reserved yet: call `reserve`.
 *
 * A pool that another live process holds is never touched. An old pool that is not taken over is unlinked and not
 * truncated: a client may still map it.
 *
 * @param machine other places of /proc and /sys/fs/cgroup, for tests.
 * @throws CacheError `LOCKED_BY_OTHER_PROCESS`, `LOCK_UNAVAILABLE`, `POOL_TOO_LARGE`, `POOL_UNAVAILABLE`,
 *   `INVALID_CONFIG`.
 */
export async function openL1Pool(options: L1PoolOptions, machine: MachineRoomOptions = {}): Promise<L1Pool> {
  assertOptions(options);
  const name = poolFileName(options.shmName);
  if (name === "") {
    await assertRoom(null, options.sizeBytes, machine);
    return new AnonymousPool(options);
  }
  const path = join(options.shmDirectory ?? SHM_DIRECTORY, name);
  const file = await openPoolFile(path, options, machine);
  try {
    return new SharedPool(file, options, machine.procDirectory);
  } catch (error) {
    file.lock.release();
    throw error instanceof CacheError
      ? error
      : new CacheError("POOL_UNAVAILABLE", `the pool ${path} cannot be mapped: ${String(error)}`, {
          cause: error,
        });
  }
}

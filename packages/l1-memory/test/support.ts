import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterEach } from "vitest";
import { type L1Pool, type L1PoolOptions, openL1Pool } from "../src/index.ts";

export const MIB = 2 ** 20;
export const JOURNAL_ID = "0123456789abcdef0123456789abcdef";

const pools: L1Pool[] = [];
const directories: string[] = [];

afterEach(async () => {
  for (const pool of pools.splice(0)) await pool.close({ keep: false });
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true });
});

/** An empty directory of shared memory, removed after the test. */
export function shmDirectory(): string {
  const directory = mkdtempSync("/dev/shm/cache-l1-test-");
  directories.push(directory);
  return directory;
}

/** Options of a small pool in that directory. */
export function poolOptions(directory: string, more: Partial<L1PoolOptions> = {}): L1PoolOptions {
  return {
    shmName: "test",
    sizeBytes: MIB,
    alignBytes: 4096,
    shmDirectory: directory,
    journalId: JOURNAL_ID,
    expected: null,
    ...more,
  };
}

/** Opens a pool that is closed after the test. */
export async function openPool(...args: Parameters<typeof openL1Pool>): Promise<L1Pool> {
  const pool = await openL1Pool(...args);
  pools.push(pool);
  return pool;
}

/** Path of the pool file of {@link poolOptions}. */
export function poolPath(directory: string): string {
  return join(directory, "lmcache_l1_pool_test");
}

/** What a promise is rejected with. */
export async function rejection(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  return promise.then(
    () => {
      throw new Error("it was not rejected");
    },
    (error: Error) => error,
  );
}

import { acquireFileLock, type FileLock } from "@cache/libc";
import type { Command } from "commander";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { POOL_NAME_FILE } from "../config/state-directory.ts";
import { loadConfig } from "../config/load-config.ts";
import { typedFlags } from "./config-flags.ts";
import { say } from "./output.ts";

const SHM_DIRECTORY = "/dev/shm";
const POOL_PREFIX = "lmcache_l1_pool_";

/**
 * `cache-engine purge`: removes the pool of an engine that is not running, with `--state` its state directory too.
 * Takes the locks that a running engine holds, so that nothing in use is removed.
 */
export async function purge(command: Command): Promise<void> {
  const { json, state, config: file, ...flags } = typedFlags(command);
  const configFile = typeof file === "string" ? file : undefined;
  const { config } = await loadConfig({ flags, configFile, environment: process.env });
  const directory = config.state.directory;
  const pool = poolPath(
    flags["shm_name"] === undefined ? (notedPoolName(directory) ?? config.l1.shmName) : config.l1.shmName,
  );
  const journal = directory === null ? null : join(directory, "journal");
  const present = (path: string | null): path is string => path !== null && existsSync(path);
  const locks: FileLock[] = [];
  const removed: string[] = [];
  try {
    // The state directory is locked whatever is removed: a running engine without shared memory holds only that.
    for (const path of [directory, journal, pool].filter(present)) locks.push(await acquireFileLock(path));
    const doomed = [pool, state === true ? directory : null].filter(present);
    for (const path of doomed) {
      rmSync(path, { recursive: true, force: true });
      removed.push(path);
    }
  } finally {
    for (const lock of locks) lock.release();
  }
  if (json === true) say(JSON.stringify({ removed }));
  else if (removed.length === 0)
    say(
      `nothing to remove: ${pool ?? "no shared memory"}${state === true ? `, ${directory ?? "no state directory"}` : ""}`,
    );
  else for (const path of removed) say(`removed ${path}`);
}

/** Name of the pool that the engine of this state directory used last; null if it noted none. */
function notedPoolName(directory: string | null): string | null {
  if (directory === null) return null;
  const file = join(directory, POOL_NAME_FILE);
  return existsSync(file) ? readFileSync(file, "utf8").trim() : null;
}

/** Path of the pool file of a name, null for no shared memory. */
export function poolPath(shmName: string): string | null {
  if (shmName === "") return null;
  return join(SHM_DIRECTORY, shmName.startsWith(POOL_PREFIX) ? shmName : `${POOL_PREFIX}${shmName}`);
}

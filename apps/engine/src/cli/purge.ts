import { CacheError, hasCode } from "@cache/contracts";
import { acquireFileLock, type FileLock } from "@cache/libc";
import type { Command } from "commander";
import { lstatSync, statSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { type LoadedConfig, loadConfig } from "../config/load-config.ts";
import {
  notedPoolName,
  type RemovedState,
  removeState,
  type StateContents,
  stateContents,
} from "../engine/state-contents.ts";
import { journalDirectory } from "../engine/state-lock.ts";
import { typedFlags } from "./config-flags.ts";
import { say } from "./output.ts";

const SHM_DIRECTORY = "/dev/shm";
const POOL_PREFIX = "lmcache_l1_pool_";
/** Most entries that are named as left. */
const LEFT_SHOWN_MAX = 10;

/** What to remove. Null: nothing of that kind. */
interface Doomed {
  readonly pool: string | null;
  /** The state directory, if it is there. */
  readonly directory: string | null;
  /** What to say where one of both cannot be known. */
  readonly note: string | null;
}

/**
 * `cache-engine purge`: removes the pool of an engine that is not running, with `--state` what the engine made in its
 * state directory too. Takes the locks that a running engine holds, so that nothing in use is removed.
 */
export async function purge(command: Command): Promise<void> {
  const { json, state, config: file, ...flags } = typedFlags(command);
  const configFile = typeof file === "string" ? file : undefined;
  const loaded = await loadConfig({ flags, configFile, environment: process.env });
  const doomed = whatIsMeant(loaded, flags["shm_name"] !== undefined, state === true);
  const { pool, directory } = doomed;
  const locks: FileLock[] = [];
  let removed: string[] = [];
  let rest: Omit<RemovedState, "removed"> = { cleared: [], left: [] };
  try {
    // The state directory is locked whatever is removed: a running engine without shared memory holds only that.
    if (directory !== null) {
      locks.push(await lock(directory));
      if (isDirectory(journalDirectory(directory))) locks.push(await lock(journalDirectory(directory)));
    }
    if (isFile(pool)) locks.push(await lock(pool));
    const contents = state === true && directory !== null ? contentsOf(directory) : null;
    if (isFile(pool)) {
      unlinkSync(pool);
      removed.push(pool);
    }
    if (contents !== null && directory !== null) {
      const { removed: more, ...others } = removeState(directory, contents);
      removed = [...removed, ...more];
      rest = others;
    }
  } finally {
    for (const one of locks) one.release();
  }
  if (json === true) say(JSON.stringify({ removed, ...rest, note: doomed.note }));
  else tell(doomed, { removed, ...rest });
}

/**
 * Which pool and which state directory: the name that the directory notes, unless one is typed. A name is derived
 * from the instance only together with the directory that is.
 *
 * @throws CacheError `INVALID_ARGUMENT` where it would be a guess.
 */
function whatIsMeant({ config, origins }: LoadedConfig, typed: boolean, withState: boolean): Doomed {
  const { directory } = config.state;
  const isNamed = origins["shm_name"] !== "default";
  const isGiven = origins["state_dir"] !== "default";
  const pool = poolPath(config.l1.shmName);
  if (directory === null) {
    if (isNamed) return { pool, directory, note: withState ? "--state-dir none: there is no state" : null };
    throw invalid("--state-dir none notes no pool's name; say which pool: --shm-name NAME");
  }
  if (!isDirectory(directory)) {
    if (isGiven)
      throw invalid(`the state directory ${directory} does not exist; check --state-dir: as 'serve' had it`);
    const note = `no engine has kept state in ${directory}`;
    if (isNamed) return { pool, directory: null, note: withState ? note : null };
    const advice = "check --port or --instance-id, or name a pool with --shm-name";
    return { pool: null, directory: null, note: `nothing to purge: ${note}; ${advice}` };
  }
  if (typed) return { pool, directory, note: null };
  const noted = notedPoolName(directory);
  if (noted !== null) return { pool: poolPath(noted), directory, note: null };
  if (isNamed || !isGiven) return { pool, directory, note: null };
  const note = `${directory} names no pool: it has no pool-name of an engine`;
  if (withState) return { pool: null, directory, note: `${note}; --shm-name NAME frees one` };
  throw invalid(`${note}; check --state-dir, or say which pool: --shm-name NAME`);
}

/** @throws CacheError `INVALID_ARGUMENT` if no engine has used the directory. */
function contentsOf(directory: string): StateContents {
  const contents = stateContents(directory);
  if (contents.recognised) return contents;
  throw invalid(
    `${directory} is no state directory of an engine: it has neither journal files (journal/) nor a pool-name; ` +
      "nothing was removed, check --state-dir",
  );
}

/** @throws CacheError `LOCKED_BY_OTHER_PROCESS` if an engine runs on it. */
async function lock(path: string): Promise<FileLock> {
  try {
    return await acquireFileLock(path);
  } catch (error) {
    if (!hasCode(error, "LOCKED_BY_OTHER_PROCESS")) throw error;
    const held = error.message.split(";", 1)[0];
    const text = `${held}; nothing was removed: stop that engine first, then purge`;
    throw new CacheError("LOCKED_BY_OTHER_PROCESS", text, { cause: error, details: error.details });
  }
}

function tell({ pool, directory, note }: Doomed, { removed, cleared, left }: RemovedState): void {
  for (const path of removed) say(`removed ${path}`);
  for (const path of cleared) say(`removed the engine's files in ${path}`);
  if (left.length > 0 && left[0] === directory)
    say(`left ${directory}: it is empty and could not be removed`);
  else {
    for (const path of left.slice(0, LEFT_SHOWN_MAX)) say(`left ${path}: no engine made it`);
    if (left.length > LEFT_SHOWN_MAX) say(`left ${left.length - LEFT_SHOWN_MAX} more`);
  }
  if (note !== null) say(note);
  else if (removed.length + cleared.length === 0) say(`nothing to remove: ${pool ?? "no shared memory"}`);
}

function invalid(text: string): CacheError {
  return new CacheError("INVALID_ARGUMENT", text);
}

function isFile(path: string | null): path is string {
  return path !== null && lstatSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

/** Path of the pool file of a name, null for no shared memory. */
export function poolPath(shmName: string): string | null {
  if (shmName === "") return null;
  return join(SHM_DIRECTORY, shmName.startsWith(POOL_PREFIX) ? shmName : `${POOL_PREFIX}${shmName}`);
}

import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { CacheError, messageOf } from "@cache/contracts";
import { type KernelCalls, kernelCalls } from "./kernel-calls.ts";
import { findLockHolder } from "./lock-holder.ts";
import { runApplet } from "./run-command.ts";

/** How a lock is taken. One mechanism only is ever used: `flock(2)`; a second kind would not exclude the first. */
export type FileLockMechanism = "koffi" | "flock-command";

/** An exclusive `flock(2)`, held until `release` or until the process is really gone. */
export interface FileLock {
  readonly path: string;
  readonly mechanism: FileLockMechanism;
  /** Descriptor that holds the lock; it stays open. */
  readonly fd: number;
  /** Idempotent. */
  release(): void;
}

/** Options of {@link acquireFileLock} and {@link lockDescriptor}. */
export interface FileLockOptions {
  /** False: act as if koffi were absent. */
  readonly useKoffi?: boolean;
}

/** The command takes milliseconds; on a hung network filesystem it is ended after this time. */
const FLOCK_TIMEOUT_MS = 10_000;

function unavailable(path: string, cause: string, error?: unknown): CacheError {
  return new CacheError(
    "LOCK_UNAVAILABLE",
    `cannot lock ${path}: ${cause}`,
    error === undefined ? {} : { cause: error },
  );
}

function lockByKoffi(calls: KernelCalls, fd: number, path: string): boolean {
  try {
    return calls.tryFlock(fd);
  } catch (error) {
    throw unavailable(path, `${messageOf(error)}; put it on a filesystem that supports flock(2)`, error);
  }
}

/** `flock -n -x 3` locks the open file description that it inherits as descriptor 3: ours. */
async function lockByCommand(fd: number, path: string): Promise<boolean> {
  const result = await runApplet("flock", ["-n", "-x", "3"], fd, FLOCK_TIMEOUT_MS);
  if (result === null) {
    throw unavailable(
      path,
      "koffi is not in use and there is no command flock; " +
        "install the npm package koffi, or util-linux (or busybox with the applet flock)",
    );
  }
  if (result.status === 0) return true;
  // Both util-linux and busybox end with 1 and say nothing if another holds the lock.
  if (result.status === 1 && result.stderr === "") return false;
  const cause = result.stderr || `ended by ${result.signal ?? `status ${result.status}`}`;
  throw unavailable(path, `the command flock failed: ${cause}`);
}

/**
 * Takes an exclusive lock on an open file or directory without waiting. The lock belongs to the open file
 * description: a mapping made through `fd` would keep it after `release`, so map through another descriptor.
 *
 * @param fd belongs to the lock from now on: `release` closes it, and so does a failure.
 * @param path what `fd` leads to; for messages.
 * @throws CacheError as {@link acquireFileLock}.
 */
export async function lockDescriptor(
  fd: number,
  path: string,
  options: FileLockOptions = {},
): Promise<FileLock> {
  let open = true;
  const release = (): void => {
    if (!open) return;
    open = false;
    closeSync(fd);
  };
  try {
    const calls = kernelCalls(options);
    const locked = calls === null ? await lockByCommand(fd, path) : lockByKoffi(calls, fd, path);
    if (!locked) {
      const { dev, ino } = fstatSync(fd, { bigint: true });
      const holder = await findLockHolder(dev, ino).catch(() => null);
      throw new CacheError(
        "LOCKED_BY_OTHER_PROCESS",
        `${path} is locked by ${holder ?? "another live process"}; stop it, or use another path`,
        { details: { path, holder } },
      );
    }
    return { path, mechanism: calls === null ? "flock-command" : "koffi", fd, release };
  } catch (error) {
    release();
    throw error;
  }
}

/**
 * Takes an exclusive lock on a file or directory without waiting.
 *
 * @param path an existing file or directory.
 * @throws CacheError `LOCKED_BY_OTHER_PROCESS` if another open file description holds it,
 *   `LOCK_UNAVAILABLE` if neither koffi nor a `flock` command can be had, or the path cannot be opened.
 */
export async function acquireFileLock(path: string, options: FileLockOptions = {}): Promise<FileLock> {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY);
  } catch (error) {
    throw unavailable(path, messageOf(error), error);
  }
  return lockDescriptor(fd, path, options);
}

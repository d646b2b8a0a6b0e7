import { CacheError } from "@cache/contracts";

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

/**
 * Takes an exclusive lock on a file or directory without waiting.
 *
 * @param path an existing file or directory.
 * @throws CacheError `LOCKED_BY_OTHER_PROCESS` if another open file description holds it,
 *   `LOCK_UNAVAILABLE` if neither koffi nor a `flock` command can be had.
 */
export async function acquireFileLock(path: string, options: { useKoffi?: boolean } = {}): Promise<FileLock> {
  throw new CacheError("LOCK_UNAVAILABLE", `not built yet: ${path} ${String(options.useKoffi)}`);
}

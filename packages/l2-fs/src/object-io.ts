import { constants } from "node:fs";
import { CacheError } from "@cache/contracts";
import { errnoOf, type FsPort } from "./fs-port.ts";

/** Objects of at least this size are looked at again after the read; also the bound of the future small path. */
const LARGE_OBJECT_BYTES = 256 * 1024;

/** How objects are read and written. */
export interface ObjectIoOptions {
  readonly fileMode: number;
  readonly fsync: "none" | "data" | "full";
  readonly readAheadBytes: number | null;
  /** Whether this object can go past the page cache: see {@link canBypassCache}. */
  readonly direct: boolean;
  /** Told when O_DIRECT was refused and the page cache was used instead. */
  onDirectRefused(): void;
}

/** `whole`, or why the object is a miss. */
export type ReadOutcome = "whole" | "absent" | "other-length" | "shrank";

/** True if length and address are multiples of the filesystem's block, or the address is not known. */
export function canBypassCache(byteLength: number, address: bigint | null, blockBytes: number): boolean {
  if (blockBytes <= 0 || byteLength === 0 || byteLength % blockBytes !== 0) return false;
  return address === null || address % BigInt(blockBytes) === 0n;
}

async function closeQuietly(port: FsPort, fd: number): Promise<void> {
  await port.close(fd).catch(() => undefined);
}

/** Runs with O_DIRECT where asked, and once more without if the filesystem or the buffer does not allow it. */
async function tryDirect<T>(options: ObjectIoOptions, run: (flags: number) => Promise<T>): Promise<T> {
  if (!options.direct) return run(0);
  try {
    return await run(constants.O_DIRECT ?? 0);
  } catch (error) {
    if (errnoOf(error) !== "EINVAL" && errnoOf(error) !== "EOPNOTSUPP") throw error;
    options.onDirectRefused();
    return run(0);
  }
}

/** Fills `into` from the start of the file; false if the file ended before. */
async function readFully(
  port: FsPort,
  fd: number,
  into: Uint8Array,
  headBytes: number | null,
): Promise<boolean> {
  let done = 0;
  while (done < into.byteLength) {
    const end = done === 0 && headBytes !== null ? Math.min(headBytes, into.byteLength) : into.byteLength;
    const count = await port.read(fd, into.subarray(done, end), done);
    if (count === 0) return false;
    done += count;
  }
  return true;
}

/**
 * Reads a whole object straight into `into`. Anything that is not a regular file of exactly that length is a
 * miss; `into` may then hold anything.
 *
 * @throws the error of a failed call, as Node gives it.
 */
export async function readObject(
  port: FsPort,
  path: string,
  into: Uint8Array,
  options: ObjectIoOptions,
): Promise<ReadOutcome> {
  // O_NONBLOCK: a FIFO of that name must not hold a thread for ever.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  return tryDirect(options, async (direct) => {
    let fd: number;
    try {
      fd = await port.open(path, flags | direct);
    } catch (error) {
      if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ELOOP") return "absent";
      throw error;
    }
    try {
      const before = await port.fstat(fd);
      if (!before.isFile()) return "absent";
      if (before.size !== into.byteLength) return "other-length";
      if (!(await readFully(port, fd, into, direct === 0 ? options.readAheadBytes : null))) return "shrank";
      if (into.byteLength >= LARGE_OBJECT_BYTES) {
        const after = await port.fstat(fd);
        if (after.size !== before.size || after.mtimeMs !== before.mtimeMs) return "shrank";
      }
      return "whole";
    } finally {
      await closeQuietly(port, fd);
    }
  });
}

async function writeFully(
  port: FsPort,
  fd: number,
  bytes: Uint8Array,
  isStopped: () => boolean,
): Promise<void> {
  let done = 0;
  while (done < bytes.byteLength) {
    if (isStopped()) throw new CacheError("ABORTED", "the store was aborted before all bytes were written");
    const count = await port.write(fd, bytes.subarray(done), done);
    if (count === 0) throw Object.assign(new Error("write returned 0 bytes"), { code: "EIO" });
    done += count;
  }
}

/** Makes a rename last: the directory's own entry goes to the disk. */
async function syncDirectory(port: FsPort, path: string): Promise<void> {
  const fd = await port.open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await port.fsync(fd);
  } finally {
    await closeQuietly(port, fd);
  }
}

async function writeTemporary(
  port: FsPort,
  temporaryPath: string,
  bytes: Uint8Array,
  options: ObjectIoOptions,
  flags: number,
  isStopped: () => boolean,
): Promise<void> {
  const create = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const fd = await port.open(temporaryPath, create | flags, options.fileMode);
  let open = true;
  try {
    // The umask took away what a shared deployment asks for.
    if ((options.fileMode & 0o077) !== 0) await port.fchmod(fd, options.fileMode);
    await writeFully(port, fd, bytes, isStopped);
    if (options.fsync !== "none") await port.fdatasync(fd);
    open = false;
    await port.close(fd); // may report that the disk or the quota is full (NFS)
  } catch (error) {
    if (open) await closeQuietly(port, fd);
    await port.unlink(temporaryPath).catch(() => undefined);
    throw error;
  }
}

/**
 * Writes an object so that its name never leads to a part of it: a new temporary, written whole, then renamed.
 * On any failure the temporary is removed.
 *
 * @param isStopped asked before each write; true ends the store early. *
 * @throws CacheError `ABORTED`, or the error of a failed call, as Node gives it.
 */
export async function writeObject(
  port: FsPort,
  paths: { readonly directory: string; readonly temporary: string; readonly final: string },
  bytes: Uint8Array,
  options: ObjectIoOptions,
  isStopped: () => boolean,
): Promise<void> {
  await tryDirect(options, (flags) =>
    writeTemporary(port, paths.temporary, bytes, options, flags, isStopped),
  );
  try {
    await port.rename(paths.temporary, paths.final);
  } catch (error) {
    await port.unlink(paths.temporary).catch(() => undefined);
    throw error;
  }
  if (options.fsync === "full") await syncDirectory(port, paths.directory);
}

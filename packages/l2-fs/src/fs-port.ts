import * as fs from "node:fs";
import { CacheError, type CacheErrorCode, isCacheError, messageOf } from "@cache/contracts";
import { CALL_BYTES_MAX, errnoOf } from "./file-job.ts";

/**
 * The calls by which the adapter touches the outside: the one seam to the filesystem, replaceable in tests. Each
 * is one system call; a promise settles when the call has returned, so nothing touches a buffer afterwards.
 */
export interface FsPort {
  open(path: string, flags: number, mode?: number): Promise<number>;
  close(fd: number): Promise<void>;
  fstat(fd: number): Promise<fs.Stats>;
  fchmod(fd: number, mode: number): Promise<void>;
  /** Reads into all of `into` or less, from `position`; the number of bytes read. */
  read(fd: number, into: Uint8Array, position: number): Promise<number>;
  /** Writes all of `from` or less at `position`; the number of bytes written. */
  write(fd: number, from: Uint8Array, position: number): Promise<number>;
  fdatasync(fd: number): Promise<void>;
  fsync(fd: number): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  /** Null if nothing is there. */
  lstat(path: string): Promise<fs.Stats | null>;
  /** Null if nothing is there. */
  stat(path: string): Promise<fs.Stats | null>;
  /** Makes a directory and those above it that are absent. */
  makeDirectory(path: string, mode: number): Promise<void>;
  chmod(path: string, mode: number): Promise<void>;
  access(path: string, mode: number): Promise<void>;
  /** Streams a directory; nothing of it is held but one batch. */
  opendir(path: string): Promise<fs.Dir>;
  statfs(path: string): Promise<{ bavail: number; bsize: number }>;
}

type Callback<T> = (error: NodeJS.ErrnoException | null, value: T) => void;

/** Callbacks and not `fs.promises`: fewer allocations for each call (measured, 64 KiB objects). */
function call<T>(start: (done: Callback<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => (error === null || error === undefined ? resolve(value) : reject(error)));
  });
}

function orNull<T>(found: Promise<T>): Promise<T | null> {
  return found.catch((error: unknown) => {
    if (errnoOf(error) === "ENOENT") return null;
    throw error;
  });
}

/** The real filesystem. */
export const nodeFsPort: FsPort = {
  open: (path, flags, mode) => call((done) => fs.open(path, flags, mode ?? 0, done)),
  close: (fd) => call<void>((done) => fs.close(fd, done)),
  fstat: (fd) => call<fs.Stats>((done) => fs.fstat(fd, done)),
  fchmod: (fd, mode) => call<void>((done) => fs.fchmod(fd, mode, done)),
  read: (fd, into, position) =>
    call((done) => fs.read(fd, into, 0, Math.min(into.byteLength, CALL_BYTES_MAX), position, done)),
  write: (fd, from, position) =>
    call((done) => fs.write(fd, from, 0, Math.min(from.byteLength, CALL_BYTES_MAX), position, done)),
  fdatasync: (fd) => call<void>((done) => fs.fdatasync(fd, done)),
  fsync: (fd) => call<void>((done) => fs.fsync(fd, done)),
  rename: (from, to) => call<void>((done) => fs.rename(from, to, done)),
  unlink: (path) => call<void>((done) => fs.unlink(path, done)),
  lstat: (path) => orNull(call<fs.Stats>((done) => fs.lstat(path, done))),
  stat: (path) => orNull(call<fs.Stats>((done) => fs.stat(path, done))),
  async makeDirectory(path, mode) {
    const { ensureDir } = await import("fs-extra/esm"); // loaded only where something has to be made
    await ensureDir(path, { mode });
  },
  chmod: (path, mode) => call<void>((done) => fs.chmod(path, mode, done)),
  access: (path, mode) => call<void>((done) => fs.access(path, mode, done)),
  opendir: (path) => call((done) => fs.opendir(path, { bufferSize: 256 }, done)),
  statfs: (path) => call<fs.StatsFs>((done) => fs.statfs(path, done)),
};

const REMEDIES: Readonly<Record<string, readonly [CacheErrorCode, string]>> = {
  ENOSPC: ["BACKEND_FULL", "free space there, or set a lower max_capacity_gb with eviction"],
  EDQUOT: [
    "BACKEND_FULL",
    "the disk quota is used up: raise it, or set a lower max_capacity_gb with eviction",
  ],
  EFBIG: ["BACKEND_FULL", "the filesystem or the process's file size limit does not allow a file so large"],
  EACCES: ["BACKEND_REFUSED", "give the engine's user read and write permission there"],
  EPERM: ["BACKEND_REFUSED", "give the engine's user read and write permission there"],
  EROFS: ["BACKEND_REFUSED", "mount the filesystem writable, or choose another base_path"],
  ENOTDIR: ["BACKEND_REFUSED", "a part of the path is not a directory: choose another base_path"],
  EISDIR: ["BACKEND_REFUSED", "a directory has the name of an object: move it away"],
  ELOOP: ["BACKEND_REFUSED", "a symbolic link has the name of an object: move it away"],
  EMFILE: ["BACKEND_UNAVAILABLE", "raise the limit of open files (ulimit -n)"],
  ENFILE: ["BACKEND_UNAVAILABLE", "raise the system's limit of open files (fs.file-max)"],
  ENOENT: ["BACKEND_UNAVAILABLE", "the directory is gone: mount or make it again"],
};

/** A failed call as an error that names the path and the remedy. `CacheError`s pass unchanged. */
export function backendError(error: unknown, action: string, path: string): CacheError {
  if (isCacheError(error)) return error;
  const errno = errnoOf(error);
  const [code, remedy] = REMEDIES[errno] ?? [
    "BACKEND_UNAVAILABLE" as const,
    "look at the disk or mount, and at the kernel's log",
  ];
  const cause = errno === "" ? messageOf(error) : errno;
  return new CacheError(code, `cannot ${action} ${path}: ${cause}; ${remedy}`, {
    cause: error,
    details: { errno, path },
  });
}

/** What `stat` or `lstat` of a path gives; its failure as an error that names the path. */
export async function lookAt(call: Promise<fs.Stats | null>, path: string): Promise<fs.Stats | null> {
  try {
    return await call;
  } catch (error) {
    throw backendError(error, "look at", path);
  }
}

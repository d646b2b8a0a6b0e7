import { constants } from "node:fs";
import { createRequire } from "node:module";
import { getSystemErrorName } from "node:util";

/** What `statx` tells of a file. One object is filled again by each call. */
export interface FileFacts {
  isFile: boolean;
  bytes: number;
  /** When the bytes last changed. */
  modifiedSeconds: bigint;
  modifiedNanoseconds: number;
}

/**
 * Calls of the C library, each waiting until it has returned; about a microsecond, and no garbage, where Node's own
 * take three and a kilobyte. One that fails throws an `Error` with `code`, as Node's do. Addresses, lengths and
 * positions in bytes.
 */
export interface LibC {
  open(path: string, flags: number, mode: number): number;
  close(fd: number): void;
  /** Does not follow a link; null if nothing is there. */
  lstat(path: string): FileFacts | null;
  fstat(fd: number): FileFacts;
  fchmod(fd: number, mode: number): void;
  /** Reads all of `length` or less; the number of bytes read. */
  pread(fd: number, address: number, length: number, position: number): number;
  /** Writes all of `length` or less; the number of bytes written. */
  pwrite(fd: number, address: number, length: number, position: number): number;
  fdatasync(fd: number): void;
  fsync(fd: number): void;
  rename(from: string, to: string): void;
  unlink(path: string): void;
}

/** The parts of koffi that are used here. */
interface Koffi {
  load(path: null): { func(definition: string): (...args: unknown[]) => number };
  errno(): number;
}

// <fcntl.h>, <linux/stat.h>
const O_CLOEXEC = 0o2000000;
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const STATX_TYPE_MTIME_SIZE = 0x1 | 0x40 | 0x200;
const STATX_BYTES = 256;
// <errno.h>, the same on every architecture that Node has for Linux
const ENOENT = 2;
const EINTR = 4;

/** `struct statx`, which is the same on every architecture but for the order of bytes. */
class Statx {
  readonly bytes: Uint8Array = new Uint8Array(STATX_BYTES);
  readonly #u16 = new Uint16Array(this.bytes.buffer);
  readonly #u32 = new Uint32Array(this.bytes.buffer);
  readonly #i64 = new BigInt64Array(this.bytes.buffer);
  readonly #facts: FileFacts = { isFile: false, bytes: 0, modifiedSeconds: 0n, modifiedNanoseconds: 0 };

  facts(): FileFacts {
    const facts = this.#facts;
    facts.isFile = ((this.#u16[14] ?? 0) & constants.S_IFMT) === constants.S_IFREG;
    facts.bytes = Number(this.#i64[5]);
    facts.modifiedSeconds = this.#i64[14] ?? 0n;
    facts.modifiedNanoseconds = this.#u32[30] ?? 0;
    return facts;
  }
}

function failure(errno: number, call: string, path: string): Error {
  let code = `E${errno}`;
  try {
    code = getSystemErrorName(-errno);
  } catch {
    // A number that Node has no name for keeps the made-up one.
  }
  return Object.assign(new Error(`${code}: ${call} failed${path === "" ? "" : `: ${path}`}`), { code });
}

/** Binds the calls through koffi. Throws where koffi or one of the calls is missing. 64-bit Linux. */
export function bindLibC(): LibC {
  const koffi = createRequire(import.meta.url)("koffi") as Koffi;
  const lib = koffi.load(null);
  const c = {
    open: lib.func("int open(const char *path, int flags, int mode)"),
    close: lib.func("int close(int fd)"),
    statx: lib.func("int statx(int dirfd, const char *path, int flags, unsigned int mask, void *into)"),
    fchmod: lib.func("int fchmod(int fd, unsigned int mode)"),
    pread: lib.func("int64_t pread(int fd, uintptr_t into, size_t length, int64_t position)"),
    pwrite: lib.func("int64_t pwrite(int fd, uintptr_t from, size_t length, int64_t position)"),
    fdatasync: lib.func("int fdatasync(int fd)"),
    fsync: lib.func("int fsync(int fd)"),
    rename: lib.func("int rename(const char *from, const char *to)"),
    unlink: lib.func("int unlink(const char *path)"),
  };
  const statx = new Statx();
  const failed = (call: string, path = ""): Error => failure(koffi.errno(), call, path);
  const check = (result: number, call: string, path = ""): void => {
    if (result < 0) throw failed(call, path);
  };
  /** A number of bytes or a descriptor; a call that a signal interrupted is made again. */
  const again = (call: () => number, name: string, path = ""): number => {
    for (;;) {
      const result = call();
      if (result >= 0) return result;
      if (koffi.errno() !== EINTR) throw failed(name, path);
    }
  };
  return {
    open: (path, flags, mode) => again(() => c.open(path, flags | O_CLOEXEC, mode), "open", path),
    close: (fd) => {
      // Interrupted or not, Linux has closed it.
      if (c.close(fd) < 0 && koffi.errno() !== EINTR) throw failed("close");
    },
    lstat(path) {
      if (c.statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE_MTIME_SIZE, statx.bytes) < 0) {
        if (koffi.errno() === ENOENT) return null;
        throw failed("statx", path);
      }
      return statx.facts();
    },
    fstat(fd) {
      check(c.statx(fd, "", AT_EMPTY_PATH, STATX_TYPE_MTIME_SIZE, statx.bytes), "statx");
      return statx.facts();
    },
    fchmod: (fd, mode) => check(c.fchmod(fd, mode), "fchmod"),
    pread: (fd, address, length, position) => again(() => c.pread(fd, address, length, position), "pread"),
    pwrite: (fd, address, length, position) => again(() => c.pwrite(fd, address, length, position), "pwrite"),
    fdatasync: (fd) => check(c.fdatasync(fd), "fdatasync"),
    fsync: (fd) => check(c.fsync(fd), "fsync"),
    rename: (from, to) => check(c.rename(from, to), "rename", to),
    unlink: (path) => check(c.unlink(path), "unlink", path),
  };
}

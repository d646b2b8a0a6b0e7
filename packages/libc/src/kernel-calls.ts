import { getSystemErrorName } from "node:util";
import { type ForeignFunction, type Koffi, loadKoffi } from "./koffi.ts";

/** Largest view that Node 20 survives, in bytes: a longer one aborts the process. */
export const VIEW_BYTES_MAX = 4 * 2 ** 30;

/**
 * Kernel calls through koffi. All offsets and lengths in bytes. A call that fails throws an `Error` with `code`
 * (e.g. `ENOSPC`) and `syscall`, as Node's own do.
 */
export interface KernelCalls {
  /** `posix_fallocate(fd, offset, length)`, off the main thread. */
  fallocate(fd: number, offset: number, length: number): Promise<void>;
  /** Maps the file shared and read-write; the address of the mapping. Never unmapped. */
  mapShared(fd: number, length: number): bigint;
  /** Maps anonymous memory, page aligned. */
  mapAnonymous(length: number): bigint;
  /** A Buffer over foreign memory, without a copy; at most 4 GiB (Node 20 aborts beyond). */
  view(address: bigint, length: number): Buffer;
  /** `memcpy` on another thread. Neither range may be freed or changed before it settles. `to` must be as long as `from`. */
  copy(to: Uint8Array, from: Uint8Array): Promise<void>;
  /** `flock(fd, LOCK_EX | LOCK_NB)`; false if another holds it. */
  tryFlock(fd: number): boolean;
}

// <sys/file.h>, <sys/mman.h>
const LOCK_EX = 2;
const LOCK_NB = 4;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_ANONYMOUS = process.platform === "darwin" ? 0x1000 : 0x20;

/** An error as Node's own calls throw it: `code`, `syscall`, `errno` (negative). */
export function systemError(errno: number, syscall: string, detail: string): NodeJS.ErrnoException {
  let code = `E${errno}`;
  try {
    code = getSystemErrorName(-errno);
  } catch {
    // A number that libuv has no name for keeps the made-up one.
  }
  const error: NodeJS.ErrnoException = new Error(`${code}: ${syscall} failed: ${detail}`);
  error.code = code;
  error.syscall = syscall;
  error.errno = -errno;
  return error;
}

function assertLength(length: number, what: string): void {
  if (!Number.isSafeInteger(length) || length <= 0) {
    throw new TypeError(`${what}: length must be a positive whole number of bytes, got ${length}`);
  }
}

function isNamed(error: NodeJS.ErrnoException, ...names: string[]): boolean {
  return error.code !== undefined && names.includes(error.code);
}

/** Binds each function at its first use: not every libc has every one. */
function lazily(
  lib: { func(definition: string): ForeignFunction },
  definition: string,
): () => ForeignFunction {
  let bound: ForeignFunction | undefined;
  return () => (bound ??= lib.func(definition));
}

function bindKernelCalls(koffi: Koffi): KernelCalls {
  const lib = koffi.load(null);
  const flock = lazily(lib, "int flock(int fd, int operation)");
  const fallocate = lazily(lib, "int posix_fallocate(int fd, int64_t offset, int64_t length)");
  const mmap = lazily(
    lib,
    "void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)",
  );

  const memcpy = lazily(lib, "void *memcpy(void *to, const void *from, size_t length)");
  const fallocateOnce = (fd: number, offset: number, length: number): Promise<number> =>
    new Promise((resolve, reject) => {
      fallocate().async(fd, offset, length, (error: Error | null, result: number) => {
        if (error) reject(error);
        else resolve(result);
      });
    });

  const map = (length: number, flags: number, fd: number): bigint => {
    assertLength(length, "mmap");
    const address = mmap()(null, length, PROT_READ_WRITE, flags, fd, 0) as bigint;
    if (BigInt.asIntN(64, address) === -1n) {
      throw systemError(koffi.errno(), "mmap", `${length} bytes of descriptor ${fd}`);
    }
    return address;
  };

  return {
    async fallocate(fd, offset, length) {
      assertLength(length, "posix_fallocate");
      for (;;) {
        // The return value is the error number; errno is not set.
        const errno = await fallocateOnce(fd, offset, length);
        if (errno === 0) return;
        const error = systemError(
          errno,
          "posix_fallocate",
          `${length} bytes at ${offset} of descriptor ${fd}`,
        );
        if (!isNamed(error, "EINTR")) throw error;
      }
    },
    mapShared: (fd, length) => map(length, MAP_SHARED, fd),
    mapAnonymous: (length) => map(length, MAP_PRIVATE | MAP_ANONYMOUS, -1),
    async copy(to, from) {
      if (to.length !== from.length) {
        throw new RangeError(`${from.length} bytes are not copied into ${to.length}`);
      }
      if (from.length === 0) return;
      await new Promise<void>((resolve, reject) => {
        memcpy().async(to, from, from.length, (error: Error | null) => {
          if (error) reject(error);
          else resolve();
        });
      });
    },
    view(address, length) {
      assertLength(length, "view");
      if (length > VIEW_BYTES_MAX) {
        throw new RangeError(`a view has at most ${VIEW_BYTES_MAX} bytes, asked for ${length}`);
      }
      return Buffer.from(koffi.view(address, length));
    },
    tryFlock(fd) {
      if (flock()(fd, LOCK_EX | LOCK_NB) === 0) return true;
      const error = systemError(koffi.errno(), "flock", `descriptor ${fd}`);
      if (isNamed(error, "EAGAIN", "EWOULDBLOCK")) return false;
      throw error;
    },
  };
}

let calls: KernelCalls | undefined;

/**
 * The calls, or null where koffi is not installed or cannot be loaded. `useKoffi: false` and the environment
 * variable `CACHE_ENGINE_NO_KOFFI=1` act as if it were absent.
 */
export function kernelCalls(options: { useKoffi?: boolean } = {}): KernelCalls | null {
  if (options.useKoffi === false) return null;
  const koffi = loadKoffi();
  if (koffi === null) return null;
  calls ??= bindKernelCalls(koffi);
  return calls;
}

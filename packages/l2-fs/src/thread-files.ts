import { constants } from "node:fs";
import {
  CALL_BYTES_MAX,
  errnoOf,
  failureFrom,
  type FileJob,
  type FileOutcome,
  type FileSettings,
  LARGE_OBJECT_BYTES,
  refusesDirect,
  temporaryPathOf,
} from "./file-job.ts";
import type { LibC } from "./libc.ts";

/** What a thread is sent: a job whose objects are places in the memory of the process. */
export interface ThreadJob extends Omit<FileJob, "objects"> {
  /** Two numbers for each object, none for `look`: address and length in bytes. */
  readonly places: Float64Array;
  /** Not 0: end early. */
  readonly stop: Int32Array;
}

/**
 * Looks at, reads and writes object files by calls that wait, for a thread that may. It does what `ObjectIo` does;
 * a change of one is a change of both, and the tests run both.
 */
export class ThreadFiles {
  /** How often O_DIRECT was refused and the page cache was used instead. */
  directFallbacks = 0;
  readonly #libc: LibC;
  readonly #settings: FileSettings;

  constructor(libc: LibC, settings: FileSettings) {
    this.#libc = libc;
    this.#settings = settings;
  }

  /** Does the job; throws nothing. */
  run({ kind, names, places, firstTemporary, stop }: ThreadJob): FileOutcome[] {
    return names.map((name, i) => {
      if (Atomics.load(stop, 0) !== 0) return "stopped";
      const path = `${this.#settings.basePath}/${name}`;
      const address = places[2 * i] ?? 0;
      const length = places[2 * i + 1] ?? 0;
      try {
        if (kind === "look") return this.#look(path);
        if (kind === "read")
          return this.#tryDirect(address, length, (flags) => this.#read(path, address, length, flags));
        const temporary = temporaryPathOf(this.#settings, firstTemporary + i);
        return this.#write(path, temporary, address, length, stop);
      } catch (error) {
        return failureFrom(error);
      }
    });
  }

  #look(path: string): FileOutcome {
    const found = this.#libc.lstat(path);
    if (found === null) return "absent";
    return found.isFile ? found.bytes : "irregular";
  }

  /** Runs with O_DIRECT where length and address allow it, and once more without if the filesystem does not. */
  #tryDirect<T>(address: number, length: number, run: (flags: number) => T): T {
    const { useDirect, blockBytes } = this.#settings;
    const aligned = blockBytes > 0 && length % blockBytes === 0 && address % blockBytes === 0;
    if (!useDirect || !aligned || length === 0) return run(0);
    try {
      return run(constants.O_DIRECT ?? 0);
    } catch (error) {
      if (!refusesDirect(error)) throw error;
      this.directFallbacks++;
      return run(0);
    }
  }

  #closeQuietly(fd: number): void {
    try {
      this.#libc.close(fd);
    } catch {
      // What it was open for has already failed, or was read whole.
    }
  }

  #unlinkQuietly(path: string): void {
    try {
      this.#libc.unlink(path);
    } catch {
      // The scan of a later process removes it.
    }
  }

  #read(path: string, address: number, length: number, direct: number): FileOutcome {
    const libc = this.#libc;
    // O_NONBLOCK: a FIFO of that name must not hold a thread for ever.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | direct;
    let fd: number;
    try {
      fd = libc.open(path, flags, 0);
    } catch (error) {
      if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ELOOP") return "absent";
      throw error;
    }
    try {
      const before = libc.fstat(fd);
      if (!before.isFile) return "absent";
      if (before.bytes !== length) return "other-length";
      const { modifiedSeconds, modifiedNanoseconds } = before;
      if (!this.#fill(fd, address, length, direct)) return "shrank";
      if (length >= LARGE_OBJECT_BYTES) {
        const after = libc.fstat(fd);
        const same =
          after.bytes === length &&
          after.modifiedSeconds === modifiedSeconds &&
          after.modifiedNanoseconds === modifiedNanoseconds;
        if (!same) return "shrank";
      }
      return "whole";
    } finally {
      this.#closeQuietly(fd);
    }
  }

  /** Fills the memory from the start of the file; false if the file ended before. */
  #fill(fd: number, address: number, length: number, direct: number): boolean {
    const { readAheadBytes } = this.#settings;
    let done = 0;
    while (done < length) {
      const head = done === 0 && direct === 0 && readAheadBytes !== null;
      const most = head ? readAheadBytes : CALL_BYTES_MAX;
      const count = this.#libc.pread(fd, address + done, Math.min(length - done, most), done);
      if (count === 0) return false;
      done += count;
    }
    return true;
  }

  #write(path: string, temporary: string, address: number, length: number, stop: Int32Array): FileOutcome {
    const whole = this.#tryDirect(address, length, (flags) =>
      this.#writeNew(temporary, address, length, flags, stop),
    );
    if (!whole) return "stopped";
    try {
      this.#libc.rename(temporary, path);
    } catch (error) {
      this.#unlinkQuietly(temporary);
      throw error;
    }
    if (this.#settings.fsync === "full") this.#syncDirectory();
    return "whole";
  }

  /** A new file, written whole; false if it was told to stop. Whatever goes wrong, no file is left. */
  #writeNew(path: string, address: number, length: number, direct: number, stop: Int32Array): boolean {
    const libc = this.#libc;
    const { fileMode, fsync } = this.#settings;
    const create = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    const fd = libc.open(path, create | direct, fileMode);
    let open = true;
    let whole = false;
    try {
      // The umask took away what a shared deployment asks for.
      if ((fileMode & 0o077) !== 0) libc.fchmod(fd, fileMode);
      let done = 0;
      while (done < length) {
        if (Atomics.load(stop, 0) !== 0) return false;
        const count = libc.pwrite(fd, address + done, Math.min(length - done, CALL_BYTES_MAX), done);
        if (count === 0) throw Object.assign(new Error("write returned 0 bytes"), { code: "EIO" });
        done += count;
      }
      if (fsync !== "none") libc.fdatasync(fd);
      open = false;
      libc.close(fd); // may report that the disk or the quota is full (NFS)
      whole = true;
      return true;
    } finally {
      if (open) this.#closeQuietly(fd);
      if (!whole) this.#unlinkQuietly(path);
    }
  }

  /** Makes a rename last: the directory's own entry goes to the disk. */
  #syncDirectory(): void {
    const fd = this.#libc.open(this.#settings.basePath, constants.O_RDONLY | constants.O_DIRECTORY, 0);
    try {
      this.#libc.fsync(fd);
    } finally {
      this.#closeQuietly(fd);
    }
  }
}

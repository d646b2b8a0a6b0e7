import { constants } from "node:fs";
import type { MemoryObj } from "@cache/contracts";
import {
  errnoOf,
  failureFrom,
  type FileJob,
  type FileOutcome,
  type FileSettings,
  LARGE_OBJECT_BYTES,
  refusesDirect,
  temporaryPathOf,
} from "./file-job.ts";
import type { FsPort } from "./fs-port.ts";

/**
 * Looks at, reads and writes object files by asynchronous calls. A `stop` cell other than 0 ends the work between two
 * calls. `ThreadFiles` does the same where a thread can reach the memory.
 */
export class ObjectIo {
  /** How often O_DIRECT was refused and the page cache was used instead. */
  directFallbacks = 0;
  readonly #calls: FsPort;
  readonly #settings: FileSettings;

  /** Address of L1 modulo the filesystem's block; null if L1 has no address. */
  readonly #l1Remainder: number | null;

  constructor(calls: FsPort, settings: FileSettings, l1Address: bigint | null) {
    this.#calls = calls;
    this.#settings = settings;
    const { blockBytes } = settings;
    this.#l1Remainder = l1Address === null || blockBytes <= 0 ? null : Number(l1Address % BigInt(blockBytes));
  }

  /** Does what the job says with its file `i`; throws nothing. */
  async file(job: FileJob, i: number, stop: Int32Array): Promise<FileOutcome> {
    if (stop[0] !== 0) return "stopped";
    const path = `${this.#settings.basePath}/${job.names[i]}`;
    const object = job.objects[i] as MemoryObj;
    try {
      if (job.kind === "look") return await this.#look(path);
      if (job.kind === "read")
        return await this.#tryDirect(object, (flags) => this.#read(path, object, flags));
      const temporary = temporaryPathOf(this.#settings, job.firstTemporary + i);
      return await this.#write(path, temporary, object, stop);
    } catch (error) {
      return failureFrom(error);
    }
  }

  async #look(path: string): Promise<FileOutcome> {
    const found = await this.#calls.lstat(path);
    if (found === null) return "absent";
    return found.isFile() ? found.size : "irregular";
  }

  /** True if length and address are multiples of the filesystem's block, or the address is not known. */
  #canBypassCache({ bytes, poolOffset }: MemoryObj): boolean {
    const { useDirect, blockBytes } = this.#settings;
    if (!useDirect || blockBytes <= 0) return false;
    if (bytes.byteLength === 0 || bytes.byteLength % blockBytes !== 0) return false;
    return (
      poolOffset === null || this.#l1Remainder === null || (this.#l1Remainder + poolOffset) % blockBytes === 0
    );
  }

  /** Runs with O_DIRECT where possible, and once more without if the filesystem or the buffer does not allow it. */
  async #tryDirect<T>(object: MemoryObj, run: (flags: number) => Promise<T>): Promise<T> {
    if (!this.#canBypassCache(object)) return await run(0);
    try {
      return await run(constants.O_DIRECT ?? 0);
    } catch (error) {
      if (!refusesDirect(error)) throw error;
      this.directFallbacks++;
      return await run(0);
    }
  }

  /** A close or an unlink whose failure changes nothing. */
  async #quietly(call: () => Promise<void>): Promise<void> {
    try {
      await call();
    } catch {
      // What it was for has already failed, or was read whole.
    }
  }

  /**
   * Reads a whole object straight into its memory. Anything that is not a regular file of exactly that length is a
   * miss; the memory may then hold anything.
   */
  async #read(path: string, { bytes }: MemoryObj, direct: number): Promise<FileOutcome> {
    const calls = this.#calls;
    // O_NONBLOCK: a FIFO of that name must not hold a thread for ever.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | direct;
    let fd: number;
    try {
      fd = await calls.open(path, flags);
    } catch (error) {
      if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ELOOP") return "absent";
      throw error;
    }
    try {
      const before = await calls.fstat(fd);
      if (!before.isFile()) return "absent";
      if (before.size !== bytes.byteLength) return "other-length";
      if (!(await this.#fill(fd, bytes, direct))) return "shrank";
      if (bytes.byteLength >= LARGE_OBJECT_BYTES) {
        const after = await calls.fstat(fd);
        if (after.size !== before.size || after.mtimeMs !== before.mtimeMs) return "shrank";
      }
      return "whole";
    } finally {
      await this.#quietly(() => calls.close(fd));
    }
  }

  /** Fills the memory from the start of the file; false if the file ended before. */
  async #fill(fd: number, bytes: Uint8Array, direct: number): Promise<boolean> {
    const { readAheadBytes } = this.#settings;
    let done = 0;
    while (done < bytes.byteLength) {
      const head = done === 0 && direct === 0 && readAheadBytes !== null;
      const end = head ? Math.min(readAheadBytes, bytes.byteLength) : bytes.byteLength;
      const count = await this.#calls.read(fd, bytes.subarray(done, end), done);
      if (count === 0) return false;
      done += count;
    }
    return true;
  }

  /**
   * Writes an object so that its name never leads to a part of it: a new temporary, written whole, then renamed. On
   * any failure the temporary is removed.
   */
  async #write(path: string, temporary: string, object: MemoryObj, stop: Int32Array): Promise<FileOutcome> {
    const calls = this.#calls;
    const whole = await this.#tryDirect(object, (flags) => this.#writeNew(temporary, object, flags, stop));
    if (!whole) return "stopped";
    try {
      await calls.rename(temporary, path);
    } catch (error) {
      await this.#quietly(() => calls.unlink(temporary));
      throw error;
    }
    if (this.#settings.fsync === "full") await this.#syncDirectory();
    return "whole";
  }

  async #writeNew(path: string, { bytes }: MemoryObj, direct: number, stop: Int32Array): Promise<boolean> {
    const calls = this.#calls;
    const { fileMode, fsync } = this.#settings;
    const create = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    const fd = await calls.open(path, create | direct, fileMode);
    let open = true;
    let whole = false;
    try {
      // The umask took away what a shared deployment asks for.
      if ((fileMode & 0o077) !== 0) await calls.fchmod(fd, fileMode);
      let done = 0;
      while (done < bytes.byteLength) {
        if (stop[0] !== 0) return false;
        const count = await calls.write(fd, bytes.subarray(done), done);
        if (count === 0) throw Object.assign(new Error("write returned 0 bytes"), { code: "EIO" });
        done += count;
      }
      if (fsync !== "none") await calls.fdatasync(fd);
      open = false;
      await calls.close(fd); // may report that the disk or the quota is full (NFS)
      whole = true;
      return true;
    } finally {
      if (open) await this.#quietly(() => calls.close(fd));
      if (!whole) await this.#quietly(() => calls.unlink(path));
    }
  }

  /** Makes a rename last: the directory's own entry goes to the disk. */
  async #syncDirectory(): Promise<void> {
    const calls = this.#calls;
    const fd = await calls.open(this.#settings.basePath, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await calls.fsync(fd);
    } finally {
      await this.#quietly(() => calls.close(fd));
    }
  }
}

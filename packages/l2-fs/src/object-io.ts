import { constants } from "node:fs";
import { join } from "node:path";
import { type AdapterLog, CacheError, type MemoryObj } from "@cache/contracts";
import { type FsConfig, permissionBits } from "./config.ts";
import type { PreparedDirectory } from "./directory.ts";
import { errnoOf, type FsPort } from "./fs-port.ts";

/** Objects of at least this size are looked at again after the read. */
const LARGE_OBJECT_BYTES = 256 * 1024;

/** What an {@link ObjectIo} works with. */
export interface ObjectIoOptions {
  readonly port: FsPort;
  readonly basePath: string;
  readonly config: FsConfig;
  readonly directory: PreparedDirectory;
  /** Start of the names of temporaries. */
  readonly temporaryPrefix: string;
  /** Address of the L1 pool, null if it is not known. */
  readonly l1Address: bigint | null;
  readonly log: AdapterLog;
}

/** `whole`, or why the object is a miss. */
export type ReadOutcome = "whole" | "absent" | "other-length" | "shrank";

async function closeQuietly(port: FsPort, fd: number): Promise<void> {
  await port.close(fd).catch(() => undefined);
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

/** Reads and writes the object files of one open adapter. Failed calls throw as Node gives them. */
export class ObjectIo {
  readonly #options: ObjectIoOptions;
  readonly #fileMode: number;
  #temporaries = 0;
  #directFallbacks = 0;

  constructor(options: ObjectIoOptions) {
    this.#options = options;
    this.#fileMode = permissionBits(options.config.file_mode);
  }

  /** How often O_DIRECT was refused and the page cache was used instead. */
  get directFallbacks(): number {
    return this.#directFallbacks;
  }

  /** True if length and address are multiples of the filesystem's block, or the address is not known. */
  #canBypassCache({ bytes, poolOffset }: MemoryObj): boolean {
    const { config, directory, l1Address } = this.#options;
    const { blockBytes } = directory;
    if (!config.use_odirect || blockBytes <= 0) return false;
    if (bytes.byteLength === 0 || bytes.byteLength % blockBytes !== 0) return false;
    if (poolOffset === null || l1Address === null) return true;
    return (l1Address + BigInt(poolOffset)) % BigInt(blockBytes) === 0n;
  }

  /** Runs with O_DIRECT where possible, and once more without if the filesystem or the buffer does not allow it. */
  async #tryDirect<T>(object: MemoryObj, run: (flags: number) => Promise<T>): Promise<T> {
    if (!this.#canBypassCache(object)) return run(0);
    try {
      return await run(constants.O_DIRECT ?? 0);
    } catch (error) {
      if (errnoOf(error) !== "EINVAL" && errnoOf(error) !== "EOPNOTSUPP") throw error;
      if (++this.#directFallbacks === 1) {
        this.#options.log.warn(
          "O_DIRECT was refused by the filesystem or for a buffer's alignment; such objects go through the page cache",
          { base_path: this.#options.basePath, bytes: object.bytes.byteLength },
        );
      }
      return run(0);
    }
  }

  /**
   * Reads a whole object straight into its buffer. Anything that is not a regular file of exactly that length is
   * a miss; the buffer may then hold anything.
   */
  read(path: string, object: MemoryObj): Promise<ReadOutcome> {
    return this.#tryDirect(object, (direct) => this.#readOnce(path, object.bytes, direct));
  }

  async #readOnce(path: string, into: Uint8Array, direct: number): Promise<ReadOutcome> {
    const { port, config } = this.#options;
    // O_NONBLOCK: a FIFO of that name must not hold a thread for ever.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | direct;
    let fd: number;
    try {
      fd = await port.open(path, flags);
    } catch (error) {
      if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ELOOP") return "absent";
      throw error;
    }
    try {
      const before = await port.fstat(fd);
      if (!before.isFile()) return "absent";
      if (before.size !== into.byteLength) return "other-length";
      if (!(await readFully(port, fd, into, direct === 0 ? config.read_ahead_size : null))) return "shrank";
      if (into.byteLength >= LARGE_OBJECT_BYTES) {
        const after = await port.fstat(fd);
        if (after.size !== before.size || after.mtimeMs !== before.mtimeMs) return "shrank";
      }
      return "whole";
    } finally {
      await closeQuietly(port, fd);
    }
  }

  /**
   * Writes an object so that its name never leads to a part of it: a new temporary, written whole, then renamed.
   * On any failure the temporary is removed.
   *
   * @param isStopped asked before each write; true ends the store early.
   * @throws CacheError `ABORTED`, or the error of a failed call.
   */
  async write(path: string, object: MemoryObj, isStopped: () => boolean): Promise<void> {
    const { port, basePath, config, directory, temporaryPrefix } = this.#options;
    const name = `${temporaryPrefix}${(this.#temporaries++).toString(36)}.tmp`;
    const temporary = join(directory.temporaryPath, name);
    await this.#tryDirect(object, (flags) => this.#writeNew(temporary, object.bytes, flags, isStopped));
    try {
      await port.rename(temporary, path);
    } catch (error) {
      await port.unlink(temporary).catch(() => undefined);
      throw error;
    }
    if (config.fsync === "full") await syncDirectory(port, basePath);
  }

  async #writeNew(path: string, bytes: Uint8Array, flags: number, isStopped: () => boolean): Promise<void> {
    const { port, config } = this.#options;
    const create = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    const fd = await port.open(path, create | flags, this.#fileMode);
    let open = true;
    try {
      // The umask took away what a shared deployment asks for.
      if ((this.#fileMode & 0o077) !== 0) await port.fchmod(fd, this.#fileMode);
      await writeFully(port, fd, bytes, isStopped);
      if (config.fsync !== "none") await port.fdatasync(fd);
      open = false;
      await port.close(fd); // may report that the disk or the quota is full (NFS)
    } catch (error) {
      if (open) await closeQuietly(port, fd);
      await port.unlink(path).catch(() => undefined);
      throw error;
    }
  }
}

import { constants, readFileSync } from "node:fs";
import { join } from "node:path";
import { CacheError } from "@cache/contracts";
import { type FileLock, lockDescriptor } from "@cache/libc";
import type { NixlAgent, Registration } from "./agent.ts";
import { backendError } from "./errors.ts";
import { closeQuietly, errnoOf, files, forEachFile, FreeBytes } from "./files.ts";
import type { Range } from "./memory.ts";
import type { PageRun } from "./pages.ts";
import { type PoolPlace, type PoolShape, rangesOf } from "./pool-place.ts";

/** Options of {@link PoolFiles}. */
export interface PoolFilesOptions {
  readonly directory: string;
  readonly poolName: string;
  readonly shape: PoolShape;
  readonly isDirect: boolean;
  readonly fileMode: number;
  readonly directoryMode: number;
}

/** A pool of files with fixed names, `<pool_name>_<i>.bin`, all open while the adapter is. */
export class PoolFiles implements PoolPlace {
  readonly kind = "file";
  readonly #options: PoolFilesOptions;
  readonly #fds: number[] = [];
  readonly #free: FreeBytes;
  #lock: FileLock | null = null;
  #registration: Registration | null = null;

  constructor(options: PoolFilesOptions) {
    this.#options = options;
    this.#free = new FreeBytes(options.directory);
  }

  get #ownerPath(): string {
    return join(this.#options.directory, `${this.#options.poolName}.owner`);
  }

  async open(agent: NixlAgent): Promise<string | null> {
    const { directory, directoryMode, shape } = this.#options;
    try {
      await files.mkdir(directory, directoryMode);
      // For writing: NFS gives an exclusive lock on no other descriptor.
      const flags = constants.O_CREAT | constants.O_RDWR | constants.O_NOFOLLOW;
      const fd = await files.open(this.#ownerPath, flags, 0o600);
      this.#lock = await lockDescriptor(fd, this.#ownerPath);
      await forEachFile(shape.containers, (i) => this.#openFile(i));
    } catch (error) {
      throw this.#explain(error);
    }
    const byteLength = shape.pageBytes * shape.pagesPerContainer;
    const items = this.#fds.map((fd) => ({ address: 0, byteLength, device: fd }));
    this.#registration = await agent.register("file", items);
    const owner = readFileSync(this.#ownerPath, "utf8").trim();
    return owner === "" ? null : owner;
  }

  async #openFile(i: number): Promise<void> {
    const { directory, poolName, isDirect, fileMode } = this.#options;
    const path = join(directory, `${poolName}_${i}.bin`);
    const flags = constants.O_CREAT | constants.O_RDWR | constants.O_NOFOLLOW;
    const fd = await files.open(path, isDirect ? flags | (constants.O_DIRECT ?? 0) : flags, fileMode);
    this.#fds[i] = fd;
    if (!(await files.fstat(fd)).isFile()) {
      throw new CacheError("BACKEND_REFUSED", `${path} is no regular file: move it away`);
    }
  }

  #explain(error: unknown): CacheError {
    const { directory, isDirect, shape } = this.#options;
    if (errnoOf(error) === "EINVAL" && isDirect) {
      return new CacheError(
        "INVALID_CONFIG",
        `the filesystem of ${directory} has no O_DIRECT: set use_direct_io to "false" in backend_params, or use another file_path`,
        { cause: error },
      );
    }
    if (errnoOf(error) === "EMFILE") {
      const message = `a pool of ${shape.containers} files needs as many open files: raise the limit (ulimit -n), or use a smaller pool_size and a larger file_size`;
      return new CacheError("BACKEND_UNAVAILABLE", message, { cause: error });
    }
    return backendError(error, "open the pool in", directory);
  }

  async writeOwner(poolId: string): Promise<void> {
    // In place: the lock is on this very file.
    if (this.#lock === null) throw new TypeError("the pool is not open");
    await files.writeAt(this.#lock.fd, Buffer.from(`${poolId}\n`), 0);
    // Before any data: after a power failure another owner's map must not find its id beside data of ours.
    await files.fsync(this.#lock.fd);
  }

  async isStillOf(): Promise<boolean> {
    return true; // the lock is held
  }

  ranges(runs: readonly PageRun[]): Range[] {
    return rangesOf(runs, this.#options.shape, (container) => this.#fds[container] ?? -1);
  }

  async sync(runs: readonly PageRun[]): Promise<void> {
    const fds = [...new Set(this.ranges(runs).map(({ device }) => device))];
    await forEachFile(fds.length, (i) => files.fdatasync(fds[i] ?? -1));
  }

  async syncAll(): Promise<void> {
    await forEachFile(this.#fds.length, (i) => files.fdatasync(this.#fds[i] ?? -1));
  }

  freeBytes(): number | null {
    return this.#free.get();
  }

  async close(): Promise<void> {
    await this.#registration?.close();
    this.#registration = null;
    for (const fd of this.#fds.splice(0)) if (fd !== undefined) await closeQuietly(fd);
    this.#lock?.release();
    this.#lock = null;
  }
}

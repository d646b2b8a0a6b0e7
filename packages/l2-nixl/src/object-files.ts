import { constants, type Stats } from "node:fs";
import { join } from "node:path";
import type { TemporaryOwner } from "@cache/adapter-kit";
import { CacheError, type ObjectKey } from "@cache/contracts";
import { backendError } from "./errors.ts";
import { closeQuietly, errnoOf, files } from "./files.ts";
import { shardOf, temporaryName } from "./names.ts";
import type { Found, NamedObject } from "./store.ts";

/** What {@link ObjectFiles} work with. */
export interface ObjectFilesOptions {
  readonly directory: string;
  readonly isSharded: boolean;
  /** L1's alignment: LMCache's files are multiples of it. */
  readonly alignBytes: number;
  readonly isDirect: boolean;
  readonly fsync: "none" | "data" | "full";
  readonly fileMode: number;
  readonly directoryMode: number;
  readonly owner: TemporaryOwner;
}

/** An open file of the object at position `i` of a call. */
export interface OpenFile {
  readonly i: number;
  /** -1 once it is closed. */
  fd: number;
  readonly path: string;
}

const OWNER_EXECUTES = 0o100;

/**
 * The files of one directory: made, opened, named, measured. The bytes in them are the library's business.
 *
 * LMCache reads and writes multiples of the alignment. So that a length that is none can be told from others, a file of
 * ours is then longer by one alignment, its end a hole.
 */
export class ObjectFiles {
  readonly #options: ObjectFilesOptions;
  readonly #shards = new Set<string>();
  #temporaries = 0;

  constructor(options: ObjectFilesOptions) {
    this.#options = options;
  }

  /**
   * Makes the directory, and tells at the start, not at the first store, if nothing can be written there.
   *
   * @throws CacheError
   */
  async open(): Promise<void> {
    const { directory, directoryMode } = this.#options;
    try {
      await files.mkdir(directory, directoryMode);
      const found = await files.lstat(join(directory, "."));
      if (!found.isDirectory()) throw Object.assign(new Error(directory), { code: "ENOTDIR" });
      const path = this.#temporaryPath("");
      await files.close(await this.#create(path));
      await files.unlink(path);
    } catch (error) {
      throw this.explain(error, "write to");
    }
  }

  /** A failed call as an error that names the directory and the remedy. */
  explain(error: unknown, action: string): CacheError {
    const { directory, isDirect } = this.#options;
    if (errnoOf(error) !== "EINVAL" || !isDirect) return backendError(error, action, directory);
    return new CacheError(
      "INVALID_CONFIG",
      `the filesystem of ${directory} has no O_DIRECT: set use_direct_io to "false" in backend_params, or use another file_path`,
      { cause: error },
    );
  }

  /** Where an object's file lies. */
  path(name: string, key: ObjectKey): string {
    return join(this.#options.directory, shardOf(key, this.#options.isSharded), name);
  }

  /** The file of an object; null if there is none. Anything but a regular file is none. */
  async stat(path: string): Promise<Stats | null> {
    try {
      const found = await files.lstat(path);
      return found.isFile() ? found : null;
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return null;
      throw error;
    }
  }

  /** A length rounded up to the alignment. */
  padded(byteLength: number): number {
    const { alignBytes } = this.#options;
    return Math.ceil(byteLength / alignBytes) * alignBytes;
  }

  #fileLength(byteLength: number): number {
    const { alignBytes } = this.#options;
    return byteLength % alignBytes === 0 ? byteLength : byteLength + alignBytes;
  }

  /** The length of the object of a file of that size; of LMCache's files it is known only up to the padding. */
  lengthOf(size: number): number {
    const { alignBytes } = this.#options;
    return size % alignBytes === 0 || size < alignBytes ? size : size - alignBytes;
  }

  /** True if a file is that of an object of this length. */
  matches(found: Stats, byteLength: number): boolean {
    if (found.size === this.#fileLength(byteLength)) return true;
    // LMCache creates files with the owner's execute bit, we never do.
    return (found.mode & OWNER_EXECUTES) !== 0 && found.size === this.padded(byteLength);
  }

  /** What is there under an object's name. */
  async look(name: string, key: ObjectKey, byteLength: number): Promise<Found> {
    const found = await this.stat(this.path(name, key));
    if (found === null) return "absent";
    return this.matches(found, byteLength) ? "whole" : "other-length";
  }

  /** True if the file has that length; throws if it has another one, which may be right for another node. */
  async isThere({ name, key, object }: NamedObject): Promise<boolean> {
    const path = this.path(name, key);
    const { byteLength } = object.bytes;
    const found = await this.stat(path);
    if (found === null) return false;
    if (this.matches(found, byteLength)) return true;
    throw new CacheError(
      "CONFLICT",
      `${path} is there with ${found.size} bytes, which is no file of an object of ${byteLength}; it may belong to a node with another layout: delete the object first, or use another file_path or cache identity`,
      { details: { reason: "other-length", path, expectedBytes: byteLength, foundBytes: found.size } },
    );
  }

  #temporaryPath(shard: string): string {
    const { directory, owner } = this.#options;
    return join(directory, shard, temporaryName(owner, this.#temporaries++));
  }

  #create(path: string): Promise<number> {
    const { isDirect, fileMode } = this.#options;
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    return files.open(path, isDirect ? flags | (constants.O_DIRECT ?? 0) : flags, fileMode);
  }

  /** A new temporary on the filesystem of the object's file. */
  async create(i: number, key: ObjectKey): Promise<OpenFile> {
    const { directory, isSharded, directoryMode } = this.#options;
    const shard = shardOf(key, isSharded);
    if (shard !== "" && !this.#shards.has(shard)) {
      await files.mkdir(join(directory, shard), directoryMode);
      this.#shards.add(shard);
    }
    const path = this.#temporaryPath(shard);
    return { i, fd: await this.#create(path), path };
  }

  /** Gives a temporary that was written its length and its name. It is closed then, whatever happens. */
  async publish(file: OpenFile, { name, key, object }: NamedObject): Promise<void> {
    const { fsync, fileMode } = this.#options;
    const { fd, path } = file;
    const { byteLength } = object.bytes;
    const { size, mode } = await files.fstat(fd);
    if (size < byteLength) {
      const message = `NIXL wrote ${size} of ${byteLength} bytes of an object to ${path} and called it done; look at the disk`;
      throw new CacheError("BACKEND_UNAVAILABLE", message);
    }
    if (size !== this.#fileLength(byteLength)) await files.ftruncate(fd, this.#fileLength(byteLength));
    // The umask took away what a shared deployment asks for.
    if ((mode & 0o777) !== fileMode) await files.fchmod(fd, fileMode);
    if (fsync !== "none") await files.fdatasync(fd);
    file.fd = -1;
    await files.close(fd); // may report that the disk or the quota is full (NFS)
    const last = this.path(name, key);
    await files.rename(path, last);
    if (fsync === "full") await syncFolder(join(last, ".."));
  }

  /** Opens an object's file for a load; or why that is a miss. */
  async openObject(i: number, { name, key, object }: NamedObject): Promise<Found | OpenFile> {
    const { isDirect } = this.#options;
    const path = this.path(name, key);
    // O_NONBLOCK: a FIFO of that name must not hold a thread for ever.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    let fd: number;
    try {
      fd = await files.open(path, isDirect ? flags | (constants.O_DIRECT ?? 0) : flags);
    } catch (error) {
      if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ELOOP") return "absent";
      throw error;
    }
    try {
      const found = await files.fstat(fd);
      if (found.isFile() && this.matches(found, object.bytes.byteLength)) return { i, fd, path };
      await closeQuietly(fd);
      return found.isFile() ? "other-length" : "absent";
    } catch (error) {
      await closeQuietly(fd);
      throw error;
    }
  }
}

async function syncFolder(path: string): Promise<void> {
  const fd = await files.open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await files.fsync(fd);
  } finally {
    await closeQuietly(fd);
  }
}

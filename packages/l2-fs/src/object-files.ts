import { createHash, randomBytes } from "node:crypto";
import { join } from "node:path";
import { CacheError, type MemoryObj } from "@cache/contracts";
import type { Capacity } from "./capacity.ts";
import { ensureSubdirectory } from "./directory.ts";
import { backendError, errnoOf, type FsPort, statOrNull } from "./fs-port.ts";
import type { NameLocks } from "./name-locks.ts";
import { NAME_BYTES_MAX, QUARANTINE_DIR } from "./names.ts";
import type { ObjectIo, ReadOutcome } from "./object-io.ts";
import type { DirectoryScan } from "./scan.ts";

/** What {@link ObjectFiles} work with. */
export interface ObjectFilesOptions {
  readonly port: FsPort;
  readonly basePath: string;
  /** Device of the directory's filesystem when it was opened. */
  readonly device: number;
  readonly io: ObjectIo;
  readonly scan: DirectoryScan;
  readonly capacity: Capacity;
  readonly names: NameLocks;
}

/** The object files of an open directory, one at a time by name: changed by one at a time, and accounted for. */
export class ObjectFiles {
  readonly #options: ObjectFilesOptions;
  readonly #quarantinePath: string;

  constructor(options: ObjectFilesOptions) {
    this.#options = options;
    this.#quarantinePath = join(options.basePath, QUARANTINE_DIR);
  }

  /** See {@link ObjectIo.directFallbacks}. */
  get directFallbacks(): number {
    return this.#options.io.directFallbacks;
  }

  #path(name: string): string {
    return join(this.#options.basePath, name);
  }

  /**
   * Throws unless the directory is the one that was opened: an unmounted filesystem looks like an empty cache, and
   * stores would go to the disk below it.
   *
   * @throws CacheError `BACKEND_UNAVAILABLE`, or the code of a failed call.
   */
  async assertDirectory(): Promise<void> {
    const { port, basePath, device } = this.#options;
    const found = await port.stat(basePath).catch((error: unknown) => {
      throw backendError(error, "look at", basePath);
    });
    if (found.isDirectory() && found.dev === device) return;
    throw new CacheError(
      "BACKEND_UNAVAILABLE",
      `another filesystem is at ${basePath} now than when it was opened; mount the right one, or restart the engine to use this one`,
    );
  }

  /** `whole` if a file of that length is there, or why the object is a miss. */
  async look(name: string, byteLength: number): Promise<ReadOutcome> {
    const path = this.#path(name);
    const found = await statOrNull(this.#options.port.lstat(path), path);
    if (found === null || !found.isFile()) return "absent";
    return found.size === byteLength ? "whole" : "other-length";
  }

  /** Fills the object's buffer; see {@link ObjectIo.read}. */
  read(name: string, object: MemoryObj): Promise<ReadOutcome> {
    return this.#options.io.read(this.#path(name), object);
  }

  /**
   * Writes an object unless it is there. The bytes written: 0 if it was.
   *
   * @throws CacheError `BACKEND_REFUSED` if something else has its name, `BACKEND_FULL`, `ABORTED` once `isStopped`;
   *   or the error of a failed call, as Node gives it.
   */
  store(name: string, cacheSalt: string, object: MemoryObj, isStopped: () => boolean): Promise<number> {
    const { io, scan, capacity, names } = this.#options;
    const { byteLength } = object.bytes;
    return names.exclusively(name, async () => {
      const path = this.#path(name);
      if (await this.#isStored(path, byteLength)) return 0;
      return capacity.withRoom(byteLength, scan.tier.bytes, async () => {
        await io.write(path, object, isStopped);
        capacity.own.add(name, cacheSalt, byteLength);
        scan.note(1, byteLength);
        return byteLength;
      });
    });
  }

  /** True if the file has that length; throws if it has another one, which may be right for another node. */
  async #isStored(path: string, byteLength: number): Promise<boolean> {
    const found = await statOrNull(this.#options.port.lstat(path), path);
    if (found === null) return false;
    if (found.isFile() && found.size === byteLength) return true;
    const what = found.isFile()
      ? `is there with ${found.size} bytes instead of ${byteLength}`
      : "is no regular file";
    throw new CacheError(
      "BACKEND_REFUSED",
      `${path} ${what}; it may belong to a node with another layout: delete the object first, or use another base_path or cache identity`,
      { details: { reason: "other-length", path, expectedBytes: byteLength, foundBytes: found.size } },
    );
  }

  /** Deletes a file if it is there. False if a lock forbids it. */
  remove(name: string, cacheSalt: string): Promise<boolean> {
    const { port, names } = this.#options;
    return this.#takeAway(name, cacheSalt, async (path) => {
      if (names.isLocked(name)) return false;
      await port.unlink(path);
      return true;
    });
  }

  /** Makes the directory that {@link quarantine} moves files to. */
  async prepareQuarantine(): Promise<void> {
    await ensureSubdirectory(this.#options.port, this.#quarantinePath, 0o700);
  }

  /** Moves a file, if it is there, to the quarantine. Its name there. */
  async quarantine(name: string, cacheSalt: string): Promise<string> {
    const prefix = `${Date.now().toString(36)}-${randomBytes(4).toString("hex")}-`;
    const fits = Buffer.byteLength(prefix + name) <= NAME_BYTES_MAX;
    const kept = prefix + (fits ? name : createHash("sha256").update(name).digest("hex"));
    await this.#takeAway(name, cacheSalt, async (path) => {
      await this.#options.port.rename(path, join(this.#quarantinePath, kept));
      return true;
    });
    return kept;
  }

  /** Does `take`, which says whether it did, and accounts for it. True if no file has the name any more. */
  #takeAway(name: string, cacheSalt: string, take: (path: string) => Promise<boolean>): Promise<boolean> {
    const { port, scan, capacity, names } = this.#options;
    return names.exclusively(name, async () => {
      const path = this.#path(name);
      try {
        const { size } = await port.lstat(path);
        if (!(await take(path))) return false;
        scan.note(-1, -size);
      } catch (error) {
        if (errnoOf(error) !== "ENOENT") throw error;
      }
      capacity.own.remove(name, cacheSalt);
      return true;
    });
  }
}

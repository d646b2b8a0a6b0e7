import { createHash, randomBytes } from "node:crypto";
import { join } from "node:path";
import { CacheError, type MemoryObj } from "@cache/contracts";
import type { Capacity } from "./capacity.ts";
import { ensureSubdirectory } from "./directory.ts";
import { errnoOf, type FileOutcome } from "./file-job.ts";
import type { FileJobs } from "./file-jobs.ts";
import { backendError, type FsPort, lookAt } from "./fs-port.ts";
import type { NameLocks } from "./name-locks.ts";
import { NAME_BYTES_MAX, QUARANTINE_DIR } from "./names.ts";
import { allSettled } from "./operations.ts";
import type { Stop } from "./stop.ts";

/** What {@link ObjectFiles} work with. */
export interface ObjectFilesOptions {
  readonly port: FsPort;
  readonly basePath: string;
  /** Device of the directory's filesystem when it was opened. */
  readonly device: number;
  readonly jobs: FileJobs;
  readonly capacity: Capacity;
  readonly names: NameLocks;
}

/** An object to store. */
export interface NamedObject {
  readonly name: string;
  readonly cacheSalt: string;
  readonly object: MemoryObj;
}

/** Told what became of one object: the bytes written, 0 if it was there; or the error, as Node gave it or typed. */
export type StoreListener = (item: NamedObject, outcome: number | Error) => void;

/** A file outcome that is a failed call as an error like Node's; null for any other. */
export function failureOf(outcome: FileOutcome): NodeJS.ErrnoException | null {
  if (typeof outcome !== "object") return null;
  return Object.assign(new Error(outcome.message), { code: outcome.code });
}

/** The object files of an open directory: each name changed by one at a time, and accounted for. */
export class ObjectFiles {
  readonly #options: ObjectFilesOptions;
  readonly #quarantinePath: string;

  constructor(options: ObjectFilesOptions) {
    this.#options = options;
    this.#quarantinePath = join(options.basePath, QUARANTINE_DIR);
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
    const found = await lookAt(port.stat(basePath), basePath);
    if (found === null) throw backendError({ code: "ENOENT" }, "look at", basePath);
    if (found.isDirectory() && found.dev === device) return;
    throw new CacheError(
      "BACKEND_UNAVAILABLE",
      `another filesystem is at ${basePath} now than when it was opened; mount the right one, or restart the engine to use this one`,
    );
  }

  /**
   * Writes each object unless it is there, and reports each that has come to an end, not those that `stop` prevented.
   * Settles when nothing touches the objects' memory.
   *
   * Errors: `CONFLICT` if something else has its name, `BACKEND_FULL`, or a failed call's, as Node gives it.
   */
  async store(items: readonly NamedObject[], stop: Stop, report: StoreListener): Promise<void> {
    await allSettled(
      this.#groups(items).map((group) => {
        const names = group.map(({ name }) => name);
        return this.#options.names.exclusively(names, () => this.#storeGroup(names, group, stop, report));
      }),
    );
  }

  /** Splits objects for the threads; a name that comes twice goes into two groups, of which one waits. */
  #groups(items: readonly NamedObject[]): NamedObject[][] {
    const lengths = items.map(({ object }) => object.bytes.byteLength);
    return this.#options.jobs.split("write", lengths).flatMap(([begin, end]) => {
      const groups: NamedObject[][] = [];
      let names = new Set<string>();
      for (const item of items.slice(begin, end)) {
        if (groups.length === 0 || names.has(item.name)) {
          groups.push([]);
          names = new Set();
        }
        names.add(item.name);
        groups.at(-1)?.push(item);
      }
      return groups;
    });
  }

  async #storeGroup(
    names: readonly string[],
    group: readonly NamedObject[],
    stop: Stop,
    report: StoreListener,
  ): Promise<void> {
    const { jobs, capacity } = this.#options;
    const found = await jobs.run("look", names, [], stop);
    const absent = group.filter((item, i) => {
      const outcome = found[i] as FileOutcome;
      if (outcome === "stopped") return false;
      try {
        if (this.#isThere(item, outcome)) report(item, 0);
        else {
          capacity.reserve(item.name, item.object.bytes.byteLength);
          return true;
        }
      } catch (error) {
        report(item, error as Error);
      }
      return false;
    });
    if (absent.length === 0) return;
    const absentNames = absent.map(({ name }) => name);
    const objects = absent.map(({ object }) => object);
    const written = await jobs.run("write", absentNames, objects, stop);
    absent.forEach((item, i) => {
      const outcome = written[i] as FileOutcome;
      const failure = failureOf(outcome);
      if (outcome === "whole") {
        capacity.stored(item.name, item.cacheSalt);
        report(item, item.object.bytes.byteLength);
      } else {
        capacity.notStored(item.name);
        if (failure !== null) report(item, failure);
      }
    });
  }

  /** True if the file has that length; throws if it has another one, which may be right for another node. */
  #isThere({ name, object }: NamedObject, found: FileOutcome): boolean {
    const { byteLength } = object.bytes;
    const path = this.#path(name);
    const failure = failureOf(found);
    if (failure !== null) throw backendError(failure, "look at", path);
    if (found === "absent") return false;
    if (found === byteLength) return true;
    const isFile = typeof found === "number";
    const what = isFile ? `is there with ${found} bytes instead of ${byteLength}` : "is no regular file";
    throw new CacheError(
      "CONFLICT",
      `${path} ${what}; it may belong to a node with another layout: delete the object first, or use another base_path or cache identity`,
      {
        details: {
          reason: "other-length",
          path,
          expectedBytes: byteLength,
          foundBytes: isFile ? found : null,
        },
      },
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
    const { port, capacity, names } = this.#options;
    return names.exclusively([name], async () => {
      const path = this.#path(name);
      let removedBytes: number | null = null;
      try {
        const found = await port.lstat(path);
        if (found !== null) {
          if (!(await take(path))) return false;
          removedBytes = found.size;
        }
      } catch (error) {
        if (errnoOf(error) !== "ENOENT") throw error;
      }
      capacity.removed(name, cacheSalt, removedBytes);
      return true;
    });
  }
}

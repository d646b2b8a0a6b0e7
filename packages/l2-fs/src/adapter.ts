import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import {
  abortedError,
  type DirectoryScan,
  assertBuffers,
  type KeyListing,
  newTemporaryOwner,
  orAborted,
} from "@cache/adapter-kit";
import {
  type AdapterLog,
  type AdapterStatus,
  type AdapterUsage,
  Bitmap,
  CacheError,
  type KeyListPage,
  type L1MemoryDesc,
  type L2Adapter,
  type L2Capabilities,
  type L2StoreResult,
  type MemoryObj,
  type ObjectKey,
  type OpenContext,
  type PageRequest,
  type SizedKey,
} from "@cache/contracts";
import { Capacity } from "./capacity.ts";
import { type FsConfig, permissionBits } from "./config.ts";
import { type PreparedDirectory, prepareDirectory } from "./directory.ts";
import type { FileOutcome, FileSettings } from "./file-job.ts";
import { FileJobs } from "./file-jobs.ts";
import { FileThreads } from "./file-threads.ts";
import { backendError, type FsPort, nodeFsPort } from "./fs-port.ts";
import { directoryListing } from "./listing.ts";
import { NameLocks } from "./name-locks.ts";
import { encodeFileName, temporaryPrefix } from "./names.ts";
import { failureOf, type NamedObject, ObjectFiles } from "./object-files.ts";
import { allSettled, FileOperations } from "./operations.ts";
import { directoryScan } from "./scan.ts";
import type { Stop } from "./stop.ts";

/** What exists from `open` on. */
interface Opened {
  readonly log: AdapterLog;
  /** Null if there are to be none. */
  readonly threads: FileThreads | null;
  readonly jobs: FileJobs;
  readonly files: ObjectFiles;
  readonly scan: DirectoryScan;
}

/**
 * Makes the adapter on a directory. No I/O before `open`. `port` is for tests; with one there are no threads, which
 * make their calls themselves.
 */
export function createFsAdapter(config: FsConfig, l1: L1MemoryDesc, port: FsPort = nodeFsPort): L2Adapter {
  return new FsAdapter(config, l1, port);
}

/** As many threads as cores, but two to four: one may wait for the disk, and more need memory for nothing. */
function threadCount({ num_workers: configured }: FsConfig): number {
  return configured ?? Math.min(4, Math.max(2, availableParallelism()));
}

/** One file an object in one directory, as LMCache's `fs` adapter writes them. */
class FsAdapter implements L2Adapter {
  readonly location: string;
  readonly capabilities: L2Capabilities;
  readonly #config: FsConfig;
  readonly #l1: L1MemoryDesc;
  readonly #port: FsPort;
  readonly #capacity: Capacity;
  readonly #listing: KeyListing;
  readonly #operations = new FileOperations();
  readonly #names = new NameLocks();
  readonly #counts = { length_mismatches: 0, short_reads: 0, unnameable_keys: 0, quarantined: 0 };
  #opened: Opened | null = null;
  #opening: Promise<void> | null = null;
  #closing: Promise<void> | null = null;

  constructor(config: FsConfig, l1: L1MemoryDesc, port: FsPort) {
    this.#config = config;
    this.#l1 = l1;
    this.#port = port;
    this.location = resolve(config.base_path);
    this.#capacity = new Capacity(port, this.location, config);
    this.#listing = directoryListing(port, this.location);
    this.capabilities = Object.freeze({
      persistent: true,
      shared: true,
      delete: true,
      listKeys: true,
      quarantine: true,
      globalEviction: this.#capacity.limitBytes !== "unbounded",
      l1Registration: "none",
      needsStateDir: false,
      writesOnlyFromEngineProcess: true,
      maxBatchKeys: 1024,
      maxObjectBytes: 2 ** 32,
    });
  }

  async open(context: OpenContext): Promise<void> {
    if (this.#closing !== null) this.#operations.assertOpen();
    this.#opening ??= this.#open(context).catch((error: unknown) => {
      this.#opening = null;
      throw error;
    });
    // A dead network mount answers no call: the attempt ends all the same.
    const text = `opening ${this.location} was ended early: its filesystem does not answer; check the mount`;
    await orAborted(this.#opening, context.signal, () => new CacheError("ABORTED", text));
  }

  async #open({ log, id, signal }: OpenContext): Promise<void> {
    const port = this.#port;
    const basePath = this.location;
    const config = this.#config;
    const directory = await prepareDirectory(port, basePath, config, log);
    const owner = await newTemporaryOwner();
    if (signal.aborted || this.#closing !== null) throw abortedError();
    const settings = this.#settings(directory, temporaryPrefix(id, owner));
    const l1Address = this.#l1.ptr;
    // Threads call the C library through what mapped L1: koffi.
    const canHaveThreads = port === nodeFsPort && l1Address !== null && process.platform === "linux";
    const count = canHaveThreads ? threadCount(config) : 0;
    const threads = count === 0 ? null : new FileThreads({ settings, l1: this.#l1, count, log });
    const jobs = new FileJobs({ port, settings, l1Address, threads, operations: this.#operations, log });
    const { temporaryPath } = directory;
    const scan = directoryScan(
      { port, basePath, temporaryPath },
      {
        owner,
        log,
        account: this.#capacity,
        filesPerSecond: config.scan_files_per_second,
        intervalMs: config.scan_interval_seconds * 1000,
      },
    );
    const shared = { capacity: this.#capacity, names: this.#names };
    const files = new ObjectFiles({ port, basePath, device: directory.device, jobs, ...shared });
    this.#opened = { log, threads, jobs, files, scan };
    scan.start();
    this.#operations.begin();
    this.#capacity.refreshFreeBytes();
  }

  #settings({ temporaryPath, blockBytes }: PreparedDirectory, prefix: string): FileSettings {
    const { file_mode, fsync, read_ahead_size, use_odirect } = this.#config;
    return {
      basePath: this.location,
      temporaryPath,
      temporaryPrefix: prefix,
      fileMode: permissionBits(file_mode),
      fsync,
      readAheadBytes: read_ahead_size,
      useDirect: use_odirect,
      blockBytes,
    };
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#operations.end();
    if (this.#opened === null) return; // an attempt to open that is under way ends by itself
    await this.#opened.threads?.close();
    await this.#opened.scan.stop();
    this.#names.clear();
  }

  #state(): Opened {
    if (this.#opened === null) throw new TypeError("an operation ran before open");
    return this.#opened;
  }

  /** The file name of a key; null for one that can have no file, which therefore is not there. */
  #nameOrNull(key: ObjectKey): string | null {
    try {
      return encodeFileName(key);
    } catch {
      this.#counts.unnameable_keys++;
      return null;
    }
  }

  async #assertDirectory(): Promise<void> {
    try {
      await this.#state().files.assertDirectory();
    } catch (error) {
      throw this.#operations.countError(backendError(error, "look at", this.location));
    }
  }

  /**
   * Does a job on the file of each key that can have one, and tells what became of it. What failed, in no order. The
   * threads begin with the first names while the others are still being made.
   */
  async #forEachFile(
    kind: "look" | "read",
    requests: readonly SizedKey[],
    objects: readonly MemoryObj[],
    stop: Stop,
    tell: (i: number, name: string, outcome: FileOutcome) => void,
  ): Promise<CacheError[]> {
    const { jobs } = this.#state();
    const errors: CacheError[] = [];
    const doRange = async ([begin, end]: [number, number]): Promise<void> => {
      const positions: number[] = [];
      const names: string[] = [];
      for (let i = begin; i < end; i++) {
        const name = this.#nameOrNull((requests[i] as SizedKey).key);
        if (name === null) continue;
        positions.push(i);
        names.push(name);
      }
      const memory = kind === "look" ? [] : positions.map((i) => objects[i] as MemoryObj);
      // Before the look, so that a delete in between finds the lock.
      const locking = kind === "look" ? this.#names.lockAll(names) : null;
      if (locking !== null) await locking;
      const outcomes = await jobs.run(kind, names, memory, stop);
      outcomes.forEach((outcome, at) => {
        const name = names[at] as string;
        const failure = failureOf(outcome);
        if (failure !== null) {
          const action = kind === "look" ? "look at" : "read";
          const error = backendError(failure, action, join(this.location, name));
          errors.push(this.#operations.countError(error));
        }
        tell(positions[at] as number, name, outcome);
      });
    };
    const lengths = requests.map(({ byteLength }) => byteLength);
    await allSettled(jobs.split(kind, lengths).map(doRange));
    return errors;
  }

  /** Does `work` for each key with its file name, null if it can have none. What failed, in no order. */
  async #forEachName(
    keys: readonly ObjectKey[],
    stop: Stop,
    action: string,
    work: (name: string | null, i: number) => Promise<void>,
  ): Promise<CacheError[]> {
    const errors: CacheError[] = [];
    await this.#operations.forEach(keys.length, stop, async (i) => {
      const name = this.#nameOrNull(keys[i] as ObjectKey);
      try {
        await work(name, i);
      } catch (error) {
        const path = name === null ? this.location : join(this.location, name);
        errors.push(this.#operations.countError(backendError(error, action, path)));
      }
    });
    return errors;
  }

  /** The verdict on keys of which some failed: an error if nothing was found, else what was found. */
  async #settle(errors: readonly CacheError[], found: Bitmap): Promise<void> {
    const anyFound = found.count() > 0;
    const [first] = errors;
    if (first === undefined && !anyFound && found.size > 0) await this.#assertDirectory();
    if (first !== undefined && !anyFound) throw first;
    if (first !== undefined) {
      this.#state().log.warn("some objects could not be reached and count as missing", {
        failed: errors.length,
        first: first.message,
      });
    }
    if (anyFound) this.#operations.countSuccess();
  }

  async store(
    keys: readonly ObjectKey[],
    objects: readonly MemoryObj[],
    signal: AbortSignal,
  ): Promise<L2StoreResult> {
    const stored = new Bitmap(keys.length);
    const failed = new Map<number, CacheError>();
    let bytesTransferred = 0;
    await this.#operations.runStoppable(signal, async (stop) => {
      if (keys.length === 0) return;
      await this.#assertDirectory();
      const fail = (i: number, error: unknown): void => {
        const failure = backendError(error, "write an object to", this.location);
        failed.set(i, this.#operations.countError(failure));
      };
      const positions = new Map<NamedObject, number>();
      for (const [i, key] of keys.entries()) {
        try {
          positions.set(this.#named(key, objects[i]), i);
        } catch (error) {
          fail(i, error);
        }
      }
      await this.#state().files.store([...positions.keys()], stop, (item, outcome) => {
        const i = positions.get(item) as number;
        if (typeof outcome !== "number") return fail(i, outcome);
        bytesTransferred += outcome;
        stored.set(i);
        this.#operations.countSuccess();
      });
      for (let i = 0; i < keys.length; i++) {
        if (!stored.has(i) && !failed.has(i)) failed.set(i, abortedError());
      }
    });
    return { stored, failed, bytesTransferred };
  }

  #named(key: ObjectKey, object: MemoryObj | undefined): NamedObject {
    if (object === undefined) throw new CacheError("INVALID_ARGUMENT", "store has fewer objects than keys");
    const name = encodeFileName(key);
    const { byteLength } = object.bytes;
    const most = this.capabilities.maxObjectBytes;
    if (byteLength <= most) return { name, cacheSalt: key.cacheSalt, object };
    throw new CacheError("INVALID_ARGUMENT", `an object of ${byteLength} bytes is larger than ${most} bytes`);
  }

  async lookupAndLock(requests: readonly SizedKey[], signal: AbortSignal): Promise<Bitmap> {
    const found = new Bitmap(requests.length);
    await this.#operations.runStoppable(signal, async (stop) => {
      const errors = await this.#forEachFile("look", requests, [], stop, (i, name, outcome) => {
        if (outcome === (requests[i] as SizedKey).byteLength) return found.set(i);
        this.#names.unlock(name);
        if (typeof outcome === "number") this.#counts.length_mismatches++;
      });
      if (stop.isSet) {
        this.unlock(found.gather(requests.map(({ key }) => key)));
        throw abortedError();
      }
      await this.#settle(errors, found); // throws only if nothing was found, so no lock stays
    });
    return found;
  }

  unlock(keys: readonly ObjectKey[]): void {
    for (const key of keys) {
      const name = this.#nameOrNull(key);
      if (name !== null) this.#names.unlock(name);
    }
  }

  async load(
    requests: readonly SizedKey[],
    into: readonly MemoryObj[],
    signal: AbortSignal,
  ): Promise<Bitmap> {
    const loaded = new Bitmap(requests.length);
    await this.#operations.runStoppable(signal, async (stop) => {
      assertBuffers(requests, into);
      const errors = await this.#forEachFile("read", requests, into, stop, (i, _name, outcome) => {
        if (outcome === "whole") loaded.set(i);
        else if (outcome === "other-length") this.#counts.length_mismatches++;
        else if (outcome === "shrank") this.#counts.short_reads++;
      });
      await this.#settle(errors, loaded);
    });
    return loaded;
  }

  async delete(keys: readonly ObjectKey[], signal: AbortSignal): Promise<Bitmap> {
    const gone = new Bitmap(keys.length);
    await this.#operations.runStoppable(signal, async (stop) => {
      if (keys.length === 0) return;
      await this.#assertDirectory();
      const { files } = this.#state();
      const errors = await this.#forEachName(keys, stop, "delete", async (name, i) => {
        if (name === null || (await files.remove(name, (keys[i] as ObjectKey).cacheSalt))) gone.set(i);
      });
      await this.#settle(errors, gone);
    });
    return gone;
  }

  async quarantine(keys: readonly ObjectKey[], reason: string, signal: AbortSignal): Promise<void> {
    await this.#operations.runStoppable(signal, async (stop) => {
      if (keys.length === 0) return;
      await this.#assertDirectory();
      const { files, log } = this.#state();
      await files.prepareQuarantine();
      const [first] = await this.#forEachName(keys, stop, "quarantine", async (name, i) => {
        if (name === null) return;
        const kept = await files.quarantine(name, (keys[i] as ObjectKey).cacheSalt);
        this.#counts.quarantined++;
        log.warn("an object was quarantined", { reason, file: name, kept_as: kept });
      });
      if (first !== undefined) throw first;
      this.#operations.assertNotStopped(stop);
    });
  }

  async listKeys(page: PageRequest, signal: AbortSignal): Promise<KeyListPage> {
    return this.#operations.runStoppable(signal, async (stop) => {
      await this.#assertDirectory();
      try {
        return await this.#listing.page(page, () => this.#operations.assertNotStopped(stop));
      } catch (error) {
        throw this.#operations.countError(backendError(error, "list", this.location));
      }
    });
  }

  usage(): AdapterUsage {
    return this.#capacity.usage();
  }

  status(): AdapterStatus {
    if (this.#operations.isOpen) this.#capacity.refreshFreeBytes();
    const { scan, jobs, threads } = this.#opened ?? {};
    return {
      isHealthy: this.#operations.isHealthy,
      type: "fs",
      base_path: this.location,
      relative_tmp_dir: this.#config.relative_tmp_dir,
      use_odirect: this.#config.use_odirect,
      fsync: this.#config.fsync,
      ...this.#capacity.status(),
      free_bytes: this.#capacity.freeBytes,
      operations_in_flight: this.#operations.inFlight,
      locked_keys: this.#names.lockedCount,
      errors: this.#operations.errorCounts,
      ...this.#counts,
      odirect_fallbacks: jobs?.directFallbacks ?? 0,
      threads: threads?.status() ?? null,
      scan: scan?.status() ?? null,
    };
  }
}

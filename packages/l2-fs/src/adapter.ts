import { randomBytes } from "node:crypto";
import { join, resolve } from "node:path";
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
import type { FsConfig } from "./config.ts";
import { prepareDirectory, readHostToken } from "./directory.ts";
import { backendError, type FsPort, nodeFsPort } from "./fs-port.ts";
import { KeyListing } from "./listing.ts";
import { NameLocks } from "./name-locks.ts";
import { encodeFileName, temporaryPrefix } from "./names.ts";
import { ObjectFiles } from "./object-files.ts";
import { ObjectIo } from "./object-io.ts";
import { Operations, orAborted } from "./operations.ts";
import { DirectoryScan, openTokens } from "./scan.ts";

/** What exists from `open` on. */
interface Opened {
  readonly log: AdapterLog;
  readonly openToken: string;
  readonly files: ObjectFiles;
  readonly scan: DirectoryScan;
}

/** Makes the adapter on a directory. No I/O before `open`. `port` is for tests. */
export function createFsAdapter(config: FsConfig, l1: L1MemoryDesc, port: FsPort = nodeFsPort): L2Adapter {
  return new FsAdapter(config, l1, port);
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
  readonly #operations = new Operations();
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
    this.#listing = new KeyListing(port, this.location);
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
    const message = `opening ${this.location} was ended early: its filesystem does not answer; check the mount`;
    await orAborted(this.#opening, context.signal, message);
  }

  async #open({ log, id, signal }: OpenContext): Promise<void> {
    const port = this.#port;
    const basePath = this.location;
    const config = this.#config;
    const directory = await prepareDirectory(port, basePath, config, log);
    const hostToken = await readHostToken();
    if (signal.aborted || this.#closing !== null) throw this.#operations.aborted();
    const openToken = randomBytes(4).toString("hex");
    openTokens().add(openToken);
    const prefix = temporaryPrefix(id, { hostToken, pid: process.pid, openToken });
    const l1Address = this.#l1.ptr;
    const io = new ObjectIo({ port, basePath, config, directory, temporaryPrefix: prefix, l1Address, log });
    const scan = new DirectoryScan({
      port,
      basePath,
      temporaryPath: directory.temporaryPath,
      hostToken,
      log,
      filesPerSecond: config.scan_files_per_second,
      intervalMs: config.scan_interval_seconds * 1000,
    });
    const shared = { capacity: this.#capacity, names: this.#names };
    const files = new ObjectFiles({ port, basePath, device: directory.device, io, scan, ...shared });
    this.#opened = { log, openToken, files, scan };
    this.#operations.begin();
    this.#capacity.refreshFreeBytes();
    scan.start();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#operations.end();
    if (this.#opened === null) return; // an attempt to open that is under way ends by itself
    await this.#opened.scan.stop();
    openTokens().delete(this.#opened.openToken);
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

  /** Does `work` for each key with its file name, null if it can have none. What failed, in no order. */
  async #forEachName(
    keys: readonly ObjectKey[],
    signal: AbortSignal,
    action: string,
    work: (name: string | null, i: number) => Promise<void>,
  ): Promise<CacheError[]> {
    const errors: CacheError[] = [];
    await this.#operations.forEach(keys.length, signal, async (i) => {
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
    await this.#operations.run(signal, async () => {
      if (keys.length === 0) return;
      await this.#assertDirectory();
      await this.#operations.forEach(keys.length, signal, async (i) => {
        try {
          const key = keys[i];
          const object = objects[i];
          if (key === undefined || object === undefined) {
            throw new CacheError(
              "INVALID_ARGUMENT",
              `store of ${keys.length} keys has ${objects.length} objects`,
            );
          }
          const written = await this.#storeOne(key, object, signal);
          bytesTransferred += written; // `+= await` would lose what others add meanwhile
          stored.set(i);
          this.#operations.countSuccess();
        } catch (error) {
          const failure = backendError(error, "write an object to", this.location);
          failed.set(i, this.#operations.countError(failure));
        }
      });
      for (let i = 0; i < keys.length; i++) {
        if (!stored.has(i) && !failed.has(i)) failed.set(i, this.#operations.aborted());
      }
    });
    return { stored, failed, bytesTransferred };
  }

  /** Bytes written: 0 if the object was there. */
  async #storeOne(key: ObjectKey, object: MemoryObj, signal: AbortSignal): Promise<number> {
    const name = encodeFileName(key);
    const { byteLength } = object.bytes;
    if (byteLength > this.capabilities.maxObjectBytes) {
      const most = this.capabilities.maxObjectBytes;
      throw new CacheError(
        "INVALID_ARGUMENT",
        `an object of ${byteLength} bytes is larger than ${most} bytes`,
      );
    }
    const { files } = this.#state();
    return files.store(name, key.cacheSalt, object, () => this.#operations.isStopped(signal));
  }

  async lookupAndLock(requests: readonly SizedKey[], signal: AbortSignal): Promise<Bitmap> {
    const found = new Bitmap(requests.length);
    const keys = requests.map(({ key }) => key);
    await this.#operations.run(signal, async () => {
      const { files } = this.#state();
      const errors = await this.#forEachName(keys, signal, "look at", async (name, i) => {
        if (name === null) return;
        await this.#names.whenUnchanging(name);
        this.#names.lock(name); // before the look, so that a delete in between finds it
        try {
          const outcome = await files.look(name, (requests[i] as SizedKey).byteLength);
          if (outcome === "whole") found.set(i);
          else if (outcome === "other-length") this.#counts.length_mismatches++;
        } finally {
          if (!found.has(i)) this.#names.unlock(name);
        }
      });
      if (this.#operations.isStopped(signal)) {
        this.unlock(found.gather(keys));
        throw this.#operations.aborted();
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
    await this.#operations.run(signal, async () => {
      requests.forEach(({ byteLength }, i) => {
        const bytes = into[i]?.bytes.byteLength;
        if (bytes === byteLength) return;
        throw new CacheError(
          "INVALID_ARGUMENT",
          `buffer ${i} has ${bytes} bytes for an object of ${byteLength}`,
        );
      });
      const { files } = this.#state();
      const keys = requests.map(({ key }) => key);
      const errors = await this.#forEachName(keys, signal, "read", async (name, i) => {
        if (name === null) return;
        const outcome = await files.read(name, into[i] as MemoryObj);
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
    await this.#operations.run(signal, async () => {
      if (keys.length === 0) return;
      await this.#assertDirectory();
      const { files } = this.#state();
      const errors = await this.#forEachName(keys, signal, "delete", async (name, i) => {
        if (name === null || (await files.remove(name, (keys[i] as ObjectKey).cacheSalt))) gone.set(i);
      });
      await this.#settle(errors, gone);
    });
    return gone;
  }

  async quarantine(keys: readonly ObjectKey[], reason: string, signal: AbortSignal): Promise<void> {
    await this.#operations.run(signal, async () => {
      if (keys.length === 0) return;
      await this.#assertDirectory();
      const { files, log } = this.#state();
      await files.prepareQuarantine();
      const [first] = await this.#forEachName(keys, signal, "quarantine", async (name, i) => {
        if (name === null) return;
        const kept = await files.quarantine(name, (keys[i] as ObjectKey).cacheSalt);
        this.#counts.quarantined++;
        log.warn("an object was quarantined", { reason, file: name, kept_as: kept });
      });
      if (first !== undefined) throw first;
      this.#operations.assertNotStopped(signal);
    });
  }

  async listKeys(page: PageRequest, signal: AbortSignal): Promise<KeyListPage> {
    return this.#operations.run(signal, async () => {
      await this.#assertDirectory();
      try {
        return await this.#listing.page(page, () => this.#operations.assertNotStopped(signal));
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
    const { own, limitBytes, freeBytes } = this.#capacity;
    const { scan, files } = this.#opened ?? {};
    return {
      isHealthy: this.#operations.isHealthy,
      type: "fs",
      base_path: this.location,
      relative_tmp_dir: this.#config.relative_tmp_dir,
      use_odirect: this.#config.use_odirect,
      fsync: this.#config.fsync,
      stored_object_count: own.count,
      current_size_bytes: own.bytes,
      tier_object_count: scan?.tier.files ?? 0,
      tier_size_bytes: scan?.tier.bytes ?? 0,
      max_capacity_bytes: limitBytes === "unbounded" ? null : limitBytes,
      free_bytes: freeBytes,
      operations_in_flight: this.#operations.inFlight,
      locked_keys: this.#names.lockedCount,
      errors: this.#operations.errorCounts,
      ...this.#counts,
      odirect_fallbacks: files?.directFallbacks ?? 0,
      scan: scan?.status() ?? null,
    };
  }
}

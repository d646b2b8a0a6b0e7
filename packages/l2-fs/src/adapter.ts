import { createHash, randomBytes } from "node:crypto";
import type { Stats } from "node:fs";
import { join, resolve } from "node:path";
import {
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
import { type FsConfig, permissionBits } from "./config.ts";
import { ensureSubdirectory, type PreparedDirectory, prepareDirectory, readHostToken } from "./directory.ts";
import { backendError, errnoOf, type FsPort, nodeFsPort } from "./fs-port.ts";
import { KeyListing } from "./listing.ts";
import { encodeFileName, NAME_BYTES_MAX, QUARANTINE_DIR, temporaryPrefix } from "./names.ts";
import { canBypassCache, type ObjectIoOptions, readObject, writeObject } from "./object-io.ts";
import { Operations } from "./operations.ts";
import { OwnObjects } from "./own-objects.ts";
import { DirectoryScan, openTokens } from "./scan.ts";

const GIB = 1024 ** 3;
/** The figure of free bytes is asked for again when it is older than this, in milliseconds. */
const FREE_BYTES_AGE_MS = 5000;

/** What exists from `open` on. */
interface Opened {
  readonly context: OpenContext;
  readonly directory: PreparedDirectory;
  readonly temporaryPrefix: string;
  readonly openToken: string;
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
  readonly #capacityBytes: number | "unbounded";
  readonly #listing: KeyListing;
  readonly #operations = new Operations();
  readonly #own = new OwnObjects();
  readonly #locks = new Map<string, number>();
  #opened: Opened | null = null;
  #opening: Promise<void> | null = null;
  #closing: Promise<void> | null = null;
  #temporaryCount = 0;
  #reservedBytes = 0;
  #freeBytes = { bytes: null as number | null, askedMs: Number.NEGATIVE_INFINITY };
  #directRefused = false;
  readonly #counts = {
    lengthMismatches: 0,
    shortReads: 0,
    directFallbacks: 0,
    quarantined: 0,
    unnameableKeys: 0,
  };

  constructor(config: FsConfig, l1: L1MemoryDesc, port: FsPort) {
    this.#config = config;
    this.#l1 = l1;
    this.#port = port;
    this.location = resolve(config.base_path);
    this.#listing = new KeyListing(port, this.location);
    this.#capacityBytes = config.max_capacity_gb > 0 ? Math.floor(config.max_capacity_gb * GIB) : "unbounded";
    this.capabilities = Object.freeze({
      persistent: true,
      shared: true,
      delete: true,
      listKeys: true,
      quarantine: true,
      globalEviction: this.#capacityBytes !== "unbounded",
      l1Registration: "none",
      needsStateDir: false,
      writesOnlyFromEngineProcess: true,
      maxBatchKeys: 1024,
      maxObjectBytes: 4 * GIB,
    });
  }

  async open(context: OpenContext): Promise<void> {
    if (this.#closing !== null) this.#operations.assertOpen();
    this.#opening ??= this.#open(context).catch((error: unknown) => {
      this.#opening = null;
      throw error;
    });
    let onAbort: () => void = () => undefined;
    // A dead network mount answers no call: the attempt ends all the same.
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () => {
        const message = `opening ${this.location} was ended early: its filesystem does not answer; check the mount`;
        reject(new CacheError("ABORTED", message));
      };
      if (context.signal.aborted) onAbort();
      else context.signal.addEventListener("abort", onAbort, { once: true });
    });
    try {
      await Promise.race([this.#opening, aborted]);
    } finally {
      context.signal.removeEventListener("abort", onAbort);
    }
  }

  async #open(context: OpenContext): Promise<void> {
    const { log, id, signal } = context;
    const directory = await prepareDirectory(this.#port, this.location, this.#config, log);
    const hostToken = await readHostToken();
    if (signal.aborted || this.#closing !== null) throw this.#operations.aborted();
    const openToken = randomBytes(4).toString("hex");
    openTokens().add(openToken);
    const scan = new DirectoryScan({
      port: this.#port,
      basePath: this.location,
      temporaryPath: directory.temporaryPath,
      hostToken,
      log,
      filesPerSecond: this.#config.scan_files_per_second,
      intervalMs: this.#config.scan_interval_seconds * 1000,
    });
    const prefix = temporaryPrefix(id, { hostToken, pid: process.pid, openToken });
    this.#opened = { context, directory, temporaryPrefix: prefix, openToken, scan };
    this.#operations.begin();
    this.#refreshFreeBytes();
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
    this.#locks.clear();
  }

  #state(): Opened {
    if (this.#opened === null) throw new TypeError("an operation ran before open");
    return this.#opened;
  }

  #path(name: string): string {
    return join(this.location, name);
  }

  /** The file name of a key; null for one that can have no file, which therefore is not there. */
  #nameOrNull(key: ObjectKey): string | null {
    try {
      return encodeFileName(key);
    } catch {
      this.#counts.unnameableKeys++;
      return null;
    }
  }

  /**
   * Throws unless the directory is the one that was opened: an unmounted filesystem looks like an empty cache, and
   * stores would go to the disk below it.
   */
  async #assertDirectory(): Promise<void> {
    let failure: CacheError;
    try {
      const found = await this.#port.stat(this.location);
      if (found.isDirectory() && found.dev === this.#state().directory.device) return;
      failure = new CacheError(
        "BACKEND_UNAVAILABLE",
        `another filesystem is at ${this.location} now than when it was opened; mount the right one, or restart the engine to use this one`,
      );
    } catch (error) {
      failure = backendError(error, "look at", this.location);
    }
    this.#operations.countError(failure);
    throw failure;
  }

  /** The verdict on keys of which some failed: an error if nothing was found, else what was found. */
  #settle(errors: readonly CacheError[], found: number): void {
    for (const error of errors) this.#operations.countError(error);
    const [first] = errors;
    if (first !== undefined && found === 0) throw first;
    if (first !== undefined) {
      this.#state().context.log.warn("some objects could not be reached and count as missing", {
        failed: errors.length,
        first: first.message,
      });
    }
    if (found > 0) this.#operations.countSuccess();
  }

  #ioOptions(object: MemoryObj): ObjectIoOptions {
    const { poolOffset, bytes } = object;
    const { ptr } = this.#l1;
    const address = poolOffset === null || ptr === null ? null : ptr + BigInt(poolOffset);
    return {
      fileMode: permissionBits(this.#config.file_mode),
      fsync: this.#config.fsync,
      readAheadBytes: this.#config.read_ahead_size,
      direct:
        this.#config.use_odirect &&
        canBypassCache(bytes.byteLength, address, this.#state().directory.blockBytes),
      onDirectRefused: () => {
        this.#counts.directFallbacks++;
        if (this.#directRefused) return;
        this.#directRefused = true;
        this.#state().context.log.warn(
          "O_DIRECT was refused by the filesystem or for a buffer's alignment; such objects go through the page cache",
          { base_path: this.location, bytes: bytes.byteLength },
        );
      },
    };
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
          bytesTransferred += written; // not in one statement: others add to it during the await
          stored.set(i);
          this.#operations.countSuccess();
        } catch (error) {
          const failure = backendError(error, "write an object to", this.location);
          this.#operations.countError(failure);
          failed.set(i, failure);
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
    return this.#operations.exclusively(name, async () => {
      const final = this.#path(name);
      if (await this.#isStored(final, byteLength)) return 0;
      this.#reserve(byteLength);
      try {
        const { directory, temporaryPrefix } = this.#state();
        const temporary = join(
          directory.temporaryPath,
          `${temporaryPrefix}${(this.#temporaryCount++).toString(36)}.tmp`,
        );
        const paths = { directory: this.location, temporary, final };
        await writeObject(this.#port, paths, object.bytes, this.#ioOptions(object), () =>
          this.#operations.isStopped(signal),
        );
        this.#own.add(name, key.cacheSalt, byteLength);
        this.#state().scan.note(1, byteLength);
        return byteLength;
      } finally {
        this.#reservedBytes -= byteLength;
      }
    });
  }

  /** True if the file has that length; throws if it has another one, which may be right for another node. */
  async #isStored(final: string, byteLength: number): Promise<boolean> {
    let found: Stats;
    try {
      found = await this.#port.lstat(final);
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return false;
      throw error;
    }
    if (found.isFile() && found.size === byteLength) return true;
    const what = found.isFile()
      ? `is there with ${found.size} bytes instead of ${byteLength}`
      : "is no regular file";
    throw new CacheError(
      "BACKEND_REFUSED",
      `${final} ${what}; it may belong to a node with another layout: delete the object first, or use another base_path or cache identity`,
      { details: { reason: "other-length", path: final, expectedBytes: byteLength, foundBytes: found.size } },
    );
  }

  #reserve(byteLength: number): void {
    if (this.#capacityBytes !== "unbounded") {
      const used = this.#occupiedBytes() + this.#reservedBytes;
      if (used + byteLength > this.#capacityBytes) {
        throw new CacheError(
          "BACKEND_FULL",
          `${this.location} holds ${used} of ${this.#capacityBytes} bytes (max_capacity_gb ${this.#config.max_capacity_gb}) and has no room for ${byteLength} more; raise max_capacity_gb or configure eviction`,
          { details: { usedBytes: used, capacityBytes: this.#capacityBytes } },
        );
      }
    }
    this.#reservedBytes += byteLength;
  }

  /** What is in the directory as far as this process knows: other nodes' objects too, once scanned. */
  #occupiedBytes(): number {
    return Math.max(this.#own.bytes, this.#opened?.scan.tier.bytes ?? 0);
  }

  async lookupAndLock(requests: readonly SizedKey[], signal: AbortSignal): Promise<Bitmap> {
    const found = new Bitmap(requests.length);
    const names: (string | null)[] = [];
    return this.#operations.run(signal, async () => {
      const errors: CacheError[] = [];
      try {
        await this.#operations.forEach(requests.length, signal, async (i) => {
          const request = requests[i] as SizedKey;
          const name = this.#nameOrNull(request.key);
          names[i] = name;
          if (name === null) return;
          await this.#operations.whenFree(name);
          this.#lock(name); // before the look, so that a delete in between finds it
          let there = false;
          try {
            const file = await this.#port.lstat(this.#path(name));
            there = file.isFile() && file.size === request.byteLength;
            if (file.isFile() && !there) this.#counts.lengthMismatches++;
          } catch (error) {
            if (errnoOf(error) !== "ENOENT") errors.push(backendError(error, "look at", this.#path(name)));
          } finally {
            if (there) found.set(i);
            else this.#unlock(name);
          }
        });
        this.#operations.assertNotStopped(signal);
        if (requests.length > 0 && found.count() === 0 && errors.length === 0) await this.#assertDirectory();
        this.#settle(errors, found.count());
        return found;
      } catch (error) {
        for (const i of found.positions()) this.#unlock(names[i] as string);
        throw error;
      }
    });
  }

  #lock(name: string): void {
    this.#locks.set(name, (this.#locks.get(name) ?? 0) + 1);
  }

  #unlock(name: string): void {
    const count = this.#locks.get(name) ?? 0;
    if (count > 1) this.#locks.set(name, count - 1);
    else this.#locks.delete(name);
  }

  unlock(keys: readonly ObjectKey[]): void {
    for (const key of keys) {
      const name = this.#nameOrNull(key);
      if (name !== null) this.#unlock(name);
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
      const errors: CacheError[] = [];
      await this.#operations.forEach(requests.length, signal, async (i) => {
        const name = this.#nameOrNull((requests[i] as SizedKey).key);
        if (name === null) return;
        const target = into[i] as MemoryObj;
        try {
          const outcome = await readObject(
            this.#port,
            this.#path(name),
            target.bytes,
            this.#ioOptions(target),
          );
          if (outcome === "whole") loaded.set(i);
          else if (outcome === "other-length") this.#counts.lengthMismatches++;
          else if (outcome === "shrank") this.#counts.shortReads++;
        } catch (error) {
          errors.push(backendError(error, "read", this.#path(name)));
        }
      });
      if (requests.length > 0 && loaded.count() === 0 && errors.length === 0) await this.#assertDirectory();
      this.#settle(errors, loaded.count());
    });
    return loaded;
  }

  async delete(keys: readonly ObjectKey[], signal: AbortSignal): Promise<Bitmap> {
    const gone = new Bitmap(keys.length);
    await this.#operations.run(signal, async () => {
      if (keys.length === 0) return;
      await this.#assertDirectory();
      const errors: CacheError[] = [];
      await this.#operations.forEach(keys.length, signal, async (i) => {
        const key = keys[i] as ObjectKey;
        const name = this.#nameOrNull(key);
        try {
          if (name === null || (await this.#removeOne(name, key.cacheSalt, null))) gone.set(i);
        } catch (error) {
          errors.push(backendError(error, "delete", name === null ? this.location : this.#path(name)));
        }
      });
      this.#settle(errors, gone.count());
    });
    return gone;
  }

  /** Takes a file away, by moving it to `movedTo` or for good. False if it is locked (only asked when deleting). */
  #removeOne(name: string, cacheSalt: string, movedTo: string | null): Promise<boolean> {
    return this.#operations.exclusively(name, async () => {
      const path = this.#path(name);
      try {
        const { size } = await this.#port.lstat(path);
        if (movedTo !== null) await this.#port.rename(path, movedTo);
        else if (this.#locks.has(name)) return false;
        else await this.#port.unlink(path);
        this.#state().scan.note(-1, -size);
      } catch (error) {
        if (errnoOf(error) !== "ENOENT") throw error;
      }
      this.#own.remove(name, cacheSalt);
      return true;
    });
  }

  async quarantine(keys: readonly ObjectKey[], reason: string, signal: AbortSignal): Promise<void> {
    await this.#operations.run(signal, async () => {
      if (keys.length === 0) return;
      await this.#assertDirectory();
      const directory = this.#path(QUARANTINE_DIR);
      await ensureSubdirectory(this.#port, directory, 0o700);
      const errors: CacheError[] = [];
      await this.#operations.forEach(keys.length, signal, async (i) => {
        const key = keys[i] as ObjectKey;
        const name = this.#nameOrNull(key);
        if (name === null) return;
        const prefix = `${Date.now().toString(36)}-${randomBytes(4).toString("hex")}-`;
        const fits = Buffer.byteLength(prefix + name) <= NAME_BYTES_MAX;
        const kept = prefix + (fits ? name : createHash("sha256").update(name).digest("hex"));
        try {
          await this.#removeOne(name, key.cacheSalt, join(directory, kept));
          this.#counts.quarantined++;
          this.#state().context.log.warn("an object was quarantined", { reason, file: name, kept_as: kept });
        } catch (error) {
          errors.push(backendError(error, "quarantine", this.#path(name)));
        }
      });
      for (const error of errors) this.#operations.countError(error);
      if (errors[0] !== undefined) throw errors[0];
      this.#operations.assertNotStopped(signal);
    });
  }

  async listKeys(page: PageRequest, signal: AbortSignal): Promise<KeyListPage> {
    return this.#operations.run(signal, async () => {
      await this.#assertDirectory();
      try {
        return await this.#listing.page(page, () => this.#operations.assertNotStopped(signal));
      } catch (error) {
        const failure = backendError(error, "list", this.location);
        this.#operations.countError(failure);
        throw failure;
      }
    });
  }

  usage(): AdapterUsage {
    return {
      totalBytesUsed: this.#own.bytes,
      capacityBytes: this.#capacityBytes,
      bytesByCacheSalt: this.#own.bytesByCacheSalt(),
    };
  }

  status(): AdapterStatus {
    this.#refreshFreeBytes();
    const scan = this.#opened?.scan;
    const bounded = this.#capacityBytes !== "unbounded";
    return {
      isHealthy: this.#operations.isHealthy,
      type: "fs",
      base_path: this.location,
      relative_tmp_dir: this.#config.relative_tmp_dir,
      use_odirect: this.#config.use_odirect,
      fsync: this.#config.fsync,
      stored_object_count: this.#own.count,
      current_size_bytes: this.#own.bytes,
      tier_object_count: scan?.tier.files ?? 0,
      tier_size_bytes: scan?.tier.bytes ?? 0,
      max_capacity_bytes: bounded ? this.#capacityBytes : null,
      free_bytes: this.#freeBytes.bytes,
      operations_in_flight: this.#operations.inFlight,
      locked_keys: this.#locks.size,
      errors: this.#operations.errorCounts,
      length_mismatches: this.#counts.lengthMismatches,
      short_reads: this.#counts.shortReads,
      unnameable_keys: this.#counts.unnameableKeys,
      odirect_fallbacks: this.#counts.directFallbacks,
      quarantined: this.#counts.quarantined,
      scan: scan?.status() ?? null,
    };
  }

  #refreshFreeBytes(): void {
    const now = performance.now();
    if (!this.#operations.isOpen || now - this.#freeBytes.askedMs < FREE_BYTES_AGE_MS) return;
    this.#freeBytes.askedMs = now;
    this.#port.statfs(this.location).then(
      ({ bavail, bsize }) => (this.#freeBytes.bytes = bavail * bsize),
      () => (this.#freeBytes.bytes = null),
    );
  }
}

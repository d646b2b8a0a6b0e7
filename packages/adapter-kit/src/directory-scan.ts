import { join } from "node:path";
import { type AdapterLog, messageOf } from "@cache/contracts";
import type { OpenOwners, TemporaryOwner } from "./temporary-owner.ts";
import type { TierAccount } from "./tier-account.ts";

/** A temporary whose writer cannot be asked is dead after this time without a write, in milliseconds. */
const TEMPORARY_AGE_MAX_MS = 3_600_000;
/** The scan looks at its speed this many times a second. */
const SLICES_A_SECOND = 20;

/** A directory entry that is no directory. */
export interface ScannedFile {
  readonly folder: string;
  readonly name: string;
}

/** What a scan needs to know of a file. */
export interface FileFacts {
  readonly size: number;
  readonly mtimeMs: number;
  isFile(): boolean;
}

/** What a {@link DirectoryScan} works with. */
export interface DirectoryScanOptions {
  /** For messages. */
  readonly directory: string;
  /** Everything that may be an object or a temporary, in any order. */
  files(): AsyncIterable<ScannedFile>;
  /** Who writes a temporary of ours; null for any other name. */
  temporaryOwner(name: string): TemporaryOwner | null;
  isObject(name: string): boolean;
  /** Null for a file that is not there any more. */
  lstat(path: string): Promise<FileFacts | null>;
  unlink(path: string): Promise<void>;
  /** The length of the object in a file. */
  lengthOf(found: FileFacts): number;
  /** Of the adapter itself. */
  readonly owner: TemporaryOwner;
  readonly openOwners: OpenOwners;
  readonly log: AdapterLog;
  /** Is told what is there. */
  readonly account: TierAccount;
  /** Most files that are looked at in a second. */
  readonly filesPerSecond: number;
  /** From the end of one scan to the start of the next. */
  readonly intervalMs: number;
}

/**
 * Walks a directory in the background, streamed and rate-limited: removes dead temporaries of ours, never anybody
 * else's, and finds out how many objects and bytes are there, other nodes' too. Keeps no names.
 */
export class DirectoryScan {
  readonly #options: DirectoryScanOptions;
  #running: Promise<void> | null = null;
  #stopped = false;
  #wake: (() => void) | null = null;
  #isScanning = false;
  #temporariesRemoved = 0;
  #foreignSeen = 0;
  #foreignFiles = 0;
  #finishedMs: number | null = null;
  #lastError: string | null = null;

  constructor(options: DirectoryScanOptions) {
    this.#options = options;
  }

  /** Plain JSON for an operator. */
  status(): Record<string, unknown> {
    const { scansCompleted, seen } = this.#options.account;
    return {
      phase: this.#isScanning ? "scanning" : "waiting",
      scans_completed: scansCompleted,
      files_measured: seen.objects,
      bytes_measured: seen.bytes,
      last_finished_ms: this.#finishedMs,
      last_error: this.#lastError,
      foreign_files: this.#foreignFiles,
      temporaries_removed: this.#temporariesRemoved,
    };
  }

  /** Begins; repeats until {@link stop}. Keeps no process alive by its waiting. */
  start(): void {
    this.#options.openOwners.add(this.#options.owner);
    this.#running ??= this.#loop();
  }

  /** Ends the scan; settles when none of its calls is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#wake?.();
    await this.#running;
    this.#options.openOwners.remove(this.#options.owner);
  }

  async #loop(): Promise<void> {
    while (!this.#stopped) {
      this.#isScanning = true;
      try {
        await this.#once();
        this.#lastError = null;
      } catch (error) {
        this.#lastError = messageOf(error);
        this.#options.log.warn("the scan of the cache's directory failed; the next one tries again", {
          directory: this.#options.directory,
          error: this.#lastError,
        });
      }
      this.#isScanning = false;
      await this.#pause(this.#options.intervalMs);
    }
  }

  async #once(): Promise<void> {
    const { account, filesPerSecond } = this.#options;
    const slice = Math.max(1, Math.ceil(filesPerSecond / SLICES_A_SECOND));
    const startedMs = Date.now();
    this.#foreignSeen = 0;
    account.beginScan();
    let looked = 0;
    for await (const file of this.#options.files()) {
      if (this.#stopped) return;
      await this.#look(file);
      if (++looked % slice !== 0) continue;
      const aheadMs = (looked * 1000) / filesPerSecond - (Date.now() - startedMs);
      if (aheadMs > 0) await this.#pause(aheadMs);
    }
    account.endScan();
    this.#foreignFiles = this.#foreignSeen;
    this.#finishedMs = Date.now();
  }

  async #look({ folder, name }: ScannedFile): Promise<void> {
    const owner = this.#options.temporaryOwner(name);
    if (owner !== null) return this.#removeIfDead(join(folder, name), owner);
    if (!this.#options.isObject(name)) {
      this.#foreignSeen++;
      return;
    }
    const found = await this.#options.lstat(join(folder, name));
    if (found?.isFile() === true) this.#options.account.saw(name, this.#options.lengthOf(found));
  }

  async #removeIfDead(path: string, owner: TemporaryOwner): Promise<void> {
    const { openOwners, log } = this.#options;
    if (openOwners.has(owner)) return;
    try {
      if (!openOwners.isGone(owner, this.#options.owner)) {
        const found = await this.#options.lstat(path);
        if (found === null || Date.now() - found.mtimeMs <= TEMPORARY_AGE_MAX_MS) return;
      }
      await this.#options.unlink(path);
      this.#temporariesRemoved++;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      log.warn("cannot remove a dead temporary", { path, error: messageOf(error) });
    }
  }

  #pause(milliseconds: number): Promise<void> {
    if (this.#stopped) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds).unref();
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

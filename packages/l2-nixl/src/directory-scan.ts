import { createHash } from "node:crypto";
import { promises as fs, type Stats } from "node:fs";
import { join } from "node:path";
import type { TierAccount } from "@cache/adapter-kit";
import { type AdapterLog, messageOf } from "@cache/contracts";
import { errnoOf, files } from "./files.ts";
import { decodeFileName, parseTemporaryName, SHARD, type TemporaryOwner } from "./names.ts";

/** A temporary whose writer cannot be asked is dead after this time without a write, in milliseconds. */
const TEMPORARY_AGE_MAX_MS = 3_600_000;
/** Most files that are measured in a second. */
const FILES_PER_SECOND = 5000;
const SLICE = 250;

/** Adapters that are open in this process, whichever copy of the package they came from. */
const OPEN_TOKENS = Symbol.for("@cache/l2-nixl/open-tokens@1");
type GlobalWithTokens = { [OPEN_TOKENS]?: Set<string> };

function openTokens(): Set<string> {
  const holder = globalThis as GlobalWithTokens;
  holder[OPEN_TOKENS] ??= new Set();
  return holder[OPEN_TOKENS];
}

/**
 * Eight hex digits that are equal for processes whose ids can be compared: same boot, same pid namespace. Random
 * where the kernel tells neither.
 */
export async function readHostToken(): Promise<string> {
  const parts = await Promise.all([
    fs.readFile("/proc/sys/kernel/random/boot_id", "utf8"),
    fs.readlink("/proc/self/ns/pid"),
  ]).catch(() => [String(Math.random()), String(process.hrtime.bigint())]);
  return createHash("sha256").update(parts.join("\0")).digest("hex").slice(0, 8);
}

/** What a {@link DirectoryScan} works with. */
export interface ScanOptions {
  readonly directory: string;
  readonly isSharded: boolean;
  /** Of the adapter itself. */
  readonly owner: TemporaryOwner;
  readonly log: AdapterLog;
  /** Is told what is there. */
  readonly account: TierAccount;
  /** The length of the object in a file of that many bytes. */
  readonly lengthOf: (found: Stats) => number;
  readonly intervalMs: number;
}

function isDead(writer: TemporaryOwner, here: TemporaryOwner): boolean {
  if (writer.hostToken !== here.hostToken) return false;
  if (writer.pid === process.pid) return true; // not an open adapter of ours: an earlier process with this id
  try {
    process.kill(writer.pid, 0);
    return false;
  } catch (error) {
    return errnoOf(error) === "ESRCH";
  }
}

/**
 * Walks the directory in the background, streamed and rate-limited: removes dead temporaries of ours, never anybody
 * else's, and finds out how many objects and bytes are there, other nodes' too. Keeps no names.
 */
export class DirectoryScan {
  readonly #options: ScanOptions;
  #running: Promise<void> | null = null;
  #stopped = false;
  #wake: (() => void) | null = null;
  #temporariesRemoved = 0;
  #foreignFiles = 0;
  #lastError: string | null = null;
  #foreignSeen = 0;

  constructor(options: ScanOptions) {
    this.#options = options;
  }

  /** Plain JSON for an operator. */
  status(): Record<string, unknown> {
    const { scansCompleted, seen } = this.#options.account;
    return {
      scans_completed: scansCompleted,
      files_measured: seen.objects,
      foreign_files: this.#foreignFiles,
      temporaries_removed: this.#temporariesRemoved,
      last_error: this.#lastError,
    };
  }

  /** The directories that hold files of objects: the one, or its shards. */
  async *#folders(): AsyncGenerator<string> {
    const { directory, isSharded } = this.#options;
    yield directory;
    if (!isSharded) return;
    for await (const first of await fs.opendir(directory)) {
      if (!first.isDirectory() || !SHARD.test(first.name)) continue;
      const shard = join(directory, first.name);
      yield shard; // of a chunk hash of one byte
      for await (const second of await fs.opendir(shard)) {
        if (second.isDirectory() && SHARD.test(second.name)) yield join(shard, second.name);
      }
    }
  }

  /** The names of all files that may be objects. */
  async *names(): AsyncGenerator<string> {
    for await (const folder of this.#folders()) {
      for await (const entry of await fs.opendir(folder, { bufferSize: 256 })) {
        if (!entry.isDirectory() && decodeFileName(entry.name) !== null) yield entry.name;
      }
    }
  }

  /** Begins; repeats until {@link stop}. Keeps no process alive by its waiting. */
  start(): void {
    openTokens().add(this.#options.owner.openToken);
    this.#running ??= this.#loop();
  }

  /** Ends the scan; settles when none of its calls is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#wake?.();
    await this.#running;
    openTokens().delete(this.#options.owner.openToken);
  }

  async #loop(): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#once();
        this.#lastError = null;
      } catch (error) {
        this.#lastError = messageOf(error);
        const fields = { directory: this.#options.directory, error: this.#lastError };
        this.#options.log.warn("the scan of the cache's directory failed; the next one tries again", fields);
      }
      await this.#pause(this.#options.intervalMs);
    }
  }

  async #once(): Promise<void> {
    const { account } = this.#options;
    this.#foreignSeen = 0;
    account.beginScan();
    const startedMs = Date.now();
    let seen = 0;
    for await (const folder of this.#folders()) {
      for await (const entry of await fs.opendir(folder, { bufferSize: 256 })) {
        if (this.#stopped) return;
        if (entry.isDirectory()) continue;
        await this.#measure(join(folder, entry.name), entry.name);
        if (++seen % SLICE !== 0) continue;
        const aheadMs = (seen * 1000) / FILES_PER_SECOND - (Date.now() - startedMs);
        if (aheadMs > 0) await this.#pause(aheadMs);
      }
    }
    account.endScan();
    this.#foreignFiles = this.#foreignSeen;
  }

  async #measure(path: string, name: string): Promise<void> {
    const writer = parseTemporaryName(name);
    if (writer !== null) return this.#removeIfDead(path, writer);
    if (decodeFileName(name) === null) {
      this.#foreignSeen++;
      return;
    }
    const found = await files.lstat(path).catch((error: unknown) => {
      if (errnoOf(error) === "ENOENT") return null;
      throw error;
    });
    if (found?.isFile() === true) this.#options.account.saw(name, this.#options.lengthOf(found));
  }

  async #removeIfDead(path: string, writer: TemporaryOwner): Promise<void> {
    if (openTokens().has(writer.openToken)) return;
    try {
      const isOld = async (): Promise<boolean> =>
        Date.now() - (await files.lstat(path)).mtimeMs > TEMPORARY_AGE_MAX_MS;
      if (!isDead(writer, this.#options.owner) && !(await isOld())) return;
      await files.unlink(path);
      this.#temporariesRemoved++;
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return;
      this.#options.log.warn("cannot remove a dead temporary", { path, error: messageOf(error) });
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

import { join } from "node:path";
import type { TierAccount } from "@cache/adapter-kit";
import { type AdapterLog, messageOf } from "@cache/contracts";
import { errnoOf } from "./file-job.ts";
import { type FsPort, lookAt } from "./fs-port.ts";
import { decodeFileName, parseTemporaryName, type TemporaryOwner } from "./names.ts";

/** A temporary whose writer cannot be asked is dead after this time without a write, in milliseconds. */
const TEMPORARY_AGE_MAX_MS = 3_600_000;

/** Adapters that are open in this process, whichever copy of the package they came from. */
const OPEN_TOKENS = Symbol.for("@cache/l2-fs/open-tokens@1");
type GlobalWithTokens = { [OPEN_TOKENS]?: Set<string> };

/** Tokens of the adapters that are open in this process. */
export function openTokens(): Set<string> {
  const holder = globalThis as GlobalWithTokens;
  holder[OPEN_TOKENS] ??= new Set();
  return holder[OPEN_TOKENS];
}

/** What a {@link DirectoryScan} works with. */
export interface ScanOptions {
  readonly port: FsPort;
  readonly basePath: string;
  readonly temporaryPath: string;
  readonly hostToken: string;
  readonly log: AdapterLog;
  /** Is told what is there. */
  readonly account: TierAccount;
  readonly filesPerSecond: number;
  readonly intervalMs: number;
}

function isDeadProcess(owner: TemporaryOwner, hostToken: string): boolean {
  if (owner.hostToken !== hostToken) return false;
  if (owner.pid === process.pid) return true; // not an open adapter of ours: an earlier process with this id
  try {
    process.kill(owner.pid, 0);
    return false;
  } catch (error) {
    return errnoOf(error) === "ESRCH";
  }
}

/**
 * Walks the directory in the background, streamed and rate-limited: removes dead temporaries of ours, never
 * anybody else's, and finds out how many objects and bytes are there, other nodes' too. Keeps no names.
 */
export class DirectoryScan {
  readonly #options: ScanOptions;
  #running: Promise<void> | null = null;
  #stopped = false;
  #wake: (() => void) | null = null;
  #phase: "waiting" | "removing temporaries" | "measuring" = "waiting";
  #temporariesRemoved = 0;
  #foreignFiles = 0;
  #finishedMs: number | null = null;
  #lastError: string | null = null;
  #foreignSeen = 0;

  constructor(options: ScanOptions) {
    this.#options = options;
  }

  /** Plain JSON for an operator. */
  status(): Record<string, unknown> {
    const { scansCompleted, seen } = this.#options.account;
    return {
      phase: this.#phase,
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
    this.#running ??= this.#loop();
  }

  /** Ends the scan; settles when none of its calls is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#wake?.();
    await this.#running;
  }

  async #loop(): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#once();
        this.#lastError = null;
      } catch (error) {
        this.#lastError = messageOf(error);
        this.#options.log.warn("the scan of the cache's directory failed; the next one tries again", {
          base_path: this.#options.basePath,
          error: this.#lastError,
        });
      }
      this.#phase = "waiting";
      await this.#pause(this.#options.intervalMs);
    }
  }

  async #once(): Promise<void> {
    const { basePath, temporaryPath, account } = this.#options;
    this.#phase = "removing temporaries";
    for (const path of new Set([basePath, temporaryPath])) await this.#removeTemporaries(path);
    this.#phase = "measuring";
    this.#foreignSeen = 0;
    account.beginScan();
    await this.#measure();
    if (this.#stopped) return;
    account.endScan();
    this.#foreignFiles = this.#foreignSeen;
    this.#finishedMs = Date.now();
  }

  async #removeTemporaries(path: string): Promise<void> {
    const { port, hostToken, log } = this.#options;
    for await (const entry of await port.opendir(path)) {
      if (this.#stopped) return;
      const owner = parseTemporaryName(entry.name);
      if (owner === null || openTokens().has(owner.openToken)) continue;
      const temporary = join(path, entry.name);
      try {
        const dead =
          isDeadProcess(owner, hostToken) ||
          Date.now() - ((await port.lstat(temporary))?.mtimeMs ?? Number.POSITIVE_INFINITY) >
            TEMPORARY_AGE_MAX_MS;
        if (!dead) continue;
        await port.unlink(temporary);
        this.#temporariesRemoved++;
      } catch (error) {
        if (errnoOf(error) === "ENOENT") continue;
        log.warn("cannot remove a dead temporary", { path: temporary, error: messageOf(error) });
      }
    }
  }

  async #measure(): Promise<void> {
    const { port, basePath, filesPerSecond, account } = this.#options;
    const startedMs = Date.now();
    const slice = Math.max(1, Math.ceil(filesPerSecond / 20));
    let measured = 0;
    for await (const entry of await port.opendir(basePath)) {
      if (this.#stopped) return;
      if (entry.isDirectory() || parseTemporaryName(entry.name) !== null) continue;
      if (decodeFileName(entry.name) === null) {
        this.#foreignSeen++;
        continue;
      }
      const path = join(basePath, entry.name);
      const found = await lookAt(port.lstat(path), path);
      if (found?.isFile() === true) account.saw(entry.name, found.size);
      if (++measured % slice !== 0) continue;
      const aheadMs = (measured * 1000) / filesPerSecond - (Date.now() - startedMs);
      if (aheadMs > 0) await this.#pause(aheadMs);
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

import { abortedError, type DirectoryScan, KeyListing, TierAccount } from "@cache/adapter-kit";
import {
  type AdapterLog,
  type AdapterUsage,
  type CacheError,
  encodeObjectKey,
  type KeyListPage,
  type ObjectKey,
  type PageRequest,
} from "@cache/contracts";
import type { NixlAgent, NixlFailure } from "./agent.ts";
import { directoryScan, objectNames } from "./directory-scan.ts";
import { backendError } from "./errors.ts";
import { closeQuietly, errnoOf, files, forEachFile, FreeBytes } from "./files.ts";
import type { Blocks, L1Region } from "./memory.ts";
import { type MovingObject, moveObjects } from "./move-objects.ts";
import { decodeFileName, encodeFileName, encodeModelName } from "./names.ts";
import { ObjectFiles, type ObjectFilesOptions, type OpenFile } from "./object-files.ts";
import type { Found, Loaded, NamedObject, ObjectStore } from "./store.ts";
import type { TransferOutcome, Transfers } from "./transfers.ts";

/** What a {@link DynamicStore} works with. */
export interface DynamicStoreOptions extends ObjectFilesOptions {
  readonly blockBytes: number;
  readonly capacityBytes: number;
  readonly scanIntervalMs: number;
  readonly agent: NixlAgent;
  readonly l1: L1Region;
  readonly blocks: Blocks | null;
  readonly transfers: Transfers;
  readonly log: AdapterLog;
}

/** Objects whose files are open at a time in one call. */
const FILES_AT_A_TIME = 64;
/** One file an object, as LMCache's `nixl_store_dynamic` writes them. */
export class DynamicStore implements ObjectStore {
  readonly #options: DynamicStoreOptions;
  readonly #files: ObjectFiles;
  readonly #account: TierAccount;
  readonly #scan: DirectoryScan;
  readonly #listing: KeyListing;
  readonly #free: FreeBytes;

  constructor(options: DynamicStoreOptions) {
    this.#options = options;
    const { directory, isSharded, owner, log, scanIntervalMs } = options;
    this.#files = new ObjectFiles(options);
    this.#account = new TierAccount({ location: directory, limitBytes: options.capacityBytes });
    this.#scan = directoryScan(isSharded, {
      directory,
      owner,
      log,
      account: this.#account,
      lengthOf: (found) => this.#files.lengthOf(found.size),
      intervalMs: scanIntervalMs,
    });
    this.#free = new FreeBytes(directory);
    this.#listing = new KeyListing({
      names: (checkStopped) => objectNames(directory, isSharded, checkStopped),
      decode: decodeFileName,
      modelPrefix: (modelName) => `${encodeModelName(modelName)}_`,
      entry: async (name, key) => {
        const found = await this.#files.stat(this.#files.path(name, key));
        if (found === null) return null;
        const size_bytes = this.#files.lengthOf(found.size);
        return { key: encodeObjectKey(key), size_bytes, modified_ms: Math.floor(found.mtimeMs) };
      },
    });
  }

  /** Makes the directory and begins to count what is in it. */
  async open(): Promise<void> {
    await this.#files.open();
    this.#scan.start();
  }

  get problem(): null {
    return null;
  }

  nameOf(key: ObjectKey): string {
    return encodeFileName(key);
  }

  async look(
    requests: readonly { readonly name: string; readonly byteLength: number }[],
    ended: AbortSignal,
  ): Promise<(Found | CacheError)[]> {
    const aborted = abortedError();
    const answers: (Found | CacheError)[] = requests.map(() => aborted);
    await forEachFile(requests.length, async (i) => {
      const { name, byteLength } = requests[i] as { name: string; byteLength: number };
      if (!ended.aborted) answers[i] = await this.#look(name, byteLength);
    });
    return answers;
  }

  async #look(name: string, byteLength: number): Promise<Found | CacheError> {
    const key = decodeFileName(name);
    if (key === null) return "absent";
    try {
      return await this.#files.look(name, key, byteLength);
    } catch (error) {
      return this.#files.explain(error, "look at an object in");
    }
  }

  async store(items: readonly NamedObject[], ended: AbortSignal): Promise<(number | CacheError)[]> {
    const aborted = abortedError();
    const answers: (number | CacheError)[] = items.map(() => aborted);
    const first = new Map<string, number>();
    const chosen = items.flatMap(({ name }, i) => {
      if (first.has(name)) return [];
      first.set(name, i);
      return [i];
    });
    for (let at = 0; at < chosen.length && !ended.aborted; at += FILES_AT_A_TIME) {
      await this.#storeSome(items, chosen.slice(at, at + FILES_AT_A_TIME), ended, answers);
    }
    // A second one of the same name in the batch shares the fate of the first.
    for (const [i, { name }] of items.entries()) {
      const before = first.get(name) ?? i;
      if (before !== i)
        answers[i] = typeof answers[before] === "number" ? 0 : (answers[before] as CacheError);
    }
    return answers;
  }

  async #storeSome(
    items: readonly NamedObject[],
    chosen: readonly number[],
    ended: AbortSignal,
    answers: (number | CacheError)[],
  ): Promise<void> {
    const open: OpenFile[] = [];
    const reserved: string[] = [];
    try {
      await forEachFile(chosen.length, async (n) => {
        const i = chosen[n] as number;
        const item = items[i] as NamedObject;
        const { byteLength } = item.object.bytes;
        try {
          if (await this.#files.isThere(item)) {
            answers[i] = 0;
            return;
          }
          this.#account.reserve(item.name, byteLength);
          reserved.push(item.name);
          open.push(await this.#files.create(i, item.key));
        } catch (error) {
          answers[i] = this.#files.explain(error, "write an object to");
        }
      });
      await this.#move(
        "write",
        items,
        open,
        ended,
        async (file) => {
          const item = items[file.i] as NamedObject;
          const { name, key, object } = item;
          await this.#files.publish(file, item);
          this.#account.stored(name, key.cacheSalt);
          answers[file.i] = object.bytes.byteLength;
        },
        answers,
      );
    } finally {
      for (const name of reserved) this.#account.notStored(name); // nothing for those that were
      const failed = open.filter(({ i }) => typeof answers[i] !== "number");
      await forEachFile(open.length, async (n) => closeQuietly((open[n] as OpenFile).fd));
      await forEachFile(failed.length, async (n) => {
        await files.unlink((failed[n] as OpenFile).path).catch(() => undefined);
      });
    }
  }

  async load(items: readonly NamedObject[], ended: AbortSignal): Promise<(Loaded | CacheError)[]> {
    const aborted = abortedError();
    const answers: (Loaded | CacheError)[] = items.map(() => aborted);
    for (let at = 0; at < items.length && !ended.aborted; at += FILES_AT_A_TIME) {
      const count = Math.min(FILES_AT_A_TIME, items.length - at);
      await this.#loadSome(items, at, count, ended, answers);
    }
    return answers;
  }

  async #loadSome(
    items: readonly NamedObject[],
    at: number,
    count: number,
    ended: AbortSignal,
    answers: (Loaded | CacheError)[],
  ): Promise<void> {
    const open: OpenFile[] = [];
    try {
      await forEachFile(count, async (n) => {
        const i = at + n;
        try {
          const opened = await this.#files.openObject(i, items[i] as NamedObject);
          if (typeof opened === "string") answers[i] = opened;
          else open.push(opened);
        } catch (error) {
          answers[i] = this.#files.explain(error, "read an object in");
        }
      });
      await this.#move("read", items, open, ended, ({ i }) => void (answers[i] = "whole"), answers);
    } finally {
      await forEachFile(open.length, async (n) => closeQuietly((open[n] as OpenFile).fd));
    }
  }

  /** Registers files, moves their objects, and takes them out again. */
  async #move(
    operation: "read" | "write",
    items: readonly NamedObject[],
    open: readonly OpenFile[],
    ended: AbortSignal,
    onDone: (file: OpenFile) => Promise<void> | void,
    answers: (number | Loaded | CacheError)[],
  ): Promise<void> {
    if (open.length === 0) return;
    const { agent, l1 } = this.#options;
    const objects = open.map(({ i, fd }): MovingObject => {
      const { object } = items[i] as NamedObject;
      const byteLength = this.#files.padded(object.bytes.byteLength);
      const ranges = [{ device: fd, offset: 0, byteLength }];
      return { bytes: object.bytes, address: l1.address(object), ranges };
    });
    const registration = await agent
      .register(
        "file",
        open.map(({ fd }, n) => ({
          address: 0,
          byteLength: objects[n]?.ranges[0]?.byteLength ?? 0,
          device: fd,
        })),
      )
      .catch((error: unknown) => {
        throw backendError(error, "register files of", this.#options.directory);
      });
    let outcomes: TransferOutcome[];
    try {
      outcomes = await moveObjects(operation, objects, this.#options, ended);
    } finally {
      await registration.close();
    }
    await forEachFile(open.length, async (n) => {
      const file = open[n] as OpenFile;
      try {
        const outcome = outcomes[n] ?? "not begun"; // then its answer is there: ended early
        if (outcome === "done") await onDone(file);
        else if (outcome !== "not begun") answers[file.i] = this.#answerOf(outcome, operation);
      } catch (error) {
        answers[file.i] = this.#files.explain(error, `${operation} an object in`);
      }
    });
  }

  #answerOf(outcome: "short" | NixlFailure, operation: "read" | "write"): Loaded | CacheError {
    if (outcome === "short") return "short";
    const free = this.#free.get();
    const action = `${operation} an object in`;
    if (operation === "read" || free === null || free >= this.#options.alignBytes) {
      return backendError(outcome, action, this.#options.directory);
    }
    const full = Object.assign(new Error(outcome.message), { code: "ENOSPC" });
    return backendError(full, action, this.#options.directory);
  }

  async remove(names: readonly string[], ended: AbortSignal): Promise<(true | CacheError)[]> {
    const aborted = abortedError();
    const answers: (true | CacheError)[] = names.map(() => aborted);
    await forEachFile(names.length, async (i) => {
      if (!ended.aborted) answers[i] = await this.#remove(names[i] as string);
    });
    return answers;
  }

  async #remove(name: string): Promise<true | CacheError> {
    const key = decodeFileName(name);
    if (key === null) return true;
    const path = this.#files.path(name, key);
    let removedBytes: number | null = null;
    try {
      const found = await this.#files.stat(path);
      if (found !== null) {
        await files.unlink(path);
        removedBytes = this.#files.lengthOf(found.size);
      }
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") return this.#files.explain(error, "delete an object in");
    }
    this.#account.removed(name, key.cacheSalt, removedBytes);
    return true;
  }

  async list(page: PageRequest, checkStopped: () => void): Promise<KeyListPage> {
    try {
      return await this.#listing.page(page, checkStopped);
    } catch (error) {
      throw this.#files.explain(error, "list");
    }
  }

  usage(): AdapterUsage {
    return this.#account.usage();
  }

  status(): Record<string, unknown> {
    return {
      ...this.#account.status(),
      free_bytes: this.#free.get(),
      scan: this.#scan.status(),
    };
  }

  async close(): Promise<void> {
    await this.#scan.stop();
  }
}

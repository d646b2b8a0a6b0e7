import { join } from "node:path";
import {
  CacheError,
  encodeObjectKey,
  type KeyListEntry,
  type KeyListPage,
  type PageRequest,
} from "@cache/contracts";
import { type FsPort, lookAt } from "./fs-port.ts";
import { decodeFileName, encodeModelName, OBJECT_SUFFIX } from "./names.ts";

/** Names kept of one pass over the directory: the smallest after the cursor, about 5 MB. */
const WINDOW_NAMES = 32_768;
/** Names sorted at a time: the longest pause of a pass. */
const SORT_NAMES = 2048;

interface Window {
  readonly prefix: string;
  /** The cursor that this window continues. */
  after: string;
  names: string[];
  /** True if no name follows the last one. */
  readonly complete: boolean;
}

function mergeSorted(left: readonly string[], right: readonly string[], most: number): string[] {
  const merged: string[] = [];
  for (let l = 0, r = 0; merged.length < most && (l < left.length || r < right.length); ) {
    const a = left[l];
    const b = right[r];
    if (b === undefined || (a !== undefined && a < b)) {
      merged.push(a ?? "");
      l++;
    } else {
      merged.push(b);
      r++;
    }
  }
  return merged;
}

function decodeToken(token: string): string {
  const text = Buffer.from(token, "base64url").toString();
  if (!text.startsWith("1:") || Buffer.from(text).toString("base64url") !== token) {
    throw new CacheError(
      "INVALID_ARGUMENT",
      `page token ${JSON.stringify(token.slice(0, 40))} is not one of this adapter's; pass nextPageToken back as it was`,
    );
  }
  return text.slice(2);
}

/**
 * Lists objects in the order of their file names. A page token is the last name of its page, so a listing goes on
 * after a restart, and what is there from its first page to its last is listed exactly once; what comes or goes
 * meanwhile may be listed or not.
 *
 * A directory has no order, so one pass over it serves the next 32,768 names.
 */
export class KeyListing {
  readonly #port: FsPort;
  readonly #basePath: string;
  #window: Window | null = null;

  constructor(port: FsPort, basePath: string) {
    this.#port = port;
    this.#basePath = basePath;
  }

  async #pass(prefix: string, after: string, checkStopped: () => void): Promise<Window> {
    let names: string[] = [];
    let fresh: string[] = [];
    let complete = true;
    const merge = (): void => {
      complete &&= names.length + fresh.length <= WINDOW_NAMES;
      names = mergeSorted(names, fresh.sort(), WINDOW_NAMES);
      fresh = [];
    };
    for await (const entry of await this.#port.opendir(this.#basePath)) {
      checkStopped();
      const { name } = entry;
      if (name <= after || !name.endsWith(OBJECT_SUFFIX) || !name.startsWith(prefix)) continue;
      if (entry.isDirectory()) continue;
      if (names.length === WINDOW_NAMES && name > (names.at(-1) ?? "")) {
        complete = false;
        continue;
      }
      fresh.push(name);
      if (fresh.length === SORT_NAMES) merge();
    }
    merge();
    return { prefix, after, names, complete };
  }

  async #entry(name: string): Promise<KeyListEntry | null> {
    const key = decodeFileName(name);
    if (key === null) return null;
    const path = join(this.#basePath, name);
    const found = await lookAt(this.#port.lstat(path), path); // null: removed since the pass
    if (found === null || !found.isFile()) return null;
    return { key: encodeObjectKey(key), size_bytes: found.size, modified_ms: Math.floor(found.mtimeMs) };
  }

  /**
   * One page; it may have fewer entries than asked for and still be followed by another.
   *
   * @param checkStopped throws when the listing is to end early.
   * @throws CacheError `INVALID_ARGUMENT` for a page size or token out of bounds, `AMBIGUOUS_NAME` for a model name
   *   that has no file names, or the error of a failed call, as Node gives it.
   */
  async page(request: PageRequest, checkStopped: () => void): Promise<KeyListPage> {
    const { modelName, pageSize, pageToken } = request;
    if (!Number.isInteger(pageSize) || pageSize < 1 || pageSize > 5000) {
      throw new CacheError("INVALID_ARGUMENT", `page size ${pageSize} is not a whole number in 1..5000`);
    }
    const prefix = modelName === undefined ? "" : `${encodeModelName(modelName)}@`;
    const after = pageToken === undefined ? "" : decodeToken(pageToken);
    const kept = this.#window;
    this.#window = null;
    const continues = kept !== null && kept.prefix === prefix && kept.after === after; // a first page never does
    const window = continues ? kept : await this.#pass(prefix, after, checkStopped);

    const names = window.names.splice(0, pageSize);
    const last = names.at(-1);
    const entries: KeyListEntry[] = [];
    for (const name of names) {
      checkStopped();
      const entry = await this.#entry(name);
      if (entry !== null) entries.push(entry);
    }
    if (last === undefined || (window.names.length === 0 && window.complete))
      return { entries, nextPageToken: null };
    window.after = last;
    if (window.names.length > 0) this.#window = window;
    return { entries, nextPageToken: Buffer.from(`1:${last}`).toString("base64url") };
  }
}

import {
  CacheError,
  type KeyListEntry,
  type KeyListPage,
  type ObjectKey,
  type PageRequest,
} from "@cache/contracts";

/** Names kept of one pass over all: the smallest after the cursor. */
const WINDOW_NAMES = 32_768;
/** Names sorted at a time: the longest pause of a pass. */
const SORT_NAMES = 2048;

/** What a {@link KeyListing} lists. */
export interface ListingSource {
  /** All names, in any order. Calls `checkStopped` where it passes over much else: it throws to end the listing. */
  names(checkStopped: () => void): Iterable<string> | AsyncIterable<string>;
  /** The key of a name; null for a foreign one. */
  decode(name: string): ObjectKey | null;
  /** What the names of a model's objects begin with. */
  modelPrefix(modelName: string): string;
  /** What is listed for a name; null if it is gone. */
  entry(name: string, key: ObjectKey): Promise<KeyListEntry | null>;
}

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
 * Lists objects in the order of their names. A page token is the last name of its page, so a listing goes on after a
 * restart, and what is there from its first page to its last is listed exactly once.
 *
 * Names come in no order, so one pass over all of them serves the next 32,768.
 */
export class KeyListing {
  readonly #source: ListingSource;
  #window: Window | null = null;

  constructor(source: ListingSource) {
    this.#source = source;
  }

  async #pass(prefix: string, after: string, checkStopped: () => void): Promise<Window> {
    let names: string[] = [];
    let fresh: string[] = [];
    let complete = true;
    let seen = 0;
    const merge = (): void => {
      complete &&= names.length + fresh.length <= WINDOW_NAMES;
      names = mergeSorted(names, fresh.sort(), WINDOW_NAMES);
      fresh = [];
    };
    for await (const name of this.#source.names(checkStopped)) {
      checkStopped();
      if (++seen % SORT_NAMES === 0) await new Promise((resolve) => setImmediate(resolve));
      if (name <= after || !name.startsWith(prefix)) continue;
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

  /**
   * One page; it may have fewer entries than asked for and still be followed by another.
   *
   * @param checkStopped throws when the listing is to end early.
   * @throws CacheError `INVALID_ARGUMENT` for a page size or token out of bounds, or what the source throws.
   */
  async page(request: PageRequest, checkStopped: () => void): Promise<KeyListPage> {
    const { modelName, pageSize, pageToken } = request;
    if (!Number.isInteger(pageSize) || pageSize < 1 || pageSize > 5000) {
      throw new CacheError("INVALID_ARGUMENT", `page size ${pageSize} is not a whole number in 1..5000`);
    }
    const prefix = modelName === undefined ? "" : this.#source.modelPrefix(modelName);
    const after = pageToken === undefined ? "" : decodeToken(pageToken);
    const kept = this.#window;
    this.#window = null;
    const continues = kept !== null && kept.prefix === prefix && kept.after === after && after !== "";
    const window = continues ? kept : await this.#pass(prefix, after, checkStopped);

    const names = window.names.splice(0, pageSize);
    const last = names.at(-1);
    const entries: KeyListEntry[] = [];
    for (const name of names) {
      checkStopped();
      const key = this.#source.decode(name);
      if (key === null || (modelName !== undefined && key.modelName !== modelName)) continue;
      const entry = await this.#source.entry(name, key);
      if (entry !== null) entries.push(entry);
    }
    if (last === undefined || (window.names.length === 0 && window.complete)) {
      return { entries, nextPageToken: null };
    }
    window.after = last;
    if (window.names.length > 0) this.#window = window;
    return { entries, nextPageToken: Buffer.from(`1:${last}`).toString("base64url") };
  }
}

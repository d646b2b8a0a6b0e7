import { randomBytes } from "node:crypto";
import { abortedError } from "@cache/adapter-kit";
import {
  CacheError,
  encodeObjectKey,
  isCacheError,
  type KeyListEntry,
  type KeyListPage,
  type PageRequest,
} from "@cache/contracts";
import type { Item } from "./object-calls.ts";
import type { Settings } from "./options.ts";
import type { ListedObject, SimpleStore } from "./store.ts";
import type { StoreErrors } from "./store-errors.ts";

/** Listings under way at a time: beyond it the oldest ends. */
const LISTINGS_MAX = 8;
/** Foreign names, or those of other models, that one page looks at before it is answered short. */
const SKIPPED_MAX = 10_000;
const PAGE_SIZE_MAX = 5000;

interface Listing {
  readonly id: string;
  readonly modelName: string | undefined;
  readonly iterator: AsyncIterator<ListedObject>;
  readonly controller: AbortController;
  /** Pages given. */
  pages: number;
  busy: boolean;
}

/** The lengths of one object, as `ObjectCalls.lengths` answers them. */
export type LengthLookup = (
  item: Item,
  signal: AbortSignal,
) => Promise<readonly (number | null | CacheError)[]>;

/**
 * Pages over the store's own iteration: one pass, whatever its order. A token names an iteration that stays open
 * between pages, so it is good once, in this process, and until eight newer listings have begun.
 */
export class KeyListing {
  readonly #store: SimpleStore;
  readonly #settings: Settings;
  readonly #errors: StoreErrors;
  readonly #lengthOf: LengthLookup;
  readonly #listings = new Map<string, Listing>();

  constructor(store: SimpleStore, settings: Settings, errors: StoreErrors, lengthOf: LengthLookup) {
    this.#store = store;
    this.#settings = settings;
    this.#errors = errors;
    this.#lengthOf = lengthOf;
  }

  /** Ends all listings. */
  close(): void {
    for (const listing of this.#listings.values()) this.#end(listing);
  }

  #end(listing: Listing): void {
    this.#listings.delete(listing.id);
    listing.controller.abort();
    void (async () => listing.iterator.return?.())().catch(() => undefined);
  }

  #begin(modelName: string | undefined): Listing {
    for (const [, oldest] of this.#listings) {
      if (this.#listings.size < LISTINGS_MAX) break;
      this.#end(oldest);
    }
    const controller = new AbortController();
    const iterable = this.#store.list?.(this.#settings.prefix, controller.signal);
    if (iterable === undefined) throw this.#errors.misbehaved("list", "nothing");
    const iterator = iterable[Symbol.asyncIterator]();
    const id = randomBytes(8).toString("hex");
    const listing: Listing = { id, modelName, iterator, controller, pages: 0, busy: false };
    this.#listings.set(id, listing);
    return listing;
  }

  #resume(pageToken: string, modelName: string | undefined): Listing {
    const [id, page] = pageToken.split(":", 2);
    const listing = this.#listings.get(id ?? "");
    if (
      listing !== undefined &&
      String(listing.pages) === page &&
      listing.modelName === modelName &&
      !listing.busy
    ) {
      return listing;
    }
    throw new CacheError(
      "INVALID_ARGUMENT",
      `page token ${JSON.stringify(pageToken.slice(0, 40))} leads to no listing that is open; start again without one`,
    );
  }

  /**
   * One page; it may have fewer entries than asked for and still be followed by another. What is there from the first
   * page to the last is listed as often as the store's `list` gives it.
   */
  async page({ pageSize, pageToken, modelName }: PageRequest, signal: AbortSignal): Promise<KeyListPage> {
    if (!Number.isInteger(pageSize) || pageSize < 1 || pageSize > PAGE_SIZE_MAX) {
      throw new CacheError("INVALID_ARGUMENT", `page size ${pageSize} is not in 1..${PAGE_SIZE_MAX}`);
    }
    const listing = pageToken === undefined ? this.#begin(modelName) : this.#resume(pageToken, modelName);
    listing.busy = true;
    const onAbort = (): void => this.#end(listing);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      const page = await this.#fill(listing, pageSize, signal);
      if (page.nextPageToken === null) this.#listings.delete(listing.id);
      return page;
    } catch (error) {
      this.#end(listing);
      throw signal.aborted ? abortedError() : error;
    } finally {
      listing.busy = false;
      signal.removeEventListener("abort", onAbort);
    }
  }

  async #fill(listing: Listing, pageSize: number, signal: AbortSignal): Promise<KeyListPage> {
    const entries: KeyListEntry[] = [];
    for (let skipped = 0; entries.length < pageSize && skipped < SKIPPED_MAX; ) {
      const { done, value } = await this.#next(listing, signal);
      if (done === true) return { entries, nextPageToken: null };
      const entry = await this.#entry(value, listing.modelName, signal);
      if (entry === null) skipped++;
      else entries.push(entry);
    }
    listing.pages++;
    return { entries, nextPageToken: `${listing.id}:${listing.pages}` };
  }

  /** @throws CacheError when the store takes too long, or the signal fires; no buffer is concerned. */
  async #next(listing: Listing, signal: AbortSignal): Promise<IteratorResult<ListedObject>> {
    const { callTimeoutMs } = this.#settings;
    let timer: NodeJS.Timeout | undefined;
    let onAbort = (): void => undefined;
    const ended = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(this.#errors.timedOut("list", callTimeoutMs)), callTimeoutMs);
      onAbort = () => reject(abortedError());
      if (signal.aborted) onAbort();
      else signal.addEventListener("abort", onAbort, { once: true });
    });
    try {
      return await Promise.race([listing.iterator.next(), ended]);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    }
  }

  async #entry(
    { name, byteLength, modifiedMs }: ListedObject,
    modelName: string | undefined,
    signal: AbortSignal,
  ): Promise<KeyListEntry | null> {
    const { prefix, names } = this.#settings;
    const key = name.startsWith(prefix) ? names.decode(name.slice(prefix.length)) : null;
    if (key === null || (modelName !== undefined && key.modelName !== modelName)) return null;
    let length: number | null | CacheError | undefined = byteLength;
    if (length === undefined) {
      const item = { name, cacheSalt: key.cacheSalt, bytes: new Uint8Array(0) };
      [length] = await this.#lengthOf(item, signal);
    }
    if (isCacheError(length)) throw length;
    if (length === null || length === undefined) return null; // removed meanwhile
    const entry = { key: encodeObjectKey(key), size_bytes: length };
    return modifiedMs === undefined ? entry : { ...entry, modified_ms: Math.floor(modifiedMs) };
  }
}

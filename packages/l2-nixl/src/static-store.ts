import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { abortedError, KeyListing } from "@cache/adapter-kit";
import {
  type AdapterLog,
  type AdapterUsage,
  CacheError,
  encodeObjectKey,
  hasCode,
  type KeyListPage,
  type ObjectKey,
  type PageRequest,
  WIRE_NAMES,
} from "@cache/contracts";
import { backendError } from "./errors.ts";
import type { Blocks, L1Region } from "./memory.ts";
import { type PageRun, Pages } from "./pages.ts";
import type { PoolPlace, PoolShape } from "./pool-place.ts";
import { type FoundMap, type PoolEntry, readSlotMap, setAside, SlotMap } from "./slot-map.ts";
import { RUNS_MAX } from "./slot-records.ts";
import type { Found, Loaded, NamedObject, ObjectStore } from "./store.ts";
import { moveObjects } from "./move-objects.ts";
import type { TransferOutcome, Transfers } from "./transfers.ts";

/** What a {@link StaticStore} works with. */
export interface StaticStoreOptions {
  readonly location: string;
  readonly stateDir: string;
  readonly shape: PoolShape;
  /** What the page numbers mean: a map with another geometry is not taken up. */
  readonly geometry: string;
  readonly place: PoolPlace;
  readonly l1: L1Region;
  readonly blocks: Blocks | null;
  /** Multiple of which all pieces must be, in bytes; 1 without direct input and output. */
  readonly blockBytes: number;
  readonly transfers: Transfers;
  readonly isDurable: boolean;
  readonly log: AdapterLog;
}

/** An object of the pool, and who reads it. */
interface LiveEntry extends PoolEntry {
  readers: number;
  /** Deleted while it was read: its pages are free when the last reader is done. */
  isGone: boolean;
}

function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    return randomBytes(16).toString("hex"); // like no other: the map counts only when it was closed
  }
}

/** Why a map cannot be taken up; null if it can. */
function objection(found: FoundMap, owner: string | null, geometry: string): string | null {
  const { header, isClean } = found;
  if (header.geometry !== geometry) return "the pool's configuration is another than before";
  if (owner !== header.poolId) return "the pool's files or objects were used by another adapter since";
  if (isClean || header.isDurable || header.bootId === bootId()) return null;
  return "the machine went down while the pool was open, and with fsync none nobody knows what is on the disk";
}

/** Objects in the pages of a pool whose files or objects are there from the start. */
export class StaticStore implements ObjectStore {
  readonly #options: StaticStoreOptions;
  readonly #entries = new Map<string, LiveEntry>();
  readonly #pages: Pages;
  readonly #listing: KeyListing;
  readonly #bytesBySalt = new Map<string, number>();
  #bytes = 0;
  #map: SlotMap | null = null;
  /** True if data or map may have been written without reaching the disk. */
  #closedWell = true;
  #takenUp: string | number = 0;
  #poolId = "";
  /** Once another adapter uses the pool, no page is read or written any more. */
  #lost: CacheError | null = null;

  constructor(options: StaticStoreOptions) {
    this.#options = options;
    this.#pages = new Pages(options.shape.containers * options.shape.pagesPerContainer);
    this.#listing = new KeyListing({
      names: () => this.#entries.keys(),
      decode: (name) => WIRE_NAMES.decode(name),
      modelPrefix: (modelName) => `${modelName}@`,
      entry: async (name, key) => {
        const entry = this.#entries.get(name);
        return entry === undefined ? null : { key: encodeObjectKey(key), size_bytes: entry.byteLength };
      },
    });
  }

  /**
   * Takes up the objects of the last time, if they can still be trusted.
   *
   * @param owner the pool id that the pool itself tells.
   */
  async open(owner: string | null): Promise<void> {
    const { stateDir, geometry, isDurable, log, place, location } = this.#options;
    const found = this.#readMap();
    const why = found === null ? "there is no slot map of it" : objection(found, owner, geometry);
    const isTakenUp = found !== null && why === null && this.#takeUp(found);
    this.#takenUp = isTakenUp ? this.#entries.size : (why ?? "its slot map contradicts itself");
    if (found !== null && !isTakenUp) {
      log.warn("the pool starts empty", { location, because: this.#takenUp, objects: found.entries.size });
    }
    const poolId = isTakenUp && found !== null ? found.header.poolId : randomBytes(16).toString("hex");
    this.#poolId = poolId;
    const header = { poolId, bootId: bootId(), isDurable, geometry };
    this.#map = await SlotMap.create({ directory: stateDir, header, entries: this.#entries, log });
    if (isTakenUp) return;
    try {
      await place.writeOwner(poolId);
    } catch (error) {
      await this.#map.close(false);
      this.#map = null;
      throw backendError(error, "note whose pool it is in", location);
    }
  }

  #readMap(): FoundMap | null {
    const { stateDir, log } = this.#options;
    try {
      return readSlotMap(stateDir);
    } catch (error) {
      if (!hasCode(error, "DATA_CORRUPT")) throw backendError(error, "read the slot map in", stateDir);
      log.error("the slot map cannot be used and is kept aside; the pool starts empty", {
        error: error.message,
        kept_as: setAside(stateDir),
      });
      return null;
    }
  }

  /** False, and nothing is taken up, if two objects claim one page. */
  #takeUp(found: FoundMap): boolean {
    const all: PageRun[] = [];
    for (const entry of found.entries.values()) {
      const isInside = entry.runs.every(({ first, count }) => first + count <= this.#pages.count);
      if (!isInside || this.#pagesOf(entry.byteLength) !== countPages(entry.runs)) return false;
      all.push(...entry.runs);
    }
    if (!this.#pages.claim(all)) return false;
    for (const entry of found.entries.values()) this.#put(entry);
    return true;
  }

  get problem(): string | null {
    return this.#lost?.message ?? null;
  }

  nameOf(key: ObjectKey): string {
    return WIRE_NAMES.encode(key);
  }

  #pagesOf(byteLength: number): number {
    return Math.ceil(byteLength / this.#options.shape.pageBytes);
  }

  #put(entry: PoolEntry): void {
    this.#entries.set(entry.name, { ...entry, readers: 0, isGone: false });
    this.#account(entry.cacheSalt, entry.byteLength);
  }

  #account(cacheSalt: string, change: number): void {
    this.#bytes += change;
    const bytes = (this.#bytesBySalt.get(cacheSalt) ?? 0) + change;
    if (bytes > 0) this.#bytesBySalt.set(cacheSalt, bytes);
    else this.#bytesBySalt.delete(cacheSalt);
  }

  #openMap(): SlotMap {
    if (this.#map === null) throw new TypeError("the pool is not open");
    return this.#map;
  }

  /** Why the pool's pages cannot be relied on; null if they can. */
  async #objectionNow(ended: AbortSignal): Promise<CacheError | null> {
    const { place, location, log } = this.#options;
    if (this.#lost !== null) return this.#lost;
    try {
      if (await place.isStillOf(this.#poolId, ended)) return null;
    } catch (error) {
      return backendError(error, "look whose pool it is in", location);
    }
    this.#lost = new CacheError(
      "LOCKED_BY_OTHER_PROCESS",
      `another adapter has taken the pool's objects in ${location}; give each engine a pool_name of its own, then restart this one`,
    );
    log.error("the pool is another's now: nothing of it is served any more", { location });
    return this.#lost;
  }

  async store(items: readonly NamedObject[], ended: AbortSignal): Promise<(number | CacheError)[]> {
    const answers: (number | CacheError)[] = items.map(() => 0);
    // A broken map may name pages of stores that failed: nothing may be written to any page any more.
    const refusal = this.#openMap().refusal;
    if (refusal !== null) {
      return items.map(({ name, object }) => {
        const { byteLength } = object.bytes;
        const before = this.#entries.get(name)?.byteLength ?? null;
        if (before === null) return refusal;
        return before === byteLength ? 0 : this.#otherLength(before, byteLength);
      });
    }
    const fresh: { readonly i: number; readonly entry: PoolEntry }[] = [];
    const begun = new Map<string, number>();
    for (const [i, { name, key, object }] of items.entries()) {
      const { byteLength } = object.bytes;
      const before = this.#entries.get(name)?.byteLength ?? begun.get(name);
      if (before !== undefined) {
        if (before !== byteLength) answers[i] = this.#otherLength(before, byteLength);
        continue;
      }
      const runs = this.#pages.take(this.#pagesOf(byteLength));
      if (runs !== null && runs.length <= RUNS_MAX) {
        fresh.push({ i, entry: { name, cacheSalt: key.cacheSalt, byteLength, runs } });
        begun.set(name, byteLength);
        continue;
      }
      if (runs !== null) this.#pages.release(runs);
      answers[i] = this.#full(byteLength);
    }
    await this.#write(items, fresh, answers, ended);
    // A second one of the same name in the batch shares the fate of the first.
    for (const [i, { name }] of items.entries()) {
      if (answers[i] !== 0 || this.#entries.has(name)) continue;
      const first = fresh.find(({ entry }) => entry.name === name);
      if (first !== undefined) answers[i] = answers[first.i] ?? 0;
    }
    return answers;
  }

  async #write(
    items: readonly NamedObject[],
    fresh: readonly { readonly i: number; readonly entry: PoolEntry }[],
    answers: (number | CacheError)[],
    ended: AbortSignal,
  ): Promise<void> {
    const { place, isDurable, location } = this.#options;
    const kept = new Set<number>();
    const keep = async (positions: readonly number[]): Promise<void> => {
      const done = positions.flatMap((n) => fresh[n] ?? []);
      try {
        if (isDurable) await place.sync(done.flatMap(({ entry }) => entry.runs));
        // The record first, then the answer: what is acknowledged is found again.
        await this.#openMap().append(done.map(({ entry }) => ({ type: "stored", entry })));
        for (const { i, entry } of done) {
          this.#put(entry);
          kept.add(i);
          answers[i] = entry.byteLength;
        }
        if (isDurable) await this.#openMap().sync();
      } catch (error) {
        const failure = backendError(error, "write the slot map of", location);
        for (const { i } of done) answers[i] = failure;
      }
    };
    let outcomes: TransferOutcome[] = [];
    try {
      const objectionNow = fresh.length === 0 ? null : await this.#objectionNow(ended);
      if (objectionNow !== null) {
        for (const { i } of fresh) answers[i] = objectionNow;
        return;
      }
      const moving = fresh.map(({ i, entry }) => this.#moving(items[i] as NamedObject, entry));
      outcomes = await moveObjects("write", moving, this.#options, ended, keep);
    } finally {
      for (const { i, entry } of fresh) if (!kept.has(i)) this.#pages.release(entry.runs);
    }
    for (const [n, { i }] of fresh.entries()) {
      const outcome = outcomes[n] ?? "not begun";
      if (outcome !== "done") answers[i] = this.#failure(outcome, "write an object to");
    }
  }

  #moving(item: NamedObject, entry: PoolEntry) {
    const { l1, place } = this.#options;
    const { bytes } = item.object;
    return { bytes, address: l1.address(item.object), ranges: place.ranges(entry.runs) };
  }

  #failure(outcome: Exclude<TransferOutcome, "done">, action: string): CacheError {
    if (outcome === "not begun" || outcome === "short") return abortedError();
    const free = this.#options.place.freeBytes();
    if (action.startsWith("write") && free !== null && free < this.#options.shape.pageBytes) {
      return backendError(
        Object.assign(new Error(outcome.message), { code: "ENOSPC" }),
        action,
        this.#options.location,
      );
    }
    return backendError(outcome, action, this.#options.location);
  }

  #otherLength(before: number, byteLength: number): CacheError {
    return new CacheError(
      "CONFLICT",
      `the object is there with ${before} bytes instead of ${byteLength}; delete it first, or use another cache identity`,
      { details: { reason: "other-length", expectedBytes: byteLength, foundBytes: before } },
    );
  }

  #full(byteLength: number): CacheError {
    const { location, shape } = this.#options;
    return new CacheError(
      "BACKEND_FULL",
      `${location} has ${this.#pages.free} of ${this.#pages.count} pages of ${shape.pageBytes} bytes free, which is no room for ${byteLength} more; raise pool_size or configure eviction`,
      { details: { freePages: this.#pages.free, pageBytes: shape.pageBytes } },
    );
  }

  async look(requests: readonly { readonly name: string; readonly byteLength: number }[]): Promise<Found[]> {
    return requests.map(({ name, byteLength }) => this.#look(name, byteLength));
  }

  #look(name: string, byteLength: number): Found {
    const entry = this.#entries.get(name);
    if (entry === undefined || this.#lost !== null) return "absent";
    return entry.byteLength === byteLength ? "whole" : "other-length";
  }

  async load(items: readonly NamedObject[], ended: AbortSignal): Promise<(Loaded | CacheError)[]> {
    const answers: (Loaded | CacheError)[] = items.map(({ name, object }) =>
      this.#look(name, object.bytes.byteLength),
    );
    const reading = items.flatMap((item, i) => {
      const entry = this.#entries.get(item.name);
      return answers[i] === "whole" && entry !== undefined ? [{ i, item, entry }] : [];
    });
    for (const { entry } of reading) entry.readers++;
    try {
      const moving = reading.map(({ item, entry }) => this.#moving(item, entry));
      const outcomes = await moveObjects("read", moving, this.#options, ended);
      for (const [n, { i }] of reading.entries()) {
        const outcome = outcomes[n] ?? "not begun";
        if (outcome === "short") answers[i] = "short";
        else if (outcome !== "done") answers[i] = this.#failure(outcome, "read an object of");
      }
      const whole = reading.filter(({ i }) => answers[i] === "whole");
      const objectionNow = whole.length === 0 ? null : await this.#objectionNow(ended);
      if (objectionNow !== null) for (const { i } of whole) answers[i] = objectionNow;
    } finally {
      for (const { entry } of reading) {
        if (--entry.readers === 0 && entry.isGone) this.#pages.release(entry.runs);
      }
    }
    return answers;
  }

  async remove(names: readonly string[]): Promise<(true | CacheError)[]> {
    const { isDurable, location } = this.#options;
    const gone = [...new Set(names)].flatMap((name) => this.#entries.get(name) ?? []);
    try {
      await this.#openMap().append(
        gone.map(({ runs }) => ({ type: "deleted", firstPage: runs[0]?.first ?? 0 })),
      );
      for (const entry of gone) {
        this.#entries.delete(entry.name);
        this.#account(entry.cacheSalt, -entry.byteLength);
      }
      // Only now may another object have the pages: a map that still names the old one would serve the new one's bytes.
      if (isDurable) await this.#openMap().sync();
    } catch (error) {
      // Pages of what is gone from the index and perhaps not from the file stay taken until the next start.
      const failure = backendError(error, "write the slot map of", location);
      return names.map(() => failure);
    }
    for (const entry of gone) {
      if (entry.readers === 0) this.#pages.release(entry.runs);
      else entry.isGone = true;
    }
    return names.map(() => true);
  }

  list(page: PageRequest, checkStopped: () => void): Promise<KeyListPage> {
    return this.#listing.page(page, checkStopped);
  }

  usage(): AdapterUsage {
    const { containers, pagesPerContainer, pageBytes } = this.#options.shape;
    return {
      totalBytesUsed: this.#bytes,
      capacityBytes: containers * pagesPerContainer * pageBytes,
      bytesByCacheSalt: new Map(this.#bytesBySalt),
    };
  }

  status(): Record<string, unknown> {
    const { pageBytes, containers } = this.#options.shape;
    const isTakenUp = typeof this.#takenUp === "number";
    return {
      stored_object_count: this.#entries.size,
      current_size_bytes: this.#bytes,
      max_capacity_bytes: this.#pages.count * pageBytes,
      pool_size: containers,
      page_bytes: pageBytes,
      pool_free_slots: this.#pages.free,
      free_bytes: this.#options.place.freeBytes(),
      taken_up_objects: isTakenUp ? this.#takenUp : 0,
      started_empty_because: isTakenUp ? null : this.#takenUp,
      slot_map: this.#map?.status() ?? null,
    };
  }

  async close(): Promise<void> {
    const { place, log, location } = this.#options;
    await place.syncAll().catch((error: unknown) => {
      this.#closedWell = false;
      log.warn("the pool could not be written to the disk", { location, error: String(error) });
    });
    await this.#map?.close(this.#closedWell);
    this.#map = null;
  }
}

function countPages(runs: readonly PageRun[]): number {
  return runs.reduce((sum, { count }) => sum + count, 0);
}

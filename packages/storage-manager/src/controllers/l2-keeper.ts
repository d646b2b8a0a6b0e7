import {
  CacheError,
  decodeObjectKey,
  hasCode,
  type KeyListEntry,
  messageOf,
  type ObjectKey,
} from "@cache/contracts";
import type { Core } from "../core.ts";
import { Column } from "../state/columns.ts";
import { L2, type Ledger } from "../state/ledger.ts";
import type { AttachedAdapter } from "./attached-adapter.ts";
import { removeFromL2 } from "./l2-removal.ts";
import { settledCall } from "./settled-call.ts";

const PAGE_KEYS = 1_000;
/** Pause between two pages of a listing: the adapter's data path comes first. */
const PAGE_PAUSE_MS = 5;
const FIRST_SCAN_DELAY_MS = 1_000;
const DELETE_BATCH_MAX = 256;
/** Ledger rows that one turn looks at. */
const SLICE_ROWS = 1_024;
const DOUBT_RETRY_MS = 2_000;
/** Refusals of a lookup that say that the object cannot be there at all. */
const CANNOT_BE_THERE = ["AMBIGUOUS_NAME", "INVALID_KEY", "UNSUPPORTED", "INVALID_ARGUMENT"] as const;

/** Progress and outcome of the last listing. */
export interface ReconcileFigures {
  readonly running: boolean;
  readonly listedObjects: number;
  readonly listedBytes: number;
  readonly foreignObjects: number;
  readonly adopted: number;
  readonly missing: number;
  readonly completed: number;
  readonly lastError: string | null;
}

/**
 * Keeps the account of one adapter true: settles what was in doubt after a crash, evicts by capacity and by
 * quota, and holds the account against a listing of what is really there.
 */
export class L2Keeper {
  readonly #core: Core;
  readonly #adapter: AttachedAdapter;
  readonly #seen = new Column(Uint32Array);
  #pass = 0;
  #stopped = false;
  /** Ends a pause at once. */
  readonly #pauses = new Set<() => void>();
  readonly #endObserving: () => void;
  #evicting = false;
  #tierBytes = 0;
  /** Keys whose last store or delete is neither done nor undone for sure. Each holds its reference till then. */
  #doubtful: number[] = [];
  #settling = false;
  #figures = {
    running: false,
    listedObjects: 0,
    listedBytes: 0,
    foreignObjects: 0,
    adopted: 0,
    missing: 0,
    completed: 0,
    lastError: null as string | null,
  };
  quarantined = 0;
  evictedObjects = 0;
  evictedBytes = 0;

  constructor(core: Core, adapter: AttachedAdapter) {
    this.#core = core;
    this.#adapter = adapter;
    this.#endObserving = core.observe((event) => {
      // What was stored while a listing runs may lie behind its cursor.
      if (event.type === "l2.store.completed" && event.adapter === adapter.number) {
        for (const key of event.stored) this.#seen.set(key, this.#pass);
      }
    });
  }

  get reconcile(): ReconcileFigures {
    return this.#figures;
  }

  get #ledger(): Ledger {
    return this.#core.state.ledger(this.#adapter.number);
  }

  async #pause(ms: number): Promise<void> {
    if (this.#stopped) return;
    await new Promise<void>((resolve) => {
      const end = (): void => {
        cancel();
        this.#pauses.delete(end);
        resolve();
      };
      const cancel = this.#core.clock.after(ms, end);
      this.#pauses.add(end);
    });
  }

  /** Settles what started before the crash and never answered, then begins to reconcile. */
  async start(): Promise<void> {
    this.doubt(this.#doubtful.splice(0));
    if (!this.#adapter.adapter.capabilities.listKeys) return;
    await this.#pause(FIRST_SCAN_DELAY_MS);
    while (!this.#stopped) {
      await this.#listOnce();
      await this.#pause(this.#core.options.reconcileMs);
    }
  }

  stop(): void {
    this.#stopped = true;
    this.#endObserving();
    // Else what was seen in listings stays in memory up to the next one, long after the adapter has gone.
    for (const end of this.#pauses) end();
  }

  /** Notes what the last process left in doubt. Call it before anything new is stored. */
  collectDoubt(): void {
    if (this.#ledger.inDoubt === 0) return;
    const { keys } = this.#core.state;
    const doubtful: number[] = [];
    for (let key = 0; key < keys.numbers.bound; key++) {
      const state = this.#ledger.state.get(key);
      if (state === L2.storing || state === L2.deleting) doubtful.push(key);
    }
    this.#doubtful = doubtful;
  }

  /** A store of these keys ended without a word that counts: whether they are there is asked. */
  doubt(keys: readonly number[]): void {
    if (keys.length === 0) return;
    this.#doubtful.push(...keys);
    this.#settleDoubt().catch((error: unknown) => {
      this.#core.log.error("stores in doubt are not settled", {
        adapter: this.#adapter.id,
        error: messageOf(error),
      });
    });
  }

  async #settleDoubt(): Promise<void> {
    if (this.#settling) return;
    this.#settling = true;
    try {
      while (this.#doubtful.length > 0 && !this.#stopped) {
        const batch = this.#doubtful.slice(0, DELETE_BATCH_MAX);
        const again = await this.#askAbout(batch);
        this.#doubtful.splice(0, batch.length);
        this.#doubtful.push(...again);
        if (again.length > 0) await this.#pause(DOUBT_RETRY_MS);
      }
    } finally {
      this.#settling = false;
    }
  }

  /** Settles those of the keys that the adapter answers for; the others are asked again. */
  async #askAbout(batch: readonly number[]): Promise<readonly number[]> {
    const ledger = this.#ledger;
    const names = batch.map((key) => this.#core.nameOf(key));
    const requests = names.map((key, i) => ({ key, byteLength: ledger.bytes.get(batch[i] as number) }));
    const { result, errorOf } = await settledCall(this.#adapter.gate.lookupAndLock(requests));
    this.#adapter.gate.unlock(names.filter((_, i) => result?.has(i) === true));
    if (!this.#core.healthy) return batch;
    const settled = { stored: [], failed: [], kept: [], gone: [] } as Record<string, number[]>;
    const again: number[] = [];
    for (const [i, key] of batch.entries()) {
      const error = errorOf(i);
      const isThere = result?.has(i) === true;
      // What the adapter cannot even name or hold, it does not have.
      if (error !== null && !CANNOT_BE_THERE.some((code) => hasCode(error, code))) again.push(key);
      else if (ledger.state.get(key) === L2.storing) settled[isThere ? "stored" : "failed"]?.push(key);
      else if (ledger.state.get(key) === L2.deleting) settled[isThere ? "kept" : "gone"]?.push(key);
    }
    this.#recordSettled(
      settled["stored"] ?? [],
      settled["failed"] ?? [],
      settled["kept"] ?? [],
      settled["gone"] ?? [],
    );
    return again;
  }

  #recordSettled(
    stored: readonly number[],
    failed: readonly number[],
    kept: readonly number[],
    gone: readonly number[],
  ): void {
    const { number } = this.#adapter;
    const task = this.#core.state.nextTask;
    if (stored.length + failed.length > 0) {
      const reason = failed.length > 0 ? "not there when asked" : "";
      this.#core.record({ type: "l2.store.completed", adapter: number, task, stored, failed, reason });
    }
    if (kept.length > 0) this.#core.record({ type: "l2.delete.refused", adapter: number, keys: kept });
    if (gone.length > 0) {
      this.#core.record({
        type: "l2.keys.deleted",
        adapter: number,
        keys: gone,
        reason: "not there when asked",
      });
    }
    this.#core.commit();
    this.#core.signalRoom();
  }

  /** The adapter stored this much more since the last listing. */
  noteStored(bytes: number): void {
    if (this.#figures.completed > 0) this.#tierBytes += bytes;
    this.checkCapacity();
  }

  /** Bytes that count against the capacity: ours, or all that a listing found where that is more. */
  usedBytes(): number {
    return Math.max(this.#ledger.storedBytes, this.#tierBytes);
  }

  /** Evicts if the capacity or a tenant's quota demands it. */
  checkCapacity(): void {
    if (this.#evicting || this.#stopped || !this.#adapter.adapter.capabilities.delete) return;
    this.#evicting = true;
    this.#evict()
      .catch((error: unknown) => {
        this.#core.log.warn("eviction from L2 failed", {
          adapter: this.#adapter.id,
          error: messageOf(error),
        });
      })
      .finally(() => {
        this.#evicting = false;
      });
  }

  async #evict(): Promise<void> {
    const { eviction } = this.#adapter;
    const capacity = this.#adapter.adapter.usage().capacityBytes;
    if (eviction !== null && eviction.policy === "LRU" && typeof capacity === "number" && capacity > 0) {
      if (this.usedBytes() >= capacity * eviction.triggerWatermark) {
        const goal = capacity * Math.max(0, eviction.triggerWatermark - eviction.evictionRatio);
        await this.#evictUntil(() => this.usedBytes() - goal, "watermark", null);
      }
    }
    for (const [salt, limit] of this.#core.state.quotas) {
      const over = (): number => (this.#ledger.bytesBySalt.get(salt) ?? 0) - limit;
      if (over() > 0) await this.#evictUntil(over, "quota", salt);
    }
  }

  async #evictUntil(over: () => number, reason: string, salt: string | null): Promise<void> {
    while (over() > 0 && !this.#stopped && this.#core.healthy && this.#adapter.gate.canTry()) {
      const victims = await this.#victims(over(), salt);
      if (victims.length === 0) return;
      if (!(await this.#delete(victims, reason))) return;
    }
  }

  /** The oldest objects, of one tenant if a salt is given; looks at a bounded number of rows a turn. */
  async #victims(bytes: number, salt: string | null): Promise<number[]> {
    const ledger = this.#ledger;
    const victims: number[] = [];
    let sum = 0;
    let looked = 0;
    for (let at = ledger.orderEnds.oldest; at !== 0 && sum < bytes && victims.length < DELETE_BATCH_MAX; ) {
      const key = at - 1;
      at = ledger.order.next.get(key);
      if (this.#mayEvict(key, salt)) {
        victims.push(key);
        sum += ledger.bytes.get(key);
      }
      if (++looked % SLICE_ROWS !== 0) continue;
      await new Promise((resolve) => setImmediate(resolve));
      // The order changed under us: what was found so far will do.
      if (at !== 0 && !ledger.order.isMember(at - 1)) break;
    }
    return victims.filter((key) => ledger.state.get(key) === L2.stored && this.#mayEvict(key, salt));
  }

  #mayEvict(key: number, salt: string | null): boolean {
    if (this.#adapter.shared && this.#ledger.own.get(key) === 0) return false;
    return salt === null || this.#core.state.keys.groupOfKey(key).cacheSalt === salt;
  }

  async #delete(keys: readonly number[], reason: string): Promise<boolean> {
    const ledger = this.#ledger;
    const bytes = new Map(keys.map((key) => [key, ledger.bytes.get(key)]));
    const { deleted, doubtful } = await removeFromL2(this.#core, this.#adapter, keys, reason, (names) =>
      this.#adapter.gate.delete(names),
    );
    this.doubt(doubtful);
    const freed = deleted.reduce((sum, key) => sum + (bytes.get(key) ?? 0), 0);
    this.evictedObjects += deleted.length;
    this.evictedBytes += freed;
    this.#tierBytes = Math.max(0, this.#tierBytes - freed);
    return deleted.length > 0;
  }

  async #listOnce(): Promise<void> {
    this.#pass++;
    const figures = { ...this.#figures, running: true, listedObjects: 0, listedBytes: 0, foreignObjects: 0 };
    this.#figures = figures;
    try {
      let pageToken: string | undefined;
      do {
        const page = await this.#adapter.gate.listKeys({ pageSize: PAGE_KEYS, pageToken }).outcome;
        if (this.#stopped) return;
        this.#adopt(page.entries);
        pageToken = page.nextPageToken ?? undefined;
        await this.#pause(PAGE_PAUSE_MS);
      } while (pageToken !== undefined && !this.#stopped);
      if (this.#stopped) return;
      await this.#dropMissing();
      figures.completed++;
      figures.lastError = null;
      this.#tierBytes = figures.listedBytes;
      this.checkCapacity();
    } catch (error) {
      figures.lastError = messageOf(error);
      this.#core.log.warn("listing an adapter failed", {
        adapter: this.#adapter.id,
        error: messageOf(error),
      });
    } finally {
      figures.running = false;
    }
  }

  #adopt(entries: readonly KeyListEntry[]): void {
    const { options } = this.#core;
    const ledger = this.#ledger;
    const adopted: { key: number; bytes: number; at: number }[] = [];
    const damaged: number[] = [];
    for (const entry of entries) {
      this.#figures.listedObjects++;
      this.#figures.listedBytes += entry.size_bytes;
      const key = this.#keyOf(entry);
      if (key === null) {
        this.#figures.foreignObjects++;
        continue;
      }
      const known = key.number;
      if (known >= 0) this.#seen.set(known, this.#pass);
      if (known >= 0 && this.#hasWrongLength(known, entry.size_bytes)) damaged.push(known);
      if (known >= 0 && ledger.state.get(known) !== L2.none) continue;
      const young = entry.modified_ms !== undefined && Date.now() - entry.modified_ms < options.adoptAgeMs;
      if (young || ledger.storedCount >= options.adoptedKeysMax || !this.#core.healthy) continue;
      const group = this.#core.ensureGroup(key.name);
      const [number] = this.#core.ensureKeys(group, key.name.chunkHash, [0]) as [number];
      // A bound key lives only as long as something names it: adopt it at once.
      this.#seen.set(number, this.#pass);
      adopted.push({ key: number, bytes: entry.size_bytes, at: entry.modified_ms ?? 0 });
    }
    if (damaged.length > 0) {
      this.#quarantine(damaged).catch((error: unknown) => {
        this.#core.log.warn("quarantine failed", { adapter: this.#adapter.id, error: messageOf(error) });
      });
    }
    if (adopted.length === 0) return;
    // Prepended one by one: the last prepended is the oldest.
    adopted.sort((a, b) => b.at - a.at);
    this.#figures.adopted += adopted.length;
    this.#core.record({
      type: "l2.keys.adopted",
      adapter: this.#adapter.number,
      keys: adopted.map(({ key }) => key),
      lengths: adopted.map(({ bytes }) => bytes),
    });
    this.#core.commit();
  }

  /** True for an object that we stored with another length than the listing shows: it is damaged. */
  #hasWrongLength(key: number, bytes: number): boolean {
    const ledger = this.#ledger;
    return (
      ledger.state.get(key) === L2.stored && ledger.own.get(key) === 1 && ledger.bytes.get(key) !== bytes
    );
  }

  /** Takes damaged objects of ours out of service; what others wrote is left alone. */
  async #quarantine(keys: readonly number[]): Promise<void> {
    const { gate, adapter, id } = this.#adapter;
    this.#core.log.error("objects in L2 have another length than was stored", {
      adapter: id,
      objects: keys.length,
    });
    if (!adapter.capabilities.quarantine || !this.#core.healthy) return;
    const { deleted, doubtful } = await removeFromL2(
      this.#core,
      this.#adapter,
      keys,
      "quarantined",
      (names) => gate.quarantine(names, "another length than was stored"),
    );
    this.quarantined += deleted.length;
    this.doubt(doubtful);
  }

  #keyOf(entry: KeyListEntry): { name: ObjectKey; number: number } | null {
    const { keys } = this.#core.state;
    try {
      const name = decodeObjectKey(entry.key);
      if (name.chunkHash.length !== 32 || entry.size_bytes > 0xffffffff) return null;
      const group = keys.findGroup(name);
      return { name, number: group < 0 ? -1 : keys.find(group, name.chunkHash, 0) };
    } catch (error) {
      if (error instanceof CacheError) return null;
      return null;
    }
  }

  /** Objects of the account that a whole listing did not find are gone. */
  async #dropMissing(): Promise<void> {
    const ledger = this.#ledger;
    const { keys } = this.#core.state;
    for (let from = 0; from < keys.numbers.bound && !this.#stopped; from += SLICE_ROWS) {
      const missing: number[] = [];
      for (let key = from; key < Math.min(from + SLICE_ROWS, keys.numbers.bound); key++) {
        if (ledger.state.get(key) === L2.stored && this.#seen.get(key) !== this.#pass) missing.push(key);
      }
      if (missing.length > 0 && this.#core.healthy) {
        this.#figures.missing += missing.length;
        this.#core.record({
          type: "l2.keys.deleted",
          adapter: this.#adapter.number,
          keys: missing,
          reason: "missing in a listing",
        });
        this.#core.commit();
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

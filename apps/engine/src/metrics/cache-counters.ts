import type { CacheEvent, EventOf, StorageManager } from "@cache/storage-manager";
import { ObjectAges } from "./object-ages.ts";
import { BoundedLabel, Histogram, type HistogramSample, LabelledCounter } from "./series.ts";

/** Writer number of loads from L2 in `l1.write.reserved`. */
const LOAD = 1;
/** GB (10^9 bytes) a second. */
const THROUGHPUT_BOUNDS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32];

interface Write {
  readonly slots: readonly number[];
  readonly cacheSalt: string;
  /** Id of the adapter that a load comes from. */
  readonly loadedFrom: string | null;
  readonly bytes: number;
  readonly startedMs: number;
}

interface Store {
  readonly bytes: number;
  readonly startedMs: number;
}

/** Throughput of each adapter. */
class Throughput {
  readonly #byAdapter = new Map<string, Histogram>();

  observe(adapter: string, bytes: number, ms: number): void {
    if (bytes <= 0 || ms <= 0) return;
    const histogram = this.#byAdapter.get(adapter) ?? new Histogram(THROUGHPUT_BOUNDS);
    this.#byAdapter.set(adapter, histogram);
    histogram.observe(bytes / 1e6 / ms);
  }

  samples(): HistogramSample[] {
    return [...this.#byAdapter].map(([l2_name, histogram]) => histogram.sample({ l2_name }));
  }
}

/**
 * Counts what the storage manager records, from the engine's start on: plain numbers, no timers. It keeps what is
 * under way (as many entries as there are open transfers, stores and lookups) and nothing else.
 */
export class CacheCounters {
  readonly l1Write = new LabelledCounter();
  readonly l1Read = new LabelledCounter();
  readonly l1Evicted = new LabelledCounter();
  readonly l1EvictedFor = new LabelledCounter();
  readonly l2DeletedFor = new LabelledCounter();
  readonly storeSubmitted = new LabelledCounter();
  readonly storeSubmittedObjects = new LabelledCounter();
  readonly storeCompleted = new LabelledCounter();
  readonly storeCompletedObjects = new LabelledCounter();
  readonly l2Evicted = new LabelledCounter();
  readonly loadSubmitted = new LabelledCounter();
  readonly loadSubmittedObjects = new LabelledCounter();
  readonly loadCompleted = new LabelledCounter();
  readonly loadCompletedObjects = new LabelledCounter();
  readonly lookups = new LabelledCounter();
  readonly requestedTokens = new LabelledCounter();
  readonly hitTokens = new LabelledCounter();
  readonly hitL1Tokens = new LabelledCounter();
  readonly hitL2Tokens = new LabelledCounter();
  readonly hitL1Keys = new LabelledCounter();
  readonly hitL2Keys = new LabelledCounter();
  readonly earlyExits = new LabelledCounter();
  l2LookupRequests = 0;
  l2LookupObjects = 0;
  chunksLoaded = 0;
  readonly storeThroughput = new Throughput();
  readonly loadThroughput = new Throughput();
  readonly ages: ObjectAges;
  /** Bytes that loads in flight will fill, by adapter. */
  readonly loadingBytes = new Map<string, number>();
  readonly #manager: StorageManager;
  readonly #salts: BoundedLabel;
  readonly #models = new BoundedLabel(true);
  readonly #writes = new Map<number, Write>();
  readonly #reads = new Map<number, readonly number[]>();
  readonly #stores = new Map<string, Store>();
  /** Chunks that L1 had when a lookup began that now asks L2, by session. */
  readonly #pendingHits = new Map<number, number>();
  /** Label of the tenant of each slot, for evictions: by then the key is gone. */
  readonly #slotSalts: string[] = [];

  /** @param saltLabel tenants become a label. */
  constructor(manager: StorageManager, saltLabel: boolean) {
    this.#manager = manager;
    this.#salts = new BoundedLabel(saltLabel);
    this.ages = new ObjectAges(manager.core.state, () => performance.now() / 1_000);
    manager.onEvent((event) => this.#observe(event));
    this.#watchLookups(saltLabel);
  }

  /** Tenants with objects in L1 or a limit, by label; null where tenants are no label. */
  tenants(): Map<string, { l1Bytes: number; limitBytes: number | null }> | null {
    if (!this.#salts.isOn) return null;
    const { tenants, quotas } = this.#manager.core.state;
    const found = new Map<string, { l1Bytes: number; limitBytes: number | null }>();
    for (const salt of new Set([...quotas.keys(), ...tenants.keys()])) {
      const label = salt === "" ? "_default" : this.#salts.of(salt);
      const figures = found.get(label) ?? { l1Bytes: 0, limitBytes: null };
      found.set(label, figures);
      figures.l1Bytes += tenants.get(salt)?.bytes ?? 0;
      const limit = quotas.get(salt);
      if (limit !== undefined) figures.limitBytes = (figures.limitBytes ?? 0) + limit;
    }
    return found;
  }

  #watchLookups(saltLabel: boolean): void {
    const { lookups, core } = this.#manager;
    const { chunkTokens } = core.options;
    const labelsOf = (request: { modelName: string; worldSize: number; cacheSalt: string }) => {
      const known = this.#manager.operator.isRegistered(request.modelName, request.worldSize);
      const model_name = known ? this.#models.of(request.modelName) : "";
      return saltLabel ? { model_name, cache_salt: this.#salts.of(request.cacheSalt) } : { model_name };
    };
    lookups.onLookup = (request, early) => {
      const labels = labelsOf(request);
      this.lookups.add(1, labels);
      this.requestedTokens.add(request.endChunk * chunkTokens, labels);
      if (early !== null) this.earlyExits.add(1, { reason: early });
    };
    lookups.onResult = (request, hits) => {
      const session = core.state.sessionByRequest.get(request.requestId) ?? -1;
      const inL1 = Math.min(hits, this.#pendingHits.get(session) ?? hits);
      this.#pendingHits.delete(session);
      const labels = labelsOf(request);
      const ranks = request.workerId === null ? request.worldSize : 1;
      this.hitTokens.add(hits * chunkTokens, labels);
      this.hitL1Tokens.add(inL1 * chunkTokens, labels);
      this.hitL2Tokens.add((hits - inL1) * chunkTokens, labels);
      this.hitL1Keys.add(inL1 * ranks, labels);
      this.hitL2Keys.add((hits - inL1) * ranks, labels);
    };
  }

  #observe(event: CacheEvent): void {
    switch (event.type) {
      case "l1.write.reserved":
        this.#reserved(event);
        break;
      case "l1.write.finished":
        this.#finished(event.transfer, event.missing);
        break;
      case "l1.write.abandoned":
        if (!event.hold) this.#abandoned(event.transfer);
        break;
      case "l1.read.handed_out":
        this.#reads.set(event.transfer, event.slots);
        break;
      case "l1.read.finished":
        this.#read(event.transfer, event.committed);
        break;
      case "l1.keys.evicted":
        this.#evicted(event.slots);
        this.l1EvictedFor.add(event.slots.length, { reason: event.reason });
        break;
      case "l2.delete.submitted":
        this.l2DeletedFor.add(event.keys.length, {
          l2_name: this.#adapter(event.adapter),
          reason: event.reason,
        });
        break;
      case "session.looked_up":
        if (event.pending) this.#asksL2(event);
        break;
      case "session.ended":
        this.#pendingHits.delete(event.session);
        break;
      case "l2.store.submitted":
        this.#storeSubmitted(event);
        break;
      case "l2.store.completed":
        this.#storeCompleted(event);
        break;
      case "l2.keys.deleted":
        if (event.reason === "watermark" || event.reason === "quota")
          this.l2Evicted.add(event.keys.length, { l2_name: this.#adapter(event.adapter) });
        break;
      default:
    }
  }

  #adapter(number: number): string {
    return this.#manager.core.state.ledger(number).id;
  }

  #saltLabel(cacheSalt: string): { cache_salt: string } {
    return { cache_salt: this.#salts.of(cacheSalt) };
  }

  #l1Labels(cacheSalt: string) {
    return { l1_tag: "_default", ...this.#saltLabel(cacheSalt) };
  }

  #reserved(event: EventOf<"l1.write.reserved">): void {
    const { state } = this.#manager.core;
    const first = event.slots[0];
    if (first === undefined) return;
    const bytes = state.slotBytes(first) * event.slots.length;
    const loadedFrom = event.writer === LOAD ? this.#adapter(event.adapter - 1) : null;
    const cacheSalt = state.saltOf(first);
    this.#writes.set(event.transfer, {
      slots: event.slots,
      cacheSalt,
      loadedFrom,
      bytes,
      startedMs: performance.now(),
    });
    if (loadedFrom === null) return;
    this.loadSubmitted.add(1, { l2_name: loadedFrom });
    this.loadSubmittedObjects.add(event.slots.length, { l2_name: loadedFrom });
    this.loadingBytes.set(loadedFrom, (this.loadingBytes.get(loadedFrom) ?? 0) + bytes);
  }

  #finished(transfer: number, missing: readonly number[]): void {
    const write = this.#writes.get(transfer);
    if (write === undefined) return;
    this.#writes.delete(transfer);
    const gone = new Set(missing);
    const slots = write.slots.filter((_, i) => !gone.has(i));
    this.l1Write.add(slots.length, this.#l1Labels(write.cacheSalt));
    for (const slot of slots) this.#slotSalts[slot] = this.#salts.of(write.cacheSalt);
    this.ages.stored(slots);
    this.#loadEnded(write, slots.length);
  }

  #abandoned(transfer: number): void {
    const write = this.#writes.get(transfer);
    if (write === undefined) return;
    this.#writes.delete(transfer);
    this.#loadEnded(write, 0);
  }

  #loadEnded(write: Write, objects: number): void {
    const l2_name = write.loadedFrom;
    if (l2_name === null) return;
    this.loadingBytes.set(l2_name, (this.loadingBytes.get(l2_name) ?? 0) - write.bytes);
    this.loadCompleted.add(1, { l2_name });
    this.loadCompletedObjects.add(objects, { l2_name });
    const bytes = (write.bytes / write.slots.length) * objects;
    this.loadThroughput.observe(l2_name, bytes, performance.now() - write.startedMs);
  }

  #read(transfer: number, committed: boolean): void {
    const slots = this.#reads.get(transfer);
    if (slots === undefined) return;
    this.#reads.delete(transfer);
    const first = slots[0];
    if (!committed || first === undefined) return;
    this.chunksLoaded += slots.length;
    this.l1Read.add(slots.length, { l1_tag: "_default", cache_salt: this.#slotSalts[first] ?? "" });
    this.ages.read(slots);
  }

  #evicted(slots: readonly number[]): void {
    for (const slot of slots)
      this.l1Evicted.add(1, { l1_tag: "_default", cache_salt: this.#slotSalts[slot] ?? "" });
    this.ages.evicted(slots);
  }

  #asksL2(event: EventOf<"session.looked_up">): void {
    const missing = event.slots.indexOf(0);
    const cells = missing < 0 ? event.slots.length : missing;
    this.#pendingHits.set(event.session, Math.floor(cells / event.ranks));
    this.l2LookupRequests++;
    this.l2LookupObjects += event.slots.reduce((sum, slot) => sum + (slot === 0 ? 1 : 0), 0);
  }

  #storeSubmitted(event: EventOf<"l2.store.submitted">): void {
    const { state } = this.#manager.core;
    const l2_name = this.#adapter(event.adapter);
    const first = event.keys[0];
    const salt = first === undefined ? "" : state.keys.groupOfKey(first).cacheSalt;
    this.storeSubmitted.add(1, { l2_name });
    this.storeSubmittedObjects.add(event.keys.length, { l2_name, ...this.#saltLabel(salt) });
    this.#stores.set(`${event.adapter}:${event.task}`, {
      bytes: state.layout(event.layout).objectBytes,
      startedMs: performance.now(),
    });
  }

  #storeCompleted(event: EventOf<"l2.store.completed">): void {
    const l2_name = this.#adapter(event.adapter);
    const task = `${event.adapter}:${event.task}`;
    const store = this.#stores.get(task);
    // What was in doubt after a restart was submitted by another process.
    if (store === undefined) return;
    this.#stores.delete(task);
    this.storeCompleted.add(1, { l2_name });
    this.storeCompletedObjects.add(event.stored.length, { l2_name });
    this.storeThroughput.observe(
      l2_name,
      store.bytes * event.stored.length,
      performance.now() - store.startedMs,
    );
  }
}

import { createHash } from "node:crypto";
import { CacheError } from "@cache/contracts";
import type { Core } from "../core.ts";
import type { KeyGroup } from "../state/key-table.ts";
import { ChunkIndex } from "./chunk-index.ts";
import { EventRing } from "./event-ring.ts";
import { modelTag } from "./model-tag.ts";
import { Ranks } from "./ranks.ts";
import { type AnnouncedChunk, ResidentScan } from "./resident-scan.ts";
import { Subscription } from "./subscription.ts";
import type { KvEventStream, KvEventSubscription } from "./types.ts";

/** Streams at a time; the one that asked for a batch the longest ago ends for a new one. */
const STREAMS_MAX = 64;
/** Records of one batch that a subscriber may ask for. */
const EVENTS_MAX = 1_024;
/** Keys taken into the index before a look at the clock, and time of one turn for them, in milliseconds. */
const BUILD_SLICE = 256;
const BUILD_MS = 2;
const HASH_BYTES = 32;

/**
 * KV events: which chunks came into L1 and left it, for subscribers that route requests. A chunk is announced while
 * the objects of all its ranks are resident, as a hit needs them, and the first rank's has a token record; once for all
 * tenants and world sizes. Nothing is kept, and nothing costs time, before the first subscription.
 */
export class KvEvents {
  readonly core: Core;
  /** The log; null before the first subscription's index is complete. */
  ring: EventRing | null = null;
  /** Entries of the log that are in the journal: what subscribers may see. */
  committed = 0;
  lostMarkers = 0;
  /** Chunks that could not be told: their token record cannot be read any more. */
  unreadable = 0;
  /** Scans under way: while there are some, a chunk that changes its key is told again. */
  scans = 0;
  readonly #ranks: Ranks;
  readonly #tags = new WeakMap<KeyGroup, number>();
  readonly #streams = new Map<bigint, Subscription>();
  #index: ChunkIndex | null = null;
  /** Keys below this are in the index. */
  #indexed = 0;
  #ready: Promise<void> | null = null;
  #wakeIsDue = false;
  #stopped = false;

  constructor(core: Core) {
    this.core = core;
    this.#ranks = new Ranks(core.state.keys);
    core.commitListeners.push(() => this.#onCommit());
  }

  /** False: no token records are written and nothing is advertised. */
  get enabled(): boolean {
    return this.core.options.kvEventLogSize > 0 && this.core.options.tokenRecords;
  }

  /** Stays while the pool is re-attached: made from the pool's id. At least 2^62, at most 2^63 - 1. */
  get incarnation(): bigint {
    const id = this.core.state.pool?.poolId ?? "";
    const bits = createHash("sha256").update(id).digest().readBigUInt64BE(0);
    return (bits & ((1n << 62n) - 1n)) | (1n << 62n);
  }

  get index(): ChunkIndex {
    if (this.#index === null) throw new TypeError("nothing was subscribed to");
    return this.#index;
  }

  #tagOf(key: number): number {
    const group = this.core.state.keys.groupOfKey(key);
    let tag = this.#tags.get(group);
    if (tag === undefined) {
      tag = modelTag(group.modelName);
      this.#tags.set(group, tag);
    }
    return tag;
  }

  /** The state's word: a resident object has a token record now. */
  tokensBound(key: number): void {
    this.#tell(key);
  }

  /** The state's word: an object is resident now. It may be the last that its chunk lacked. */
  becameResident(key: number): void {
    if (this.#index === null) return;
    const first = this.#ranks.firstOf(key);
    if (first >= 0 && this.core.state.keys.tokenSegment.get(first) !== 0) this.#tell(first);
  }

  /** The state's word: an object is not resident any more. */
  leftL1(key: number): void {
    if (this.#index === null) return;
    if (this.#index.has(key)) {
      this.#withdraw(key);
      return;
    }
    const first = this.#ranks.firstOf(key);
    if (first >= 0 && this.#index.has(first)) this.#withdraw(first);
  }

  #tell(key: number): void {
    if (this.#index === null || key >= this.#indexed) return;
    if (this.#index.has(key) || !this.#ranks.areResident(key)) return;
    if (this.#index.add(key)) this.#append(key, true);
  }

  #withdraw(key: number): void {
    if (this.index.remove(key)) {
      this.#append(key, false);
      return;
    }
    // A scan that passed the new key, and had not come to the old one, would miss the chunk.
    if (this.scans === 0) return;
    const heir = this.index.find(this.#tagOf(key), this.core.state.keys.hash.get(key));
    if (heir >= 0) this.#append(heir, true);
  }

  #append(key: number, stored: boolean): void {
    if (this.ring === null) return;
    const { keys, chunkSeq } = this.core.state;
    const segment = stored ? keys.tokenSegment.get(key) - 1 : 0;
    const offset = stored ? keys.tokenOffset.get(key) : 0;
    this.ring.append({ seq: chunkSeq, tag: this.#tagOf(key), stored, segment, offset }, keys.hash.get(key));
  }

  /** Wakes the streams once a turn, after its events are in the journal. */
  #onCommit(): void {
    if (this.ring === null || this.ring.total === this.committed) return;
    this.committed = this.ring.total;
    if (this.#wakeIsDue || this.#streams.size === 0) return;
    this.#wakeIsDue = true;
    setImmediate(() => {
      this.#wakeIsDue = false;
      for (const stream of this.#streams.values()) stream.wake();
    });
  }

  /** Settles when the log and its index are there; the work is done in slices. */
  ready(): Promise<void> {
    this.#ready ??= this.#build();
    return this.#ready;
  }

  async #build(): Promise<void> {
    const { state, options } = this.core;
    this.#index = new ChunkIndex(state.keys, (key) => this.#tagOf(key), state.l1.residentCount);
    let pauseAt = performance.now() + BUILD_MS;
    while (this.#indexed < state.keys.numbers.bound && !this.#stopped) {
      const until = Math.min(state.keys.numbers.bound, this.#indexed + BUILD_SLICE);
      for (let key = this.#indexed; key < until; key++) {
        if (state.keys.tokenSegment.get(key) !== 0 && this.#ranks.areResident(key)) this.#index.add(key);
      }
      this.#indexed = until;
      if (performance.now() < pauseAt) continue;
      await new Promise((resolve) => setImmediate(resolve));
      pauseAt = performance.now() + BUILD_MS;
    }
    this.#indexed = Number.POSITIVE_INFINITY;
    this.ring = new EventRing(options.kvEventLogSize, state.chunkSeq);
  }

  /**
   * Begins a stream. The same instance's stream before it ends.
   *
   * @throws CacheError `UNSUPPORTED` if the log is off, `INVALID_ARGUMENT` for a batch size outside 1 to 1,024.
   */
  subscribe(subscription: KvEventSubscription): KvEventStream {
    const { instanceId, maxEvents } = subscription;
    if (!this.enabled || this.#stopped) {
      throw new CacheError(
        "UNSUPPORTED",
        "KV events are off: start the engine with --kv-event-log-size above 0",
      );
    }
    if (!Number.isInteger(maxEvents) || maxEvents < 1 || maxEvents > EVENTS_MAX) {
      throw new CacheError("INVALID_ARGUMENT", `max_events ${maxEvents} is not in 1..${EVENTS_MAX}`);
    }
    this.#streams.get(instanceId)?.close();
    this.#makeRoom();
    const stream = new Subscription(this, subscription, () => {
      if (this.#streams.get(instanceId) === stream) this.#streams.delete(instanceId);
    });
    this.#streams.set(instanceId, stream);
    return stream;
  }

  #makeRoom(): void {
    if (this.#streams.size < STREAMS_MAX) return;
    let stalest: Subscription | null = null;
    for (const stream of this.#streams.values()) {
      if (stalest === null || stream.askedAt < stalest.askedAt) stalest = stream;
    }
    stalest?.close();
  }

  /** A walk over what is announced of a model. The caller ends it with `endScan`. */
  beginScan(tag: number): ResidentScan {
    const { keys } = this.core.state;
    this.scans++;
    const source = {
      index: this.index,
      bound: keys.numbers.bound,
      hashOf: (key: number, wanted: number) => {
        if (keys.tokenSegment.get(key) === 0 || !this.index.has(key)) return null;
        return this.#tagOf(key) === wanted ? keys.hash.get(key) : null;
      },
      read: (key: number) => this.readKey(key),
    };
    return new ResidentScan(source, tag);
  }

  endScan(): void {
    this.scans--;
  }

  /** The chunk of an announced key; null if its token record cannot be read. */
  readKey(key: number): AnnouncedChunk | null {
    const { keys } = this.core.state;
    const segment = keys.tokenSegment.get(key) - 1;
    return this.#read(Uint8Array.from(keys.hash.get(key)), segment, keys.tokenOffset.get(key));
  }

  /** The chunk of a stored entry of the log; null if its token record is gone with it. */
  readEntry(entry: number): AnnouncedChunk | null {
    const ring = this.ring as EventRing;
    const { tag, segment, offset } = ring.get(entry);
    const hash = ring.hashAt(entry);
    // The record may have moved since.
    const key = this.index.find(tag, hash);
    return key >= 0 ? this.readKey(key) : this.#read(hash, segment, offset);
  }

  #read(hash: Uint8Array, segment: number, offset: number): AnnouncedChunk | null {
    try {
      const record = this.core.journal.side.read({ segment, offset });
      const parent = record[0] === 1 ? record.subarray(1, 1 + HASH_BYTES) : null;
      return { hash, parent, tokens: record.subarray(parent === null ? 1 : 1 + HASH_BYTES) };
    } catch {
      this.unreadable++;
      return null;
    }
  }

  /** As LMCache's server reports it. */
  status(): Readonly<Record<string, unknown>> {
    return {
      enabled: this.enabled,
      incarnation: String(this.incarnation),
      log_depth: this.ring?.depth ?? 0,
      log_capacity: this.core.options.kvEventLogSize,
      next_seq: this.core.state.chunkSeq + 1,
      lost_markers: this.lostMarkers,
      unbound_stores: this.unreadable,
      subscribers: this.#streams.size,
    };
  }

  /** Ends all streams. */
  stop(): void {
    this.#stopped = true;
    for (const stream of [...this.#streams.values()]) stream.close();
  }
}

import type { EventRing } from "./event-ring.ts";
import type { KvEvents } from "./kv-events.ts";
import { modelTag } from "./model-tag.ts";
import type { AnnouncedChunk, ResidentScan } from "./resident-scan.ts";
import type { KvEventBatch, KvEventRecord, KvEventStream, KvEventSubscription } from "./types.ts";

/** A batch ends at this many bytes of token ids, after one record at least. */
const BATCH_TOKEN_BYTES_MAX = 1024 * 1024;
/** Hashes of one removed record. */
const REMOVED_HASHES_MAX = 256;
/** Time that gathering a batch takes of one turn, in milliseconds. */
const SLICE_MS = 2;
/** Entries of the log that are looked at before the time is. */
const ENTRIES_A_LOOK = 64;

const NO_TOKENS = new Uint8Array(0);

/** A batch in the making. */
interface Draft {
  readonly events: KvEventRecord[];
  tokenBytes: number;
  /** Hashes of the last record, while it is a removed one. */
  removing: Uint8Array[] | null;
}

/**
 * One subscriber's stream. It begins with a walk over everything resident if the subscriber's cursor is older than the
 * log, and begins that walk anew, with `lost`, when it falls out of the log. It keeps no events: what its subscriber
 * does not ask for stays in the log that all share.
 */
export class Subscription implements KvEventStream {
  /** When the subscriber last asked, for those who must make room. */
  askedAt = performance.now();
  readonly #events: KvEvents;
  readonly #modelName: string;
  readonly #tag: number;
  readonly #maxEvents: number;
  readonly #onClosed: () => void;
  #cursor: number;
  /** The next entry of the log. */
  #entry = 0;
  #started = false;
  #told = false;
  #lost = false;
  #scan: { readonly walk: ResidentScan; readonly seq: number } | null = null;
  #closed = false;
  #wake: () => void = () => {};

  constructor(events: KvEvents, subscription: KvEventSubscription, onClosed: () => void) {
    this.#events = events;
    this.#modelName = subscription.modelName;
    this.#tag = modelTag(events.core.groupFor(subscription.modelName, 0, "").modelName);
    this.#maxEvents = subscription.maxEvents;
    this.#cursor = subscription.cursor;
    this.#onClosed = onClosed;
  }

  /** Something may have changed. */
  wake(): void {
    this.#wake();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#endScan();
    this.#onClosed();
    this.#wake();
  }

  async next(): Promise<KvEventBatch | null> {
    this.askedAt = performance.now();
    await this.#events.ready();
    if (!this.#started) await this.#start();
    while (!this.#closed) {
      if (this.#fellOut()) {
        this.#lost = this.#told || this.#cursor !== 0;
        await this.#beginScan();
        continue;
      }
      const scanning = this.#scan !== null;
      const draft = scanning ? await this.#walk() : await this.#follow();
      // What was read may belong to a turn that is not in the file yet.
      await this.#untilCommitted();
      if (this.#closed) return null;
      if (draft === null) continue;
      if (scanning || draft.events.length > 0 || !this.#told) return this.#batch(draft.events);
      if (this.#entry < this.#events.committed) continue;
      await this.#untilWoken();
    }
    return null;
  }

  #batch(events: readonly KvEventRecord[]): KvEventBatch {
    const { incarnation } = this.#events;
    const lost = this.#lost;
    if (lost) this.#events.lostMarkers++;
    this.#lost = false;
    this.#told = true;
    return { enabled: true, incarnation, nextCursor: this.#cursor, lost, events };
  }

  get #ring(): EventRing {
    return this.#events.ring as EventRing;
  }

  async #start(): Promise<void> {
    this.#started = true;
    await this.#untilCommitted();
    if (this.#closed) return;
    const { chunkSeq } = this.#events.core.state;
    if (this.#cursor >= this.#ring.floorSeq && this.#cursor <= chunkSeq && this.#cursor > 0) {
      this.#entry = this.#ring.after(this.#cursor);
      return;
    }
    // Who saw nothing has nothing to lose.
    this.#lost = this.#cursor !== 0;
    await this.#beginScan();
  }

  #fellOut(): boolean {
    return this.#entry < this.#ring.oldest;
  }

  /** From here on everything is in the log; what is resident now is walked over. */
  async #beginScan(): Promise<void> {
    this.#endScan();
    await this.#untilCommitted();
    if (this.#closed) return;
    this.#entry = this.#ring.total;
    this.#scan = { walk: this.#events.beginScan(this.#tag), seq: this.#events.core.state.chunkSeq };
  }

  #endScan(): void {
    if (this.#scan === null) return;
    this.#scan = null;
    this.#events.endScan();
  }

  #isFull(draft: Draft): boolean {
    return draft.events.length >= this.#maxEvents || draft.tokenBytes >= BATCH_TOKEN_BYTES_MAX;
  }

  #addStored(draft: Draft, seq: number, chunk: AnnouncedChunk): void {
    draft.removing = null;
    draft.tokenBytes += chunk.tokens.length;
    draft.events.push({
      seq,
      kind: "stored",
      modelName: this.#modelName,
      blockHashes: [chunk.hash],
      parentBlockHash: chunk.parent,
      tokenIds: chunk.tokens,
    });
  }

  /** Resident chunks; null if the log was overrun meanwhile. */
  async #walk(): Promise<Draft | null> {
    const draft: Draft = { events: [], tokenBytes: 0, removing: null };
    let until = performance.now() + SLICE_MS;
    while (!this.#isFull(draft)) {
      if (this.#scan === null || this.#fellOut()) return null;
      const { walk, seq } = this.#scan;
      const found = walk.step();
      if (found === null) {
        this.#endScan();
        this.#cursor = seq;
        break;
      }
      if (found !== "more") this.#addStored(draft, seq, found);
      if (performance.now() < until) continue;
      await nextTurn();
      until = performance.now() + SLICE_MS;
    }
    return draft;
  }

  /** Entries of the log; null if it was overrun meanwhile. */
  async #follow(): Promise<Draft | null> {
    const draft: Draft = { events: [], tokenBytes: 0, removing: null };
    const until = performance.now() + SLICE_MS;
    while (this.#entry < this.#events.committed) {
      const end = Math.min(this.#events.committed, this.#entry + ENTRIES_A_LOOK);
      while (this.#entry < end) {
        const { tag, stored, seq } = this.#ring.get(this.#entry);
        if (tag === this.#tag && !this.#take(draft, seq, stored)) return draft;
        this.#cursor = seq;
        this.#entry++;
      }
      if (performance.now() < until) continue;
      if (draft.events.length > 0) return draft;
      await nextTurn();
      return null;
    }
    return draft;
  }

  /** False if the batch is full. */
  #take(draft: Draft, seq: number, stored: boolean): boolean {
    const last = draft.events.at(-1);
    const { removing } = draft;
    if (!stored && last !== undefined && removing !== null && removing.length < REMOVED_HASHES_MAX) {
      removing.push(this.#ring.hashAt(this.#entry));
      draft.events[draft.events.length - 1] = { ...last, seq };
      return true;
    }
    if (this.#isFull(draft)) return false;
    if (stored) {
      const chunk = this.#events.readEntry(this.#entry);
      if (chunk !== null) this.#addStored(draft, seq, chunk);
      return true;
    }
    draft.removing = [this.#ring.hashAt(this.#entry)];
    draft.events.push({
      seq,
      kind: "removed",
      modelName: this.#modelName,
      blockHashes: draft.removing,
      parentBlockHash: null,
      tokenIds: NO_TOKENS,
    });
    return true;
  }

  /** Settles once everything that happened so far is in the journal, or the stream is over. */
  async #untilCommitted(): Promise<void> {
    while (!this.#closed && !this.#events.core.commit()) await this.#pause();
  }

  /** The journal cannot be written: it is asked again after a while. */
  #pause(): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#events.core.clock.after(1_000, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
  }

  #untilWoken(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

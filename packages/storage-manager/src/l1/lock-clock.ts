import type { Core } from "../core.ts";
import { Column } from "../state/columns.ts";
import type { Session } from "../state/records.ts";

/** Slots that one sweep looks at. */
const EXPIRY_BATCH_MAX = 8_192;
const BUCKET_MS = 1_000;

/**
 * Ends read locks by time: a lock lives `readTtlMs` after the last lock on its object. Slots stand in buckets of a
 * second by the time at which they are looked at; each slot in one.
 */
export class LockClock {
  readonly #core: Core;
  readonly #deadline = new Column(Float64Array);
  readonly #queued = new Column(Uint8Array);
  readonly #buckets = new Map<number, number[]>();
  #nextBucket = Number.NaN;

  constructor(core: Core) {
    this.#core = core;
  }

  /** The locks of a session were just taken. */
  started(session: Session): void {
    for (const entry of session.slots) if (entry !== 0) this.startedAt(entry - 1);
  }

  /** The locks on a slot were just taken, or found after a restart. */
  startedAt(slot: number): void {
    this.#deadline.set(slot, this.#core.now() + this.#core.options.readTtlMs);
    if (this.#queued.get(slot) === 0) this.#push(slot);
  }

  #push(slot: number): void {
    const bucket = Math.ceil(this.#deadline.get(slot) / BUCKET_MS);
    this.#queued.set(slot, 1);
    const slots = this.#buckets.get(bucket);
    if (slots === undefined) this.#buckets.set(bucket, [slot]);
    else slots.push(slot);
    if (!(this.#nextBucket <= bucket)) this.#nextBucket = bucket;
  }

  /** Ends what is due, a bounded number at a time. */
  sweep(): void {
    const now = this.#core.now();
    const expired: number[] = [];
    let looked = 0;
    while (this.#buckets.size > 0 && this.#nextBucket * BUCKET_MS <= now && looked < EXPIRY_BATCH_MAX) {
      const slots = this.#buckets.get(this.#nextBucket);
      if (slots === undefined || slots.length === 0) {
        this.#buckets.delete(this.#nextBucket++);
        continue;
      }
      const slot = slots.pop() as number;
      looked++;
      this.#queued.set(slot, 0);
      if (this.#core.state.slots.locks.get(slot) === 0) continue;
      if (this.#deadline.get(slot) <= now) expired.push(slot);
      else this.#push(slot);
    }
    if (this.#buckets.size === 0) this.#nextBucket = Number.NaN;
    if (expired.length > 0) this.#core.record({ type: "l1.read.expired", slots: expired });
  }
}

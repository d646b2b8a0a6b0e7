import type { Core } from "../core.ts";
import type { Session } from "../state/records.ts";
import { Column } from "../state/columns.ts";

/** Queue entries that one sweep looks at. */
const EXPIRY_BATCH_MAX = 8_192;

/**
 * Ends read locks by time: a lock lives `readTtlMs` after the last lock on its object. As all live equally long,
 * a queue in order of arrival is enough; a slot stands in it once.
 */
export class LockClock {
  readonly #core: Core;
  readonly #deadline = new Column(Float64Array);
  readonly #queued = new Column(Uint8Array);
  /** Slots, and beside each the deadline that it had when it was queued: never falling. */
  #queue: number[] = [];
  #due: number[] = [];
  #head = 0;

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
    this.#queued.set(slot, 1);
    this.#queue.push(slot);
    this.#due.push(this.#deadline.get(slot));
  }

  /** Ends what is due, a bounded number at a time. */
  sweep(): void {
    const now = this.#core.now();
    const expired: number[] = [];
    let looked = 0;
    for (; looked < EXPIRY_BATCH_MAX && this.#head < this.#queue.length; looked++) {
      if ((this.#due[this.#head] as number) > now) break;
      const slot = this.#queue[this.#head++] as number;
      this.#queued.set(slot, 0);
      if (this.#core.state.slots.locks.get(slot) === 0) continue;
      if (this.#deadline.get(slot) <= now) expired.push(slot);
      else this.#push(slot);
    }
    if (this.#head > 4_096 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#due = this.#due.slice(this.#head);
      this.#head = 0;
    }
    if (expired.length > 0) this.#core.record({ type: "l1.read.expired", slots: expired });
  }
}

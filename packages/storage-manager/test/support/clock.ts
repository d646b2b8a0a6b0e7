import type { GateClock } from "../../src/l2-gate/index.ts";
import type { Clock } from "../../src/options.ts";

interface Timer {
  readonly at: number;
  readonly callback: () => void;
}

/** Time that passes only when told to, for the storage manager and for its gates. */
export class ManualClock implements Clock, GateClock {
  #now = 1_000_000;
  readonly #timers = new Set<Timer>();

  now(): number {
    return this.#now;
  }

  /** Timers that are set. */
  get waiting(): number {
    return this.#timers.size;
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.#now + ms, callback };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  setTimer(ms: number, callback: () => void): { cancel(): void } {
    return { cancel: this.after(ms, callback) };
  }

  /** Jumps ahead at once: each timer that is due fires once, in order, and sees the new time. */
  jump(ms: number): void {
    this.#now += ms;
    const due = [...this.#timers].filter(({ at }) => at <= this.#now).sort((a, b) => a.at - b.at);
    for (const timer of due) {
      if (!this.#timers.delete(timer)) continue;
      timer.callback();
    }
  }

  /** No timer ever fires again: the process that set them is gone. */
  stop(): void {
    this.#timers.clear();
  }
}

/** Lets everything run that waits for no timer. */
export function immediate(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

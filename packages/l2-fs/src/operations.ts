import { abortedError, Operations } from "@cache/adapter-kit";
import { Stop } from "./stop.ts";

/** Calls to the filesystem that one adapter has under way at a time: as many as libuv has threads (measured). */
const CALLS_AT_A_TIME = 4;

/** A bounded number of permits, given out in order of arrival. */
class Permits {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  /** False once the work is to end: who still waits then gets none. */
  async acquire(stop: Stop): Promise<boolean> {
    if (stop.isSet) return false;
    if (this.#free > 0) {
      this.#free--;
      return true;
    }
    return new Promise((resolve) => {
      const take = (): void => {
        forget();
        resolve(true);
      };
      const forget = stop.onSet(() => {
        this.#waiting.splice(this.#waiting.indexOf(take), 1);
        resolve(false);
      });
      this.#waiting.push(take);
    });
  }

  release(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
}

/** Waits for all; then throws what the first that failed threw. */
export async function allSettled(work: readonly Promise<unknown>[]): Promise<void> {
  for (const settled of await Promise.allSettled(work)) {
    if (settled.status === "rejected") throw settled.reason;
  }
}

/** The operations of one adapter, which end early through a {@link Stop}: threads read it too. Four calls at a time. */
export class FileOperations extends Operations {
  readonly #permits = new Permits(CALLS_AT_A_TIME);

  constructor() {
    super("fs");
  }

  /** Throws `ABORTED` if the work is to end. */
  assertNotStopped(stop: Stop): void {
    if (stop.isSet) throw abortedError();
  }

  /** Runs one operation, told to stop when it is aborted and when the adapter closes; `end` waits for it. */
  runStoppable<T>(signal: AbortSignal, work: (stop: Stop) => Promise<T>): Promise<T> {
    return this.run(signal, (ended) => {
      const stop = new Stop();
      ended.addEventListener("abort", () => stop.set(), { once: true });
      return work(stop);
    });
  }

  /**
   * Does `work(i)` for 0 ≤ i < count, four at a time over all operations. Begins no further one once stopped.
   * Settles when all that began have, also when one throws.
   */
  async forEach(count: number, stop: Stop, work: (i: number) => Promise<void>): Promise<void> {
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < count) {
        const i = next++;
        if (!(await this.#permits.acquire(stop))) return;
        try {
          if (!stop.isSet) await work(i);
        } finally {
          this.#permits.release();
        }
      }
    };
    await allSettled(Array.from({ length: Math.min(CALLS_AT_A_TIME, count) }, lane));
  }
}

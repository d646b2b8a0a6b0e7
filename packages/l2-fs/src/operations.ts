import { abortedError } from "@cache/adapter-kit";
import { type CacheErrorCode, CacheError } from "@cache/contracts";
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

/** The operations of one adapter: not before open, not after close; four calls at a time; errors counted. */
export class Operations {
  #state: "new" | "open" | "closed" = "new";
  readonly #inFlight = new Set<Stop>();
  #idle: (() => void) | null = null;
  #failedInARow = 0;
  readonly #permits = new Permits(CALLS_AT_A_TIME);
  readonly #errors = new Map<CacheErrorCode, number>();

  /** True between {@link begin} and {@link end}. */
  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** True unless the last operations all failed for the backend's sake. */
  get isHealthy(): boolean {
    return this.isOpen && this.#failedInARow < 3;
  }

  /** Operations that have not settled. */
  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Errors since open, by code. */
  get errorCounts(): Record<string, number> {
    return Object.fromEntries(this.#errors);
  }

  /** From now on operations run. */
  begin(): void {
    if (this.#state === "new") this.#state = "open";
  }

  /** From now on operations are refused; settles when those in flight have. Called once. */
  async end(): Promise<void> {
    this.#state = "closed";
    for (const stop of this.#inFlight) stop.set();
    if (this.#inFlight.size > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
  }

  /**
   * Counts an error and gives it back; codes of the backend's make the adapter unhealthy if nothing succeeds
   * between.
   */
  countError(error: CacheError): CacheError {
    this.#errors.set(error.code, (this.#errors.get(error.code) ?? 0) + 1);
    const refusedByFilesystem = error.code === "BACKEND_REFUSED" && "errno" in error.details;
    if (error.code === "BACKEND_UNAVAILABLE" || refusedByFilesystem) this.#failedInARow++;
    return error;
  }

  /** Notes that the backend answered. */
  countSuccess(): void {
    this.#failedInARow = 0;
  }

  /** Throws `ADAPTER_CLOSED` unless operations may run. */
  assertOpen(): void {
    if (this.#state === "open") return;
    throw new CacheError(
      "ADAPTER_CLOSED",
      this.#state === "new"
        ? "the fs adapter was used before open; open it first"
        : "the fs adapter is closed",
    );
  }

  /** Throws `ABORTED` if the work is to end. */
  assertNotStopped(stop: Stop): void {
    if (stop.isSet) throw abortedError();
  }

  /** Runs one operation, told to stop when it is aborted and when the adapter closes; `end` waits for it. */
  async run<T>(signal: AbortSignal, work: (stop: Stop) => Promise<T>): Promise<T> {
    this.assertOpen();
    if (signal.aborted) throw abortedError();
    const stop = new Stop();
    const onAbort = (): void => stop.set();
    signal.addEventListener("abort", onAbort);
    this.#inFlight.add(stop);
    try {
      return await work(stop);
    } finally {
      signal.removeEventListener("abort", onAbort);
      this.#inFlight.delete(stop);
      if (this.#inFlight.size === 0) this.#idle?.();
    }
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

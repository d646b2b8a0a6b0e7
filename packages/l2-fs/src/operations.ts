import { type CacheErrorCode, CacheError } from "@cache/contracts";

/** Calls to the filesystem that one adapter has under way at a time: as many as libuv has threads (measured). */
const CALLS_AT_A_TIME = 4;

/** A bounded number of permits, given out in order of arrival. */
class Permits {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  async acquire(): Promise<void> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  release(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
}

/** Settles as `work` does, or with `ABORTED` as soon as the signal fires: `work` may never settle. */
export async function orAborted(work: Promise<void>, signal: AbortSignal, message: string): Promise<void> {
  let onAbort: () => void = () => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new CacheError("ABORTED", message));
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** The operations of one adapter: not before open, not after close; four calls at a time; errors counted. */
export class Operations {
  #state: "new" | "open" | "closed" = "new";
  #inFlight = 0;
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
    return this.#inFlight;
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
    if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
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

  /** True if work under this signal should end early: aborted, or the adapter closes. */
  isStopped(signal: AbortSignal): boolean {
    return signal.aborted || this.#state === "closed";
  }

  /** Throws `ABORTED` if {@link isStopped}. */
  assertNotStopped(signal: AbortSignal): void {
    if (this.isStopped(signal)) throw this.aborted();
  }

  /** The error of work that ended early. */
  aborted(): CacheError {
    return new CacheError(
      "ABORTED",
      "the operation was ended early: its deadline passed, or the adapter closes",
    );
  }

  /** Runs one operation; `end` waits for it. */
  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    this.assertOpen();
    if (signal.aborted) throw this.aborted();
    this.#inFlight++;
    try {
      return await work();
    } finally {
      if (--this.#inFlight === 0) this.#idle?.();
    }
  }

  /**
   * Does `work(i)` for 0 ≤ i < count, four at a time over all operations. Begins no further one once stopped.
   * Settles when all that began have, also when one throws.
   */
  async forEach(count: number, signal: AbortSignal, work: (i: number) => Promise<void>): Promise<void> {
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < count && !this.isStopped(signal)) {
        const i = next++;
        await this.#permits.acquire();
        try {
          if (!this.isStopped(signal)) await work(i);
        } finally {
          this.#permits.release();
        }
      }
    };
    const lanes = Array.from({ length: Math.min(CALLS_AT_A_TIME, count) }, lane);
    for (const settled of await Promise.allSettled(lanes)) {
      if (settled.status === "rejected") throw settled.reason;
    }
  }
}

import { setMaxListeners } from "node:events";
import { type AdapterLog, CacheError, type CacheErrorCode } from "@cache/contracts";
import { abortedError } from "./early-end.ts";

/** Errors in a row after which the adapter calls itself unhealthy. */
const FAILURES_MAX = 3;
const BACKEND_CODES: ReadonlySet<CacheErrorCode> = new Set(["BACKEND_UNAVAILABLE", "BACKEND_REFUSED"]);

/** The operations of one adapter: not before open, not after close; ended early by close; errors counted. */
export class Operations {
  readonly #type: string;
  #state: "new" | "open" | "closed" = "new";
  #inFlight = 0;
  #idle: (() => void) | null = null;
  #failedInARow = 0;
  readonly #closing = new AbortController();
  readonly #errors = new Map<CacheErrorCode, number>();

  /** @param type the adapter's, for messages. */
  constructor(type: string) {
    this.#type = type;
    setMaxListeners(0, this.closing);
  }

  /** True between {@link begin} and {@link end}. */
  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** True unless the last calls all failed for the backend's sake. */
  get isHealthy(): boolean {
    return this.isOpen && this.#failedInARow < FAILURES_MAX;
  }

  /** Operations that have not settled. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Fires when the adapter closes. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /** Errors since open, by code. */
  get errorCounts(): Record<string, number> {
    return Object.fromEntries(this.#errors);
  }

  /** From now on operations run. */
  begin(): void {
    if (this.#state === "new") this.#state = "open";
  }

  /** From now on operations are refused; those in flight end early. Settles when they have. Called once. */
  async end(): Promise<void> {
    this.#state = "closed";
    this.#closing.abort();
    if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
  }

  /** Counts an error and gives it back. */
  countError(error: CacheError): CacheError {
    this.#errors.set(error.code, (this.#errors.get(error.code) ?? 0) + 1);
    if (BACKEND_CODES.has(error.code)) this.#failedInARow++;
    return error;
  }

  /** Notes that the backend answered. */
  countSuccess(): void {
    this.#failedInARow = 0;
  }

  /**
   * Counts what a batch came to, of which some keys may have failed.
   *
   * @param answered keys on which the backend answered.
   * @throws CacheError the first error if none did; else what failed counts as missing, and the log says so.
   */
  settle(errors: readonly CacheError[], answered: number, log: AdapterLog): void {
    const [first] = errors;
    if (answered > 0) this.countSuccess();
    for (const error of errors) this.countError(error);
    if (first === undefined) return;
    if (answered === 0) throw first;
    log.warn("some objects could not be reached and count as missing", {
      failed: errors.length,
      first: first.message,
    });
  }

  /** @throws CacheError `ADAPTER_CLOSED` after close; before open too, unless `orNew`. */
  assertOpen(orNew = false): void {
    if (this.#state === "open" || (orNew && this.#state === "new")) return;
    const what = this.#state === "new" ? "was used before open; open it first" : "is closed; make a new one";
    throw new CacheError("ADAPTER_CLOSED", `the ${this.#type} adapter ${what}`);
  }

  /** Runs one operation under its caller's signal and the adapter's own; `end` waits for it. */
  async run<T>(signal: AbortSignal, work: (ended: AbortSignal) => Promise<T>): Promise<T> {
    this.assertOpen();
    if (signal.aborted) throw abortedError();
    this.#inFlight++;
    const ended = new AbortController();
    setMaxListeners(0, ended.signal); // every call of the operation may listen
    const end = (): void => ended.abort();
    signal.addEventListener("abort", end, { once: true });
    this.closing.addEventListener("abort", end, { once: true });
    try {
      return await work(ended.signal);
    } finally {
      signal.removeEventListener("abort", end);
      this.closing.removeEventListener("abort", end);
      if (--this.#inFlight === 0) this.#idle?.();
    }
  }
}

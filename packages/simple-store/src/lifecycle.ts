import { setMaxListeners } from "node:events";
import { CacheError, type CacheErrorCode } from "@cache/contracts";
import type { StoreErrors } from "./store-errors.ts";

/** The life of one adapter: nothing before open or after close; operations and errors are counted. */
export class Lifecycle {
  readonly #type: string;
  readonly #errors: StoreErrors;
  readonly #closing = new AbortController();
  readonly #counts = new Map<CacheErrorCode, number>();
  #state: "new" | "open" | "closed" = "new";
  #inFlight = 0;
  #failedInARow = 0;
  #idle: (() => void) | null = null;

  constructor(type: string, errors: StoreErrors) {
    this.#type = type;
    this.#errors = errors;
    setMaxListeners(0, this.closing);
  }

  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** True unless the last three answers of the store were failures of the store itself. */
  get isHealthy(): boolean {
    return this.isOpen && this.#failedInARow < 3;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Fires when the adapter closes. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /** Errors since open, by code. */
  get errorCounts(): Record<string, number> {
    return Object.fromEntries(this.#counts);
  }

  begin(): void {
    if (this.#state === "new") this.#state = "open";
  }

  /** Refuses operations from now on, ends those in flight early, and settles when they have. Called once. */
  async end(): Promise<void> {
    this.#state = "closed";
    this.#closing.abort();
    if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
  }

  /** @throws CacheError `ADAPTER_CLOSED` after close; before open too, unless `orNew`. */
  assertOpen(orNew = false): void {
    if (this.#state === "open" || (orNew && this.#state === "new")) return;
    throw new CacheError(
      "ADAPTER_CLOSED",
      this.#state === "new"
        ? `the ${this.#type} adapter was used before open; open it first`
        : `the ${this.#type} adapter is closed; make a new one`,
    );
  }

  /** Counts an error and gives it back. */
  countError(error: CacheError): CacheError {
    this.#counts.set(error.code, (this.#counts.get(error.code) ?? 0) + 1);
    if (error.code === "BACKEND_UNAVAILABLE" || error.code === "BACKEND_REFUSED") this.#failedInARow++;
    return error;
  }

  /** Notes that the store answered. */
  countSuccess(): void {
    this.#failedInARow = 0;
  }

  /** Runs one operation; its signal fires at the caller's abort and when the adapter closes. */
  async run<T>(signal: AbortSignal, work: (ended: AbortSignal) => Promise<T>): Promise<T> {
    this.assertOpen();
    if (signal.aborted) throw this.#errors.aborted();
    const controller = new AbortController();
    setMaxListeners(0, controller.signal); // every call of the operation listens
    const end = (): void => controller.abort();
    signal.addEventListener("abort", end, { once: true });
    this.closing.addEventListener("abort", end, { once: true });
    this.#inFlight++;
    try {
      return await work(controller.signal);
    } finally {
      signal.removeEventListener("abort", end);
      this.closing.removeEventListener("abort", end);
      if (--this.#inFlight === 0) this.#idle?.();
    }
  }
}

import type { SimpleStore } from "./store.ts";
import { StoreCalls } from "./store-calls.ts";
import type { StoreErrors } from "./store-errors.ts";

/** A name that no key has. */
const NOBODYS_NAME = "cache-engine-ping";

/** Asks the store for a sign of life. It waits for no permit, so that it tells when all calls are stuck. */
export class Heartbeat {
  readonly #store: SimpleStore;
  readonly #prefix: string;
  readonly #calls: StoreCalls;
  #timer: NodeJS.Timeout | null = null;
  #pinging = false;
  #failure: string | null = null;
  #latencyMs: number | null = null;

  constructor(store: SimpleStore, prefix: string, timeoutMs: number, errors: StoreErrors) {
    this.#store = store;
    this.#prefix = prefix;
    this.#calls = new StoreCalls(1, timeoutMs, errors);
  }

  /** Why the last ping failed; null if it did not. */
  get failure(): string | null {
    return this.#failure;
  }

  /** How long the last ping took, in milliseconds. */
  get latencyMs(): number | null {
    return this.#latencyMs;
  }

  /** One ping. @throws CacheError as `StoreCalls.call` does. */
  async beat(signal: AbortSignal): Promise<void> {
    const store = this.#store;
    const began = performance.now();
    await this.#calls.call({
      method: store.ping === undefined ? "exists" : "ping",
      holds: [],
      lendsMemory: false,
      signal,
      run: async (ended) => {
        if (store.ping !== undefined) await store.ping(ended);
        else await store.exists(this.#prefix + NOBODYS_NAME, ended);
      },
    });
    this.#latencyMs = performance.now() - began;
  }

  /** Pings now and then until the signal fires. */
  start(intervalMs: number, signal: AbortSignal): void {
    if (intervalMs === 0 || signal.aborted) return;
    this.#timer = setInterval(() => {
      if (this.#pinging) return;
      this.#pinging = true;
      this.beat(signal)
        .then(
          () => (this.#failure = null),
          (error: Error) => (this.#failure = error.message),
        )
        .finally(() => (this.#pinging = false));
    }, intervalMs);
    this.#timer.unref();
    signal.addEventListener("abort", () => clearInterval(this.#timer ?? undefined), { once: true });
  }

  /** True when no ping is under way any more, false if that takes longer than `mostMs`. */
  whenIdle(mostMs: number): Promise<boolean> {
    return this.#calls.whenIdle(mostMs);
  }
}

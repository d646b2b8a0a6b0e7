import { abortedError } from "@cache/adapter-kit";
import type { Hold } from "./name-locks.ts";
import type { StoreErrors } from "./store-errors.ts";

/** One call of a store method. */
export interface StoreCall<T> {
  /** The method, for messages. */
  readonly method: string;
  /** Ends the call early. */
  readonly signal: AbortSignal;
  /** Kept until the call has really settled. */
  readonly holds: readonly Hold[];
  /**
   * The store touches memory of the engine: the answer waits until it has settled. Else the caller gets `ABORTED` at
   * once, and a call that goes on keeps its permit and its holds.
   */
  readonly lendsMemory: boolean;
  /** Whatever it does after `signal` (its own, which ends at the time-out too) has fired must touch no buffer. */
  run(signal: AbortSignal): Promise<T>;
}

/** Runs the calls of a store: so many at a time, each with a time-out. */
export class StoreCalls {
  readonly #concurrency: number;
  readonly #timeoutMs: number;
  readonly #errors: StoreErrors;
  readonly #waiting: (() => void)[] = [];
  readonly #idle: (() => void)[] = [];
  #running = 0;
  #late = 0;

  constructor(concurrency: number, timeoutMs: number, errors: StoreErrors) {
    this.#concurrency = concurrency;
    this.#timeoutMs = timeoutMs;
    this.#errors = errors;
  }

  /** Calls that have not settled. */
  get running(): number {
    return this.#running;
  }

  /** Those of them whose caller has gone on. */
  get late(): number {
    return this.#late;
  }

  /** Calls that wait for their turn. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** True when no call is running any more, false if that takes longer than `mostMs`. */
  whenIdle(mostMs: number): Promise<boolean> {
    if (this.#running === 0) return Promise.resolve(true);
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), mostMs);
      this.#idle.push(() => {
        clearTimeout(timer);
        resolve(true);
      });
    });
  }

  /**
   * @throws CacheError `ABORTED`; `BACKEND_UNAVAILABLE` at the time-out; or what the method threw, as
   *   {@link StoreErrors.wrap} turns it.
   */
  async call<T>(call: StoreCall<T>): Promise<T> {
    await this.#permit(call.signal);
    if (call.signal.aborted) {
      this.#release();
      throw abortedError();
    }
    const controller = new AbortController();
    let timedOut = false;
    const end = (): void => controller.abort();
    const timer = setTimeout(() => {
      timedOut = true;
      end();
    }, this.#timeoutMs);
    call.signal.addEventListener("abort", end, { once: true });
    const working = (async () => call.run(controller.signal))();
    this.#track(working, call.holds);
    let answered = false;
    try {
      const answer = await (call.lendsMemory ? working : orAborted(working, controller.signal));
      answered = true;
      return answer;
    } catch (error) {
      if (timedOut) throw this.#errors.timedOut(call.method, this.#timeoutMs);
      if (call.signal.aborted) throw abortedError();
      answered = true;
      throw this.#errors.wrap(error, call.method);
    } finally {
      clearTimeout(timer);
      call.signal.removeEventListener("abort", end);
      if (!answered && !call.lendsMemory) this.#countLate(working);
    }
  }

  #countLate(working: Promise<unknown>): void {
    this.#late++;
    const settled = (): void => void this.#late--;
    working.then(settled, settled);
  }

  #track(working: Promise<unknown>, holds: readonly Hold[]): void {
    for (const hold of holds) hold.track(working);
    const settled = (): void => this.#release();
    working.then(settled, settled);
  }

  #release(): void {
    const next = this.#waiting.shift();
    if (next !== undefined) next();
    else if (--this.#running === 0) for (const idle of this.#idle.splice(0)) idle();
  }

  #permit(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.reject(abortedError());
    if (this.#running < this.#concurrency) {
      this.#running++;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(begin), 1);
        reject(abortedError());
      };
      const begin = (): void => {
        signal.removeEventListener("abort", onAbort);
        resolve();
      };
      signal.addEventListener("abort", onAbort, { once: true });
      this.#waiting.push(begin);
    });
  }
}

/** Settles as `working` does, or rejects as soon as the signal fires. */
async function orAborted<T>(working: Promise<T>, signal: AbortSignal): Promise<T> {
  let onAbort: () => void = () => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new Error("aborted"));
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([working, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

import { CacheError } from "@cache/contracts";

/** The operations that a test can make fail or hang. */
export type MockOperation = "open" | "store" | "lookup" | "load" | "delete" | "listKeys" | "quarantine";

/** How {@link Faults.hang} treats the caller's abort. */
export interface HangOptions {
  /** True: not even abort or close ends the hang, as with a transport that never answers. Default false. */
  readonly ignoreAbort?: boolean;
}

interface Hang {
  readonly ignoreAbort: boolean;
  readonly released: Promise<void>;
}

/** What is programmed to go wrong. */
export class Faults {
  readonly #failures = new Map<MockOperation, CacheError[]>();
  readonly #hangs = new Map<MockOperation, Hang>();

  /** The next `count` calls of the operation reject with `error`. */
  failNext(operation: MockOperation, count = 1, error?: CacheError): void {
    if (!Number.isInteger(count) || count < 0 || count > 1_000_000) {
      throw new TypeError(`failNext: count ${count} is not in 0..1000000`);
    }
    const planned =
      error ?? new CacheError("BACKEND_UNAVAILABLE", `mock: ${operation} was told to fail; try again`);
    const queue = this.#failures.get(operation) ?? [];
    for (let i = 0; i < count; i++) queue.push(planned);
    this.#failures.set(operation, queue);
  }

  /** Calls of the operation from now on wait until the returned function is called. */
  hang(operation: MockOperation, options: HangOptions = {}): () => void {
    let release = (): void => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    const hang: Hang = { ignoreAbort: options.ignoreAbort ?? false, released };
    this.#hangs.set(operation, hang);
    return () => {
      if (this.#hangs.get(operation) === hang) this.#hangs.delete(operation);
      release();
    };
  }

  /** Waits out a hang, then throws the planned failure, if any. */
  async before(operation: MockOperation, signal: AbortSignal): Promise<void> {
    const hang = this.#hangs.get(operation);
    if (hang !== undefined) await (hang.ignoreAbort ? hang.released : releasedOrAborted(hang, signal));
    const error = this.#failures.get(operation)?.shift();
    if (error !== undefined) throw error;
  }
}

function releasedOrAborted(hang: Hang, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = (): void => {
      signal.removeEventListener("abort", done);
      resolve();
    };
    signal.addEventListener("abort", done, { once: true });
    void hang.released.then(done);
  });
}

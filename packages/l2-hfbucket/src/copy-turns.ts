import { CacheError } from "@cache/contracts";

/** Bytes that are copied in one turn of the event loop. */
const SLICE_BYTES = 1024 * 1024;

/** Copies large memory without holding up the event loop: one slice a turn, whoever asks. */
export class CopyTurns {
  #last: Promise<unknown> = Promise.resolve();

  /** A copy of `source`, which is not touched after this has settled. @throws CacheError `ABORTED`. */
  copy(source: Uint8Array, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const work = this.#last.then(() => copySlices(source, signal));
    this.#last = work.catch(() => undefined);
    return work;
  }
}

async function copySlices(source: Uint8Array, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
  const copy = new Uint8Array(source.length);
  for (let at = 0; at < source.length; at += SLICE_BYTES) {
    if (signal.aborted) throw new CacheError("ABORTED", "the store was ended early: its deadline passed");
    copy.set(source.subarray(at, at + SLICE_BYTES), at);
    await new Promise((resolve) => setImmediate(resolve));
  }
  return copy;
}

/** So many at a time, in order of arrival. */
export class Turns {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    this.#free = most;
  }

  /** Waits for a turn; ends it with what it gives. @throws CacheError `ABORTED`. */
  async begin(signal: AbortSignal): Promise<() => void> {
    const aborted = (): CacheError =>
      new CacheError("ABORTED", "the store was ended early: its deadline passed before its turn");
    if (signal.aborted) throw aborted();
    if (this.#free > 0) this.#free--;
    else {
      await new Promise<void>((resolve, reject) => {
        const onAbort = (): void => {
          this.#waiting.splice(this.#waiting.indexOf(go), 1);
          reject(aborted());
        };
        const go = (): void => {
          signal.removeEventListener("abort", onAbort);
          resolve();
        };
        signal.addEventListener("abort", onAbort, { once: true });
        this.#waiting.push(go);
      });
    }
    return () => {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    };
  }
}

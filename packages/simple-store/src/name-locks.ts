import { LookupLocks } from "@cache/adapter-kit";

/** Reads of a name exclude changes of it; changes exclude everything. */
export type HoldKind = "read" | "change";

interface Waiter {
  readonly kind: HoldKind;
  readonly grant: () => void;
}

interface NameState {
  readers: number;
  changing: boolean;
  readonly queue: Waiter[];
}

/** The right to read or change a name, until it is released and every tracked call has settled. */
export class Hold {
  readonly #end: () => void;
  #tracked = 0;
  #released = false;
  #ended = false;

  constructor(end: () => void) {
    this.#end = end;
  }

  #maybeEnd(): void {
    if (!this.#released || this.#tracked > 0 || this.#ended) return;
    this.#ended = true;
    this.#end();
  }

  /** Keeps the hold until the call has settled, even if its answer is not waited for. */
  track(call: Promise<unknown>): void {
    this.#tracked++;
    const settled = (): void => {
      this.#tracked--;
      this.#maybeEnd();
    };
    call.then(settled, settled);
  }

  release(): void {
    this.#released = true;
    this.#maybeEnd();
  }
}

/** Who may read or change which object now, in order of arrival; and the lock references of lookups. */
export class NameLocks extends LookupLocks {
  readonly #names = new Map<string, NameState>();

  /** Names that are being read or changed, or waited for. */
  get heldCount(): number {
    return this.#names.size;
  }

  /** Waits for the right; null if the signal fires first. */
  acquire(name: string, kind: HoldKind, signal: AbortSignal): Promise<Hold | null> {
    if (signal.aborted) return Promise.resolve(null);
    let state = this.#names.get(name);
    if (state === undefined) {
      state = { readers: 0, changing: false, queue: [] };
      this.#names.set(name, state);
    }
    const { queue } = state;
    const held = state;
    return new Promise((resolve) => {
      const onAbort = (): void => {
        queue.splice(queue.indexOf(waiter), 1);
        resolve(null);
        this.#serve(name, held);
      };
      const waiter: Waiter = {
        kind,
        grant: () => {
          signal.removeEventListener("abort", onAbort);
          resolve(new Hold(() => this.#end(name, held, kind)));
        },
      };
      signal.addEventListener("abort", onAbort, { once: true });
      queue.push(waiter);
      this.#serve(name, held);
    });
  }

  /**
   * Waits for all names, in one order for everybody, so that nobody waits in a circle. Null if the signal fires first;
   * nothing is held then.
   */
  async acquireAll(names: readonly string[], kind: HoldKind, signal: AbortSignal): Promise<Hold[] | null> {
    const holds: Hold[] = [];
    for (const name of names.toSorted()) {
      const hold = await this.acquire(name, kind, signal);
      if (hold === null) {
        for (const earlier of holds) earlier.release();
        return null;
      }
      holds.push(hold);
    }
    return holds;
  }

  #end(name: string, state: NameState, kind: HoldKind): void {
    if (kind === "read") state.readers--;
    else state.changing = false;
    this.#serve(name, state);
  }

  #serve(name: string, state: NameState): void {
    for (let first = state.queue[0]; first !== undefined; first = state.queue[0]) {
      if (state.changing || (first.kind === "change" && state.readers > 0)) return;
      state.queue.shift();
      if (first.kind === "read") state.readers++;
      else state.changing = true;
      first.grant();
    }
    if (state.readers === 0 && !state.changing) this.#names.delete(name);
  }
}

/** Tells one operation's work to end early, also in other threads: a cell that becomes 1, once and for all. */
export class Stop {
  /** Shared; 0 until {@link set}. */
  readonly cell: Int32Array = new Int32Array(new SharedArrayBuffer(4));
  readonly #listeners = new Set<() => void>();

  /** True once the work is to end. */
  get isSet(): boolean {
    return this.cell[0] !== 0;
  }

  /** Ends the work between two calls; those who wait in a queue leave it. */
  set(): void {
    Atomics.store(this.cell, 0, 1);
    for (const listener of this.#listeners) listener();
    this.#listeners.clear();
  }

  /** Calls `listener` once when {@link set} is called; the answer takes it back. */
  onSet(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

import { LookupLocks } from "./lookup-locks.ts";

/** Who may change or delete which key: one change of a key at a time, no delete while a lookup lock is held. */
export class KeyGuard extends LookupLocks {
  readonly #changes = new Map<string, Promise<void>>();
  readonly #deletes = new Map<string, Promise<void>>();

  /** Takes a lock reference of each key, in a turn in which none of them is being deleted. */
  async lockAll(names: readonly string[]): Promise<void> {
    for (;;) {
      const busy = names.find((name) => this.#deletes.has(name));
      if (busy === undefined) break;
      await this.#deletes.get(busy); // meanwhile the delete of another may begin
    }
    for (const name of names) this.lock(name);
  }

  /**
   * Runs `work` as the only one that changes these keys, after those that came before. Batches queue up for all their
   * keys in one step, so that two of them never wait for each other.
   */
  async exclusively<T>(
    kind: "store" | "delete",
    names: readonly string[],
    work: () => Promise<T>,
  ): Promise<T> {
    const own = new Set(names);
    const before = [...own].flatMap((name) => this.#changes.get(name) ?? []);
    let done: () => void = () => undefined;
    const settled = new Promise<void>((resolve) => (done = resolve));
    for (const name of own) {
      this.#changes.set(name, settled);
      if (kind === "delete") this.#deletes.set(name, settled);
    }
    try {
      if (before.length > 0) await Promise.all(before);
      return await work();
    } finally {
      for (const name of own) {
        if (this.#changes.get(name) === settled) this.#changes.delete(name);
        if (this.#deletes.get(name) === settled) this.#deletes.delete(name);
      }
      done();
    }
  }
}

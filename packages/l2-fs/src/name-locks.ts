import { LookupLocks } from "@cache/adapter-kit";

/** Who may change or delete which file: one change of a name at a time, no delete while a lookup lock is held. */
export class NameLocks extends LookupLocks {
  readonly #changes = new Map<string, Promise<void>>();

  /** Waits while somebody stores, deletes or quarantines this name. */
  async whenUnchanging(name: string): Promise<void> {
    for (let last = this.#changes.get(name); last !== undefined; last = this.#changes.get(name)) await last;
  }

  /**
   * Takes a lock reference of each name, of those that somebody changes after that. Null if that was nobody, and all
   * have been taken.
   */
  lockAll(names: readonly string[]): Promise<unknown> | null {
    const waits: Promise<void>[] = [];
    for (const name of names) {
      if (this.#changes.has(name)) waits.push(this.whenUnchanging(name).then(() => this.lock(name)));
      else this.lock(name);
    }
    return waits.length === 0 ? null : Promise.all(waits);
  }

  /**
   * Runs `work` as the only one that changes these names, after those that came before. All names are taken at once,
   * so two that want the same ones never wait for each other.
   */
  async exclusively<T>(names: readonly string[], work: () => Promise<T>): Promise<T> {
    const before = names.map((name) => this.#changes.get(name)).filter((change) => change !== undefined);
    const working = before.length === 0 ? work() : Promise.all(before).then(work);
    const settled = working.then(
      () => undefined,
      () => undefined,
    );
    for (const name of names) this.#changes.set(name, settled);
    try {
      return await working;
    } finally {
      for (const name of names) if (this.#changes.get(name) === settled) this.#changes.delete(name);
    }
  }
}

/** Who may change or delete which file: one change of a name at a time, no delete while a lookup lock is held. */
export class NameLocks {
  readonly #changes = new Map<string, Promise<void>>();
  readonly #locks = new Map<string, number>();

  /** Number of names with a lock. */
  get lockedCount(): number {
    return this.#locks.size;
  }

  /** True if a lookup holds a lock on this name. */
  isLocked(name: string): boolean {
    return this.#locks.has(name);
  }

  /** Takes one lock reference. */
  lock(name: string): void {
    this.#locks.set(name, (this.#locks.get(name) ?? 0) + 1);
  }

  /** Drops one lock reference; nothing happens if there is none. */
  unlock(name: string): void {
    const count = this.#locks.get(name) ?? 0;
    if (count > 1) this.#locks.set(name, count - 1);
    else this.#locks.delete(name);
  }

  /** Drops all lock references. */
  clear(): void {
    this.#locks.clear();
  }

  /** Waits while somebody stores, deletes or quarantines this name. */
  async whenUnchanging(name: string): Promise<void> {
    for (let last = this.#changes.get(name); last !== undefined; last = this.#changes.get(name)) await last;
  }

  /** Runs `work` as the only one that changes this name, after those that came before. */
  async exclusively<T>(name: string, work: () => Promise<T>): Promise<T> {
    const before = this.#changes.get(name);
    const working = before === undefined ? work() : before.then(work);
    const settled = working.then(
      () => undefined,
      () => undefined,
    );
    this.#changes.set(name, settled);
    try {
      return await working;
    } finally {
      if (this.#changes.get(name) === settled) this.#changes.delete(name);
    }
  }
}

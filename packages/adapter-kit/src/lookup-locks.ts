/** The lock references that lookups hold on names. */
export class LookupLocks {
  readonly #locks = new Map<string, number>();

  /** Names with a lock reference. */
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
}

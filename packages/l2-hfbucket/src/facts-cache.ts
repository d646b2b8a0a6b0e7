import type { ObjectFacts } from "./protocol.ts";

/** What the Hub said of a path, null for "not there"; and until when that is believed. */
interface Entry {
  readonly facts: ObjectFacts | null;
  /** Of `performance.now()`. */
  readonly until: number;
}

const ENTRIES_MAX = 16_384;

/** What the Hub said of objects, for a time: the newest 16,384. */
export class FactsCache {
  readonly #entries = new Map<string, Entry>();
  readonly #ttlMs: number;

  constructor(ttlMs: number) {
    this.#ttlMs = ttlMs;
  }

  get size(): number {
    return this.#entries.size;
  }

  set(path: string, facts: ObjectFacts | null): void {
    this.#entries.delete(path);
    this.#entries.set(path, { facts, until: performance.now() + this.#ttlMs });
    if (this.#entries.size <= ENTRIES_MAX) return;
    for (const oldest of this.#entries.keys()) {
      this.#entries.delete(oldest);
      return;
    }
  }

  forget(path: string): void {
    this.#entries.delete(path);
  }

  /** What is still believed; undefined if nothing is. */
  fresh(path: string): ObjectFacts | null | undefined {
    const entry = this.#entries.get(path);
    return entry !== undefined && entry.until > performance.now() ? entry.facts : undefined;
  }

  /** What was said last, however long ago. */
  last(path: string): ObjectFacts | null | undefined {
    return this.#entries.get(path)?.facts;
  }
}

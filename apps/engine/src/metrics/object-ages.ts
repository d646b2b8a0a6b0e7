import type { StorageManager } from "@cache/storage-manager";
import { Histogram } from "./series.ts";

/** LMCache's bounds, in seconds. */
const AGE_BOUNDS = [1, 5, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400];
/** An object that comes back later than this after its eviction is not connected with it, in seconds. */
const RETURN_SECONDS_MAX = 300;
/** One object in so many is watched for its return. */
const WATCH_ONE_IN = 100;
const WATCHED_MAX = 4_096;

/** How long objects live in L1, how long they lie unused, and how soon they come back. Times in seconds. */
export class ObjectAges {
  readonly lifetime = new Histogram(AGE_BOUNDS);
  readonly idleBeforeEviction = new Histogram(AGE_BOUNDS);
  readonly reuseGap = new Histogram(AGE_BOUNDS);
  readonly returnAfterEviction = new Histogram(AGE_BOUNDS.filter((bound) => bound < RETURN_SECONDS_MAX));
  readonly #state: StorageManager["core"]["state"];
  readonly #now: () => number;
  #born = new Float64Array(1_024);
  #used = new Float64Array(1_024);
  /** Name of a watched object in a slot. */
  readonly #watched = new Map<number, string>();
  /** When a watched object was evicted. */
  readonly #evicted = new Map<string, number>();

  /** @param now seconds, of any origin. */
  constructor(state: StorageManager["core"]["state"], now: () => number) {
    this.#state = state;
    this.#now = now;
  }

  #reach(slot: number): void {
    if (slot < this.#born.length) return;
    const length = Math.max(slot + 1, this.#born.length * 2);
    const [born, used] = [this.#born, this.#used];
    this.#born = new Float64Array(length);
    this.#used = new Float64Array(length);
    this.#born.set(born);
    this.#used.set(used);
  }

  /** Objects became resident. */
  stored(slots: readonly number[]): void {
    const now = this.#now();
    for (const slot of slots) {
      this.#reach(slot);
      this.#born[slot] = now;
      this.#used[slot] = now;
      this.#watch(slot, now);
    }
  }

  #watch(slot: number, now: number): void {
    this.#watched.delete(slot);
    const { keys, slots } = this.#state;
    const key = slots.key.get(slot);
    const hash = keys.hash.get(key);
    if ((((hash[4] ?? 0) << 8) | (hash[5] ?? 0)) % WATCH_ONE_IN !== 0) return;
    const name = `${keys.group.get(key)}:${Buffer.from(hash).toString("base64")}`;
    if (this.#watched.size < WATCHED_MAX) this.#watched.set(slot, name);
    const since = this.#evicted.get(name);
    if (since === undefined) return;
    this.#evicted.delete(name);
    this.returnAfterEviction.observe(Math.min(RETURN_SECONDS_MAX, now - since));
  }

  /** Objects were read. */
  read(slots: readonly number[]): void {
    const now = this.#now();
    for (const slot of slots) {
      const used = this.#used[slot] ?? 0;
      if (used === 0) continue;
      this.reuseGap.observe(now - used);
      this.#used[slot] = now;
    }
  }

  /** Objects were evicted. */
  evicted(slots: readonly number[]): void {
    const now = this.#now();
    for (const slot of slots) {
      const born = this.#born[slot] ?? 0;
      // Objects of an earlier run have no age that we know.
      if (born === 0) continue;
      this.lifetime.observe(now - born);
      this.idleBeforeEviction.observe(now - (this.#used[slot] ?? born));
      this.#born[slot] = 0;
      this.#used[slot] = 0;
      const name = this.#watched.get(slot);
      if (name === undefined) continue;
      this.#watched.delete(slot);
      this.#evicted.set(name, now);
    }
    for (const [name, since] of this.#evicted) {
      if (this.#evicted.size <= WATCHED_MAX && now - since <= RETURN_SECONDS_MAX) break;
      this.#evicted.delete(name);
    }
  }
}

import { type AdapterUsage, CacheError } from "@cache/contracts";
import type { RedisConfig } from "./config.ts";
import { OwnObjects } from "./own-objects.ts";

const GIB = 1024 ** 3;

/** Objects and bytes of the cache's keys, everybody's. */
export interface Tally {
  readonly objects: number;
  readonly bytes: number;
}

/** How full the cache is: what this process stored, and what the last count of the keys found. */
export class Accounting {
  /** What may be there, in bytes. */
  readonly limitBytes: number | "unbounded";
  /** What this process stored. */
  readonly own = new OwnObjects();
  readonly #location: string;
  readonly #limitGib: number;
  #reservedBytes = 0;
  #isCounted = false;
  // Found by the last whole count, with this process's stores and deletes since; and by the one that runs.
  #settled = { objects: 0, bytes: 0 };
  #current = { objects: 0, bytes: 0 };
  #since = { objects: 0, bytes: 0 };

  constructor(location: string, config: RedisConfig) {
    this.#location = location;
    this.#limitGib = config.max_capacity_gb;
    this.limitBytes = this.#limitGib > 0 ? Math.floor(this.#limitGib * GIB) : "unbounded";
  }

  /** Everybody's objects as far as known: whole only after the first count. */
  get tier(): Tally {
    return this.#isCounted || this.#settled.bytes >= this.#current.bytes ? this.#settled : this.#current;
  }

  /** This process's bytes, as the engine asks for them. */
  usage(): AdapterUsage {
    return {
      totalBytesUsed: this.own.bytes,
      capacityBytes: this.limitBytes,
      bytesByCacheSalt: this.own.bytesByCacheSalt(),
    };
  }

  /** Why an object of that length has no room; null if it has. It then keeps its room until {@link release}. */
  reserve(byteLength: number): CacheError | null {
    const used = Math.max(this.own.bytes, this.tier.bytes) + this.#reservedBytes;
    if (this.limitBytes !== "unbounded" && used + byteLength > this.limitBytes) {
      return new CacheError(
        "BACKEND_FULL",
        `${this.#location} holds ${used} of ${this.limitBytes} bytes (max_capacity_gb ${this.#limitGib}) and has no room for ${byteLength} more; raise max_capacity_gb or configure eviction`,
        { details: { usedBytes: used, capacityBytes: this.limitBytes } },
      );
    }
    this.#reservedBytes += byteLength;
    return null;
  }

  /** Gives back what {@link reserve} kept. */
  release(byteLength: number): void {
    this.#reservedBytes -= byteLength;
  }

  /** This process wrote an object. */
  stored(name: string, cacheSalt: string, byteLength: number): void {
    const before = this.own.remove(name);
    this.own.add(name, cacheSalt, byteLength);
    this.#note(before > 0 ? 0 : 1, byteLength - before);
  }

  /** An object is not there: it was deleted, or Redis evicted it. Nothing happens if it was stored after `asOf`. */
  missing(name: string, asOf = Number.POSITIVE_INFINITY): void {
    const byteLength = this.own.remove(name, asOf);
    if (byteLength > 0) this.#note(-1, -byteLength);
  }

  #note(objects: number, bytes: number): void {
    for (const figure of [this.#settled, this.#since]) {
      figure.objects += objects;
      figure.bytes += bytes;
    }
    this.#settled.objects = Math.max(0, this.#settled.objects);
    this.#settled.bytes = Math.max(0, this.#settled.bytes);
  }

  /** A count of all keys begins; its moment, for {@link counted}. */
  beginCount(): number {
    this.#current = { objects: 0, bytes: 0 };
    this.#since = { objects: 0, bytes: 0 };
    return this.own.now();
  }

  /** The count came by an object. What this process stored meanwhile is in its own figures, and not taken twice. */
  counted(name: string, byteLength: number, begin: number): void {
    if (byteLength === 0 || this.own.sight(name, begin)) return;
    this.#current.objects++;
    this.#current.bytes += byteLength;
  }

  /** Objects that the running or last count came by. */
  get objectsCounted(): number {
    return this.#current.objects;
  }

  /** The count went through. */
  endCount(): void {
    this.#settled = {
      objects: Math.max(0, this.#current.objects + this.#since.objects),
      bytes: Math.max(0, this.#current.bytes + this.#since.bytes),
    };
    this.#isCounted = true;
  }
}

import { fingerprint } from "@cache/adapter-kit";

/**
 * Which objects this process stored, and their lengths: for accounting alone, no lookup asks it. About 60 to 120 bytes
 * an object in place of the 300 of a `Map` of names. Open addressing; removal shifts back.
 *
 * Each change gets a number from a clock that {@link now} reads, so that an observation ("it was not there") that
 * is older than the object's store takes nothing away.
 */
export class OwnObjects {
  #prints = new Float64Array(64);
  #lengths = new Float64Array(64);
  /** Moment of the store; of the last sight in a count of the keys. */
  #stored = new Float64Array(64);
  #seen = new Float64Array(64);
  #salts = new Uint32Array(64);
  #count = 0;
  #bytes = 0;
  #clock = 0;
  readonly #saltNumbers = new Map<string, number>();
  readonly #saltBytes: { readonly salt: string; bytes: number }[] = [];

  /** Number of objects. */
  get count(): number {
    return this.#count;
  }

  /** Their bytes. */
  get bytes(): number {
    return this.#bytes;
  }

  /** A moment to hold later observations against. */
  now(): number {
    return ++this.#clock;
  }

  /** A copy of the bytes of each `cache_salt`, positive entries only. */
  bytesByCacheSalt(): Map<string, number> {
    return new Map(this.#saltBytes.filter(({ bytes }) => bytes > 0).map(({ salt, bytes }) => [salt, bytes]));
  }

  #slot(print: number): number {
    const mask = this.#prints.length - 1;
    let slot = (print % 0x1_0000_0000) & mask;
    while (this.#prints[slot] !== 0 && this.#prints[slot] !== print) slot = (slot + 1) & mask;
    return slot;
  }

  #saltNumber(cacheSalt: string): number {
    let number = this.#saltNumbers.get(cacheSalt);
    if (number === undefined) {
      number = this.#saltBytes.length;
      this.#saltNumbers.set(cacheSalt, number);
      this.#saltBytes.push({ salt: cacheSalt, bytes: 0 });
    }
    return number;
  }

  #account(saltNumber: number, change: number): void {
    this.#bytes += change;
    const entry = this.#saltBytes[saltNumber];
    if (entry !== undefined) entry.bytes += change;
  }

  #grow(): void {
    const [prints, lengths, salts] = [this.#prints, this.#lengths, this.#salts];
    const [stored, seen] = [this.#stored, this.#seen];
    const size = prints.length * 2;
    this.#prints = new Float64Array(size);
    this.#lengths = new Float64Array(size);
    this.#stored = new Float64Array(size);
    this.#seen = new Float64Array(size);
    this.#salts = new Uint32Array(size);
    for (let from = 0; from < prints.length; from++) {
      const print = prints[from] ?? 0;
      if (print === 0) continue;
      const to = this.#slot(print);
      this.#prints[to] = print;
      this.#lengths[to] = lengths[from] ?? 0;
      this.#stored[to] = stored[from] ?? 0;
      this.#seen[to] = seen[from] ?? 0;
      this.#salts[to] = salts[from] ?? 0;
    }
  }

  /** Notes a stored object; one that was noted before is counted with its new length. */
  add(name: string, cacheSalt: string, byteLength: number): void {
    this.remove(name);
    if ((this.#count + 1) * 2 > this.#prints.length) this.#grow();
    const print = fingerprint(name);
    const slot = this.#slot(print);
    this.#prints[slot] = print;
    this.#lengths[slot] = byteLength;
    this.#stored[slot] = this.now();
    this.#seen[slot] = 0;
    this.#salts[slot] = this.#saltNumber(cacheSalt);
    this.#count++;
    this.#account(this.#salts[slot] ?? 0, byteLength);
  }

  /** True if this object is noted. */
  has(name: string): boolean {
    return this.#prints[this.#slot(fingerprint(name))] !== 0;
  }

  /** It was there at this moment. True if this process stored it later than `since`. */
  sight(name: string, since: number): boolean {
    const slot = this.#slot(fingerprint(name));
    if (this.#prints[slot] === 0) return false;
    this.#seen[slot] = this.now();
    return (this.#stored[slot] ?? 0) > since;
  }

  /** Forgets an object; its length, 0 if it was not noted, or stored later than `asOf`. */
  remove(name: string, asOf = Number.POSITIVE_INFINITY): number {
    const slot = this.#slot(fingerprint(name));
    if (this.#prints[slot] === 0 || (this.#stored[slot] ?? 0) > asOf) return 0;
    return this.#removeAt(slot);
  }

  #removeAt(slot: number): number {
    let hole = slot;
    const byteLength = this.#lengths[hole] ?? 0;
    const saltNumber = this.#salts[hole] ?? 0;
    const mask = this.#prints.length - 1;
    for (let next = (hole + 1) & mask; this.#prints[next] !== 0; next = (next + 1) & mask) {
      const home = ((this.#prints[next] ?? 0) % 0x1_0000_0000) & mask;
      // An entry may move back unless its home lies between the hole and where it is.
      if (((next - home) & mask) < ((next - hole) & mask)) continue;
      this.#prints[hole] = this.#prints[next] ?? 0;
      this.#lengths[hole] = this.#lengths[next] ?? 0;
      this.#stored[hole] = this.#stored[next] ?? 0;
      this.#seen[hole] = this.#seen[next] ?? 0;
      this.#salts[hole] = this.#salts[next] ?? 0;
      hole = next;
    }
    this.#prints[hole] = 0;
    this.#count--;
    this.#account(saltNumber, -byteLength);
    return byteLength;
  }

  /**
   * Forgets what was neither stored nor seen since `asOf`, looking at `slots` table entries from `at` on. The place
   * to go on from, or null at the end. A table that grows in between is looked at in part; the next count does the rest.
   */
  sweep(asOf: number, at: number, slots: number): { readonly next: number | null; readonly removed: number } {
    let removed = 0;
    const end = Math.min(this.#prints.length, at + slots);
    for (let slot = at; slot < end; ) {
      const last = Math.max(this.#stored[slot] ?? 0, this.#seen[slot] ?? 0);
      const isGone = this.#prints[slot] !== 0 && last < asOf;
      if (isGone) {
        this.#removeAt(slot); // another may have moved here: look again
        removed++;
      } else slot++;
    }
    return { next: end < this.#prints.length ? end : null, removed };
  }
}

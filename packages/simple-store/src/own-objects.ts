/** 53 bits of a name: a number costs a third of what the name itself would. */
function fingerprint(name: string): number {
  let low = 0x811c9dc5;
  let high = 0x9747b28c;
  for (let i = 0; i < name.length; i++) {
    const unit = name.charCodeAt(i);
    low = Math.imul(low ^ unit, 0x01000193);
    high = Math.imul(high ^ unit, 0x85ebca6b) ^ (high >>> 13);
  }
  return (high & 0x1fffff) * 0x1_0000_0000 + (low >>> 0);
}

/** What this process stored, with lengths: for accounting, and where the store cannot tell a length. */
export class OwnObjects {
  readonly #lengths = new Map<number, number>();
  readonly #bytesBySalt = new Map<string, number>();
  #bytes = 0;

  get count(): number {
    return this.#lengths.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** A copy of the bytes of each `cache_salt`, positive entries only. */
  bytesByCacheSalt(): Map<string, number> {
    return new Map(this.#bytesBySalt);
  }

  lengthOf(name: string): number | undefined {
    return this.#lengths.get(fingerprint(name));
  }

  /** Notes a stored object; one that was noted before counts with its new length. */
  add(name: string, cacheSalt: string, byteLength: number): void {
    this.remove(name, cacheSalt);
    this.#lengths.set(fingerprint(name), byteLength);
    this.#account(cacheSalt, byteLength);
  }

  /** Forgets an object, if it was noted. */
  remove(name: string, cacheSalt: string): void {
    const print = fingerprint(name);
    const byteLength = this.#lengths.get(print);
    if (byteLength === undefined) return;
    this.#lengths.delete(print);
    this.#account(cacheSalt, -byteLength);
  }

  #account(cacheSalt: string, change: number): void {
    this.#bytes += change;
    const bytes = (this.#bytesBySalt.get(cacheSalt) ?? 0) + change;
    if (bytes > 0) this.#bytesBySalt.set(cacheSalt, bytes);
    else this.#bytesBySalt.delete(cacheSalt);
  }
}

/** Lengths of objects of others, learnt by reading them: the last 4096. */
export class LearntLengths {
  readonly #lengths = new Map<string, number>();

  get(name: string): number | undefined {
    return this.#lengths.get(name);
  }

  set(name: string, byteLength: number): void {
    this.#lengths.delete(name);
    this.#lengths.set(name, byteLength);
    if (this.#lengths.size <= 4096) return;
    for (const [oldest] of this.#lengths) {
      this.#lengths.delete(oldest);
      return;
    }
  }

  forget(name: string): void {
    this.#lengths.delete(name);
  }
}

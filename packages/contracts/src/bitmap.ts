/**
 * A fixed-size set of positions: bit i belongs to the i-th key of a request. Positions outside are refused
 * with a `RangeError` (LMCache ignores them, which hid bugs).
 */
export class Bitmap {
  /** Number of positions. */
  readonly size: number;
  readonly #words: Uint32Array;

  /** @param size number of positions, 0 or more. */
  constructor(size: number) {
    if (!Number.isInteger(size) || size < 0)
      throw new RangeError(`bitmap size ${size} is not a whole number`);
    this.size = size;
    this.#words = new Uint32Array((size + 31) >>> 5);
  }

  /** A bitmap with exactly the given positions set. */
  static of(size: number, positions: Iterable<number>): Bitmap {
    const bitmap = new Bitmap(size);
    for (const position of positions) bitmap.set(position);
    return bitmap;
  }

  /** A bitmap with all positions set. */
  static full(size: number): Bitmap {
    const bitmap = new Bitmap(size);
    for (let i = 0; i < size; i++) bitmap.set(i);
    return bitmap;
  }

  #check(position: number): void {
    if (!Number.isInteger(position) || position < 0 || position >= this.size) {
      throw new RangeError(`position ${position} is outside a bitmap of ${this.size}`);
    }
  }

  /** True if the position is set. */
  has(position: number): boolean {
    this.#check(position);
    return ((this.#words[position >>> 5] ?? 0) & (1 << (position & 31))) !== 0;
  }

  /** Sets a position. */
  set(position: number): void {
    this.#check(position);
    const word = position >>> 5;
    this.#words[word] = (this.#words[word] ?? 0) | (1 << (position & 31));
  }

  /** Clears a position. */
  clear(position: number): void {
    this.#check(position);
    const word = position >>> 5;
    this.#words[word] = (this.#words[word] ?? 0) & ~(1 << (position & 31));
  }

  /** Number of set positions. */
  count(): number {
    let total = 0;
    for (let word of this.#words) {
      for (; word !== 0; word = (word & (word - 1)) >>> 0) total++;
    }
    return total;
  }

  /** Number of set positions before the first clear one. */
  prefixLength(): number {
    for (let i = 0; i < this.size; i++) if (!this.has(i)) return i;
    return this.size;
  }

  /** The set positions in ascending order. */
  *positions(): IterableIterator<number> {
    for (let i = 0; i < this.size; i++) if (this.has(i)) yield i;
  }

  /** The items at set positions, in order. */
  gather<T>(items: readonly T[]): T[] {
    return items.filter((_, i) => i < this.size && this.has(i));
  }
}

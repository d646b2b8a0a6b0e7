/**
 * Columns that grow by whole pages: growing never copies what is there, so no event-loop turn pays for the
 * number of objects. Rows that were never written read as 0.
 */

const PAGE_BITS = 12;
const PAGE_ROWS = 1 << PAGE_BITS;
const ROW_MASK = PAGE_ROWS - 1;

type Page = Uint8Array | Uint16Array | Uint32Array | Float64Array;

interface PageMaker<P extends Page> {
  new (length: number): P;
  readonly BYTES_PER_ELEMENT: number;
}

/** One number a row. */
export class Column<P extends Page = Page> {
  readonly #make: PageMaker<P>;
  #pages: P[] = [];

  constructor(make: PageMaker<P>) {
    this.#make = make;
  }

  get(row: number): number {
    return this.#pages[row >>> PAGE_BITS]?.[row & ROW_MASK] ?? 0;
  }

  set(row: number, value: number): void {
    const page = row >>> PAGE_BITS;
    while (this.#pages.length <= page) this.#pages.push(new this.#make(PAGE_ROWS));
    (this.#pages[page] as P)[row & ROW_MASK] = value;
  }

  /** The first `rows` rows as bytes, page by page, for a snapshot. */
  *dump(rows: number): Generator<Uint8Array> {
    const width = this.#make.BYTES_PER_ELEMENT;
    for (let at = 0, page = 0; at < rows; at += PAGE_ROWS, page++) {
      const count = Math.min(PAGE_ROWS, rows - at);
      const data = this.#pages[page];
      yield data === undefined
        ? new Uint8Array(count * width)
        : new Uint8Array(data.buffer, 0, count * width);
    }
  }

  /** Takes back what `dump` gave. */
  restore(rows: number, bytes: Uint8Array): void {
    const width = this.#make.BYTES_PER_ELEMENT;
    this.#pages = [];
    for (let at = 0; at < rows; at += PAGE_ROWS) {
      const count = Math.min(PAGE_ROWS, rows - at);
      const page = new this.#make(PAGE_ROWS);
      new Uint8Array(page.buffer).set(bytes.subarray(at * width, (at + count) * width));
      this.#pages.push(page);
    }
  }

  /** Bytes of one row. */
  get width(): number {
    return this.#make.BYTES_PER_ELEMENT;
  }
}

/** A fixed number of bytes a row. */
export class BytesColumn {
  readonly width: number;
  #pages: Uint8Array[] = [];

  constructor(width: number) {
    this.width = width;
  }

  /** A view of the row; valid until the column is restored. */
  get(row: number): Uint8Array {
    const page = this.#pages[row >>> PAGE_BITS];
    const at = (row & ROW_MASK) * this.width;
    return page === undefined ? new Uint8Array(this.width) : page.subarray(at, at + this.width);
  }

  /** The page that holds a written row, for readers that make no view: the row begins at {@link offsetOf}. */
  pageOf(row: number): Uint8Array {
    return this.#pages[row >>> PAGE_BITS] as Uint8Array;
  }

  offsetOf(row: number): number {
    return (row & ROW_MASK) * this.width;
  }

  /** True if the row equals the bytes at `from`. */
  equals(row: number, bytes: Uint8Array, from: number): boolean {
    const page = this.#pages[row >>> PAGE_BITS];
    if (page === undefined) return false;
    const at = (row & ROW_MASK) * this.width;
    for (let i = 0; i < this.width; i++) if (page[at + i] !== bytes[from + i]) return false;
    return true;
  }

  set(row: number, bytes: Uint8Array, from: number): void {
    const page = row >>> PAGE_BITS;
    while (this.#pages.length <= page) this.#pages.push(new Uint8Array(PAGE_ROWS * this.width));
    (this.#pages[page] as Uint8Array).set(
      bytes.subarray(from, from + this.width),
      (row & ROW_MASK) * this.width,
    );
  }

  *dump(rows: number): Generator<Uint8Array> {
    for (let at = 0, page = 0; at < rows; at += PAGE_ROWS, page++) {
      const count = Math.min(PAGE_ROWS, rows - at);
      yield (this.#pages[page] ?? new Uint8Array(PAGE_ROWS * this.width)).subarray(0, count * this.width);
    }
  }

  restore(rows: number, bytes: Uint8Array): void {
    this.#pages = [];
    for (let at = 0; at < rows; at += PAGE_ROWS) {
      const count = Math.min(PAGE_ROWS, rows - at);
      const page = new Uint8Array(PAGE_ROWS * this.width);
      page.set(bytes.subarray(at * this.width, (at + count) * this.width));
      this.#pages.push(page);
    }
  }
}

/** Numbers to give out again: the lowest unused one after those that came back last. */
export class NumberPool {
  #free: number[] = [];
  #next = 0;

  /** The number that `take` should take next. */
  peek(): number {
    return this.#free.at(-1) ?? this.#next;
  }

  /** The `count` numbers that will be taken next, in order. */
  peekMany(count: number): number[] {
    const numbers: number[] = [];
    for (let i = 1; i <= Math.min(count, this.#free.length); i++) numbers.push(this.#free.at(-i) as number);
    for (let next = this.#next; numbers.length < count; next++) numbers.push(next);
    return numbers;
  }

  /** Takes a number that an event names. */
  take(number: number): void {
    if (this.#free.at(-1) === number) {
      this.#free.pop();
    } else if (number >= this.#next) {
      for (; this.#next < number; this.#next++) this.#free.push(this.#next);
      this.#next++;
    } else {
      const at = this.#free.lastIndexOf(number);
      if (at < 0) throw new TypeError(`number ${number} is in use`);
      this.#free.splice(at, 1);
    }
  }

  give(number: number): void {
    this.#free.push(number);
  }

  /** One more than the highest number ever taken. */
  get bound(): number {
    return this.#next;
  }

  /** How many are taken. */
  get used(): number {
    return this.#next - this.#free.length;
  }

  dump(): { next: number; free: readonly number[] } {
    return { next: this.#next, free: this.#free };
  }

  restore(dump: { next: number; free: readonly number[] }): void {
    this.#next = dump.next;
    this.#free = [...dump.free];
  }
}

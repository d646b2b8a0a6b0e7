/** No node. */
export const NONE = -1;

const FREE = 0;
const USED = 1;

function widen<A extends Uint32Array | Int32Array | Uint8Array>(from: A, make: new (rows: number) => A): A {
  const to = new make(from.length * 2);
  to.set(from);
  return to;
}

/**
 * The ranges of L1 as rows of typed arrays, in units of the alignment: about 30 bytes a range, no object each.
 * Rows are linked in address order; `left` and `right` belong to the tree of free ranges.
 */
export class RangeNodes {
  /** First unit. */
  start: Uint32Array;
  /** Units. */
  size: Uint32Array;
  /** Bytes by which the last unit is longer than what was asked for. */
  slack: Uint32Array;
  /** Neighbours by address. */
  before: Int32Array;
  after: Int32Array;
  left: Int32Array;
  right: Int32Array;
  #state: Uint8Array;
  #rows = 0;
  /** Rows to use again, linked through `after`. */
  #spare = NONE;

  /** Rows that all columns have. */
  #room: number;

  /** Columns differ in length, so that not all of them grow, by copying, in the same turn. */
  constructor(rows = 64) {
    const step = rows / 8;
    this.#room = rows;
    this.start = new Uint32Array(rows);
    this.size = new Uint32Array(rows + step);
    this.slack = new Uint32Array(rows + 2 * step);
    this.before = new Int32Array(rows + 3 * step);
    this.after = new Int32Array(rows + 4 * step);
    this.left = new Int32Array(rows + 5 * step);
    this.right = new Int32Array(rows + 6 * step);
    this.#state = new Uint8Array(rows + 7 * step);
  }

  /** A new free row, not linked. */
  add(start: number, size: number): number {
    let node = this.#spare;
    if (node === NONE) {
      if (this.#rows === this.#room) this.#widen();
      node = this.#rows++;
    } else {
      this.#spare = this.after[node] ?? NONE;
    }
    this.start[node] = start;
    this.size[node] = size;
    this.slack[node] = 0;
    this.before[node] = NONE;
    this.after[node] = NONE;
    this.#state[node] = FREE;
    return node;
  }

  /** Puts `node` right after `place`. */
  linkAfter(place: number, node: number): void {
    const next = this.after[place] ?? NONE;
    this.before[node] = place;
    this.after[node] = next;
    this.after[place] = node;
    if (next !== NONE) this.before[next] = node;
  }

  /** Takes the row out of the address order; it may be used again. */
  remove(node: number): void {
    const before = this.before[node] ?? NONE;
    const after = this.after[node] ?? NONE;
    if (before !== NONE) this.after[before] = after;
    if (after !== NONE) this.before[after] = before;
    this.after[node] = this.#spare;
    this.#spare = node;
  }

  isFree(node: number): boolean {
    return this.#state[node] === FREE;
  }

  setFree(node: number, free: boolean): void {
    this.#state[node] = free ? FREE : USED;
  }

  startOf(node: number): number {
    return this.start[node] ?? 0;
  }

  sizeOf(node: number): number {
    return this.size[node] ?? 0;
  }

  endOf(node: number): number {
    return this.startOf(node) + this.sizeOf(node);
  }

  #widen(): void {
    const full = (column: { readonly length: number }): boolean => column.length === this.#rows;
    if (full(this.start)) this.start = widen(this.start, Uint32Array);
    if (full(this.size)) this.size = widen(this.size, Uint32Array);
    if (full(this.slack)) this.slack = widen(this.slack, Uint32Array);
    if (full(this.before)) this.before = widen(this.before, Int32Array);
    if (full(this.after)) this.after = widen(this.after, Int32Array);
    if (full(this.left)) this.left = widen(this.left, Int32Array);
    if (full(this.right)) this.right = widen(this.right, Int32Array);
    if (full(this.#state)) this.#state = widen(this.#state, Uint8Array);
    const { start, size, slack, before, after, left, right } = this;
    this.#room = Math.min(
      ...[start, size, slack, before, after, left, right, this.#state].map((column) => column.length),
    );
  }
}

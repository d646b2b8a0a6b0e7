/** No node. */
export const NONE = -1;

const FREE = 0;
const USED = 1;

function widen<A extends Uint32Array | Int32Array | Uint8Array>(from: A, to: A): A {
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

  constructor(rows = 64) {
    this.start = new Uint32Array(rows);
    this.size = new Uint32Array(rows);
    this.slack = new Uint32Array(rows);
    this.before = new Int32Array(rows);
    this.after = new Int32Array(rows);
    this.left = new Int32Array(rows);
    this.right = new Int32Array(rows);
    this.#state = new Uint8Array(rows);
  }

  /** A new free row, not linked. */
  add(start: number, size: number): number {
    let node = this.#spare;
    if (node === NONE) {
      if (this.#rows === this.start.length) this.#widen();
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
    const rows = this.start.length * 2;
    this.start = widen(this.start, new Uint32Array(rows));
    this.size = widen(this.size, new Uint32Array(rows));
    this.slack = widen(this.slack, new Uint32Array(rows));
    this.before = widen(this.before, new Int32Array(rows));
    this.after = widen(this.after, new Int32Array(rows));
    this.left = widen(this.left, new Int32Array(rows));
    this.right = widen(this.right, new Int32Array(rows));
    this.#state = widen(this.#state, new Uint8Array(rows));
  }
}

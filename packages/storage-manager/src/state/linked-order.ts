import { Column } from "./columns.ts";

/**
 * A least-recently-used order over numbered rows: a doubly linked list in two columns, constant time for each
 * step, no allocation. Links hold row plus one; 0 is none. A column pair can hold several disjoint lists.
 */
export class LinkedOrder {
  readonly next = new Column(Uint32Array);
  readonly previous = new Column(Uint32Array);
  readonly #member = new Column(Uint8Array);

  isMember(row: number): boolean {
    return this.#member.get(row) === 1;
  }

  /** Puts a row at the most recent end. */
  append(ends: OrderEnds, row: number): void {
    this.previous.set(row, ends.newest);
    this.next.set(row, 0);
    if (ends.newest === 0) ends.oldest = row + 1;
    else this.next.set(ends.newest - 1, row + 1);
    ends.newest = row + 1;
    ends.count++;
    this.#member.set(row, 1);
  }

  /** Puts a row at the end that goes first. */
  prepend(ends: OrderEnds, row: number): void {
    this.next.set(row, ends.oldest);
    this.previous.set(row, 0);
    if (ends.oldest === 0) ends.newest = row + 1;
    else this.previous.set(ends.oldest - 1, row + 1);
    ends.oldest = row + 1;
    ends.count++;
    this.#member.set(row, 1);
  }

  remove(ends: OrderEnds, row: number): void {
    const before = this.previous.get(row);
    const after = this.next.get(row);
    if (before === 0) ends.oldest = after;
    else this.next.set(before - 1, after);
    if (after === 0) ends.newest = before;
    else this.previous.set(after - 1, before);
    ends.count--;
    this.#member.set(row, 0);
  }

  /** Rows from the oldest on. Do not change the list while iterating. */
  *fromOldest(ends: OrderEnds): Generator<number> {
    for (let at = ends.oldest; at !== 0; at = this.next.get(at - 1)) yield at - 1;
  }

  columns(): readonly Column[] {
    return [this.next, this.previous, this.#member] as readonly Column[];
  }
}

/** Both ends of one list. */
export interface OrderEnds {
  oldest: number;
  newest: number;
  count: number;
}

/** An empty list. */
export function emptyOrder(): OrderEnds {
  return { oldest: 0, newest: 0, count: 0 };
}

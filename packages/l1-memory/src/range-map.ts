import { FreeTree } from "./free-tree.ts";
import { NONE, RangeNodes } from "./range-nodes.ts";
import { StartIndex } from "./start-index.ts";

/**
 * The division of L1 into free and handed-out ranges, in units of the alignment. A range never crosses a multiple
 * of `viewUnits`: free neighbours on both sides of one stay apart.
 */
export class RangeMap {
  readonly #viewUnits: number;
  readonly #nodes: RangeNodes;
  readonly #free: FreeTree;
  readonly #used: StartIndex;
  /** Row of the highest range. */
  #last = NONE;
  #capacity = 0;
  #usedUnits = 0;

  constructor(viewUnits: number) {
    this.#viewUnits = viewUnits;
    this.#nodes = new RangeNodes();
    this.#free = new FreeTree(this.#nodes);
    this.#used = new StartIndex(this.#nodes);
  }

  get capacity(): number {
    return this.#capacity;
  }

  get usedUnits(): number {
    return this.#usedUnits;
  }

  get longestFree(): number {
    return this.#free.longest();
  }

  /** First unit of a new range, -1 if there is no room. */
  take(units: number, slack: number): number {
    const node = this.#free.bestFit(units);
    if (node === NONE) return -1;
    const nodes = this.#nodes;
    this.#free.remove(node);
    const rest = nodes.sizeOf(node) - units;
    if (rest > 0) {
      nodes.size[node] = units;
      const tail = nodes.add(nodes.startOf(node) + units, rest);
      nodes.linkAfter(node, tail);
      this.#free.insert(tail);
      if (this.#last === node) this.#last = tail;
    }
    this.#markUsed(node, slack);
    return nodes.startOf(node);
  }

  /** False if exactly this range was not handed out. */
  give(start: number, units: number, slack: number): boolean {
    const nodes = this.#nodes;
    let node = this.#used.find(start);
    if (node === NONE || nodes.sizeOf(node) !== units || nodes.slack[node] !== slack) return false;
    this.#used.remove(start);
    this.#usedUnits -= units;
    nodes.setFree(node, true);
    const after = nodes.after[node] ?? NONE;
    if (this.#joins(node, after)) {
      this.#free.remove(after);
      this.#absorb(node, after);
    }
    const before = nodes.before[node] ?? NONE;
    if (this.#joins(before, node)) {
      this.#free.remove(before);
      this.#absorb(before, node);
      node = before;
    }
    this.#free.insert(node);
    return true;
  }

  /** Makes the map this many units long; the new ones are free. */
  extend(capacity: number): void {
    let at = this.#capacity;
    if (
      this.#last !== NONE &&
      at < capacity &&
      this.#nodes.isFree(this.#last) &&
      at % this.#viewUnits !== 0
    ) {
      const end = Math.min(capacity, this.#viewEnd(at));
      this.#free.remove(this.#last);
      this.#nodes.size[this.#last] = end - this.#nodes.startOf(this.#last);
      this.#free.insert(this.#last);
      at = end;
    }
    this.#appendFree(at, capacity);
    this.#capacity = capacity;
  }

  /** Adds a handed-out range at or above the end of the map; what lies between becomes free. */
  appendUsed(start: number, units: number, slack: number): void {
    this.#appendFree(this.#capacity, start);
    const node = this.#append(start, units);
    this.#markUsed(node, slack);
    this.#capacity = start + units;
  }

  #markUsed(node: number, slack: number): void {
    this.#nodes.setFree(node, false);
    this.#nodes.slack[node] = slack;
    this.#used.add(node);
    this.#usedUnits += this.#nodes.sizeOf(node);
  }

  #append(start: number, units: number): number {
    const node = this.#nodes.add(start, units);
    if (this.#last !== NONE) this.#nodes.linkAfter(this.#last, node);
    this.#last = node;
    return node;
  }

  #appendFree(from: number, to: number): void {
    for (let at = from; at < to; ) {
      const end = Math.min(to, this.#viewEnd(at));
      this.#free.insert(this.#append(at, end - at));
      at = end;
    }
  }

  #viewEnd(unit: number): number {
    return (Math.floor(unit / this.#viewUnits) + 1) * this.#viewUnits;
  }

  #joins(lower: number, upper: number): boolean {
    if (lower === NONE || upper === NONE) return false;
    const nodes = this.#nodes;
    return nodes.isFree(lower) && nodes.isFree(upper) && nodes.startOf(upper) % this.#viewUnits !== 0;
  }

  #absorb(lower: number, upper: number): void {
    this.#nodes.size[lower] = this.#nodes.sizeOf(lower) + this.#nodes.sizeOf(upper);
    if (this.#last === upper) this.#last = lower;
    this.#nodes.remove(upper);
  }
}

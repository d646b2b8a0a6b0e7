import { NONE, type RangeNodes } from "./range-nodes.ts";

/** Pseudo-random but fixed priority of a row: a heap over these keeps the tree's depth logarithmic. */
function priority(node: number): number {
  let x = Math.imul(node + 1, 0x9e3779b1);
  x = Math.imul(x ^ (x >>> 15), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/**
 * The free ranges ordered by size, then by address: a treap whose links live in the rows themselves. The first
 * range that is long enough is so the best fit, and the lowest of equals.
 */
export class FreeTree {
  readonly #nodes: RangeNodes;
  #root = NONE;

  constructor(nodes: RangeNodes) {
    this.#nodes = nodes;
  }

  insert(node: number): void {
    const rank = priority(node);
    // Down to where the heap order puts the node; then the subtree there is split around it.
    let parent = NONE;
    let onLeft = false;
    let place = this.#root;
    while (place !== NONE && priority(place) >= rank) {
      parent = place;
      onLeft = this.#less(node, place);
      place = this.#child(place, onLeft);
    }
    this.#split(place, node);
    this.#setChild(parent, onLeft, node);
  }

  remove(node: number): void {
    let parent = NONE;
    let onLeft = false;
    let place = this.#root;
    while (place !== node) {
      if (place === NONE) throw new TypeError("a free range is not in the tree");
      parent = place;
      onLeft = this.#less(node, place);
      place = this.#child(place, onLeft);
    }
    this.#merge(parent, onLeft, this.#child(node, true), this.#child(node, false));
  }

  /** The shortest free range of at least this many units, the lowest of equals; NONE if there is none. */
  bestFit(units: number): number {
    let best = NONE;
    let place = this.#root;
    while (place !== NONE) {
      const fits = this.#nodes.sizeOf(place) >= units;
      if (fits) best = place;
      place = this.#child(place, fits);
    }
    return best;
  }

  /** Units of the longest free range. */
  longest(): number {
    let place = this.#root;
    let last = NONE;
    while (place !== NONE) {
      last = place;
      place = this.#child(place, false);
    }
    return last === NONE ? 0 : this.#nodes.sizeOf(last);
  }

  #less(a: number, b: number): boolean {
    const sizeA = this.#nodes.sizeOf(a);
    const sizeB = this.#nodes.sizeOf(b);
    return sizeA === sizeB ? this.#nodes.startOf(a) < this.#nodes.startOf(b) : sizeA < sizeB;
  }

  #child(node: number, left: boolean): number {
    return (left ? this.#nodes.left[node] : this.#nodes.right[node]) ?? NONE;
  }

  #setChild(parent: number, left: boolean, child: number): void {
    if (parent === NONE) this.#root = child;
    else if (left) this.#nodes.left[parent] = child;
    else this.#nodes.right[parent] = child;
  }

  /** Hangs what is less than `node` to its left, the rest to its right. */
  #split(subtree: number, node: number): void {
    let lessParent = node;
    let lessSide = true;
    let moreParent = node;
    let moreSide = false;
    let place = subtree;
    while (place !== NONE) {
      if (this.#less(place, node)) {
        this.#setChild(lessParent, lessSide, place);
        lessParent = place;
        lessSide = false;
        place = this.#child(place, false);
      } else {
        this.#setChild(moreParent, moreSide, place);
        moreParent = place;
        moreSide = true;
        place = this.#child(place, true);
      }
    }
    this.#setChild(lessParent, lessSide, NONE);
    this.#setChild(moreParent, moreSide, NONE);
  }

  /** Puts two subtrees, all of `less` before all of `more`, in place of a removed node. */
  #merge(parent: number, onLeft: boolean, less: number, more: number): void {
    while (less !== NONE && more !== NONE) {
      if (priority(less) >= priority(more)) {
        this.#setChild(parent, onLeft, less);
        parent = less;
        onLeft = false;
        less = this.#child(less, false);
      } else {
        this.#setChild(parent, onLeft, more);
        parent = more;
        onLeft = true;
        more = this.#child(more, true);
      }
    }
    this.#setChild(parent, onLeft, less === NONE ? more : less);
  }
}

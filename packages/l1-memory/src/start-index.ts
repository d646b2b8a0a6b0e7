import { NONE, type RangeNodes } from "./range-nodes.ts";

const FILL_MAX = 0.6;

/** Finds the row of a handed-out range by its first unit: open addressing, 4 bytes a slot. */
export class StartIndex {
  readonly #nodes: RangeNodes;
  /** Row + 1; 0 is an empty slot. */
  #slots = new Int32Array(128);
  #count = 0;

  constructor(nodes: RangeNodes) {
    this.#nodes = nodes;
  }

  /** Row of the range that begins there, or NONE. */
  find(start: number): number {
    const slot = this.#slotOf(start);
    return (this.#slots[slot] ?? 0) - 1;
  }

  /** False if a range that begins there is in already. */
  add(node: number): boolean {
    if (this.#count + 1 > this.#slots.length * FILL_MAX) this.#widen();
    const slot = this.#slotOf(this.#nodes.startOf(node));
    if (this.#slots[slot] !== 0) return false;
    this.#slots[slot] = node + 1;
    this.#count++;
    return true;
  }

  remove(start: number): void {
    const mask = this.#slots.length - 1;
    let hole = this.#slotOf(start);
    if (this.#slots[hole] === 0) return;
    this.#count--;
    // Moves later entries of the run back, so that no tombstones pile up.
    for (let slot = (hole + 1) & mask; ; slot = (slot + 1) & mask) {
      const entry = this.#slots[slot] ?? 0;
      if (entry === 0) break;
      const home = this.#home(this.#nodes.startOf(entry - 1));
      if (((slot - home) & mask) >= ((slot - hole) & mask)) {
        this.#slots[hole] = entry;
        hole = slot;
      }
    }
    this.#slots[hole] = 0;
  }

  #home(start: number): number {
    const x = Math.imul(start, 0x9e3779b1);
    return (x ^ (x >>> 15)) & (this.#slots.length - 1);
  }

  /** Slot of the range that begins there, or the empty slot where it would go. */
  #slotOf(start: number): number {
    const mask = this.#slots.length - 1;
    let slot = this.#home(start);
    for (;;) {
      const node = (this.#slots[slot] ?? 0) - 1;
      if (node === NONE || this.#nodes.startOf(node) === start) return slot;
      slot = (slot + 1) & mask;
    }
  }

  #widen(): void {
    const old = this.#slots;
    this.#slots = new Int32Array(old.length * 2);
    for (const entry of old) {
      if (entry !== 0) this.#slots[this.#slotOf(this.#nodes.startOf(entry - 1))] = entry;
    }
  }
}

import { NONE, type RangeNodes } from "./range-nodes.ts";

const FILL_MAX = 0.6;
const PARTS = 256;
const PART_SLOTS_MIN = 16;

/**
 * Finds the row of a handed-out range by its first unit: open addressing, 4 bytes a slot. In 256 parts that grow one
 * by one: no caller waits until a million ranges have found their new places.
 */
export class StartIndex {
  readonly #nodes: RangeNodes;
  /** Row + 1; 0 is an empty slot. */
  readonly #parts = Array.from({ length: PARTS }, () => new Int32Array(PART_SLOTS_MIN));
  readonly #counts = new Uint32Array(PARTS);

  constructor(nodes: RangeNodes) {
    this.#nodes = nodes;
  }

  /** Row of the range that begins there, or NONE. */
  find(start: number): number {
    const mixed = mix(start);
    const slots = this.#part(mixed);
    return (slots[this.#slotOf(slots, mixed, start)] ?? 0) - 1;
  }

  /** False if a range that begins there is in already. */
  add(node: number): boolean {
    const start = this.#nodes.startOf(node);
    const mixed = mix(start);
    const part = mixed >>> 24;
    const count = (this.#counts[part] ?? 0) + 1;
    if (count > this.#part(mixed).length * FILL_MAX) this.#widen(part);
    const slots = this.#part(mixed);
    const slot = this.#slotOf(slots, mixed, start);
    if (slots[slot] !== 0) return false;
    slots[slot] = node + 1;
    this.#counts[part] = count;
    return true;
  }

  remove(start: number): void {
    const mixed = mix(start);
    const slots = this.#part(mixed);
    const mask = slots.length - 1;
    let hole = this.#slotOf(slots, mixed, start);
    if (slots[hole] === 0) return;
    this.#counts[mixed >>> 24] = (this.#counts[mixed >>> 24] ?? 0) - 1;
    // Moves later entries of the run back, so that no tombstones pile up.
    for (let slot = (hole + 1) & mask; ; slot = (slot + 1) & mask) {
      const entry = slots[slot] ?? 0;
      if (entry === 0) break;
      const home = mix(this.#nodes.startOf(entry - 1)) & mask;
      if (((slot - home) & mask) >= ((slot - hole) & mask)) {
        slots[hole] = entry;
        hole = slot;
      }
    }
    slots[hole] = 0;
  }

  #part(mixed: number): Int32Array {
    return this.#parts[mixed >>> 24] as Int32Array;
  }

  /** Slot of the range that begins there, or the empty slot where it would go. */
  #slotOf(slots: Int32Array, mixed: number, start: number): number {
    const mask = slots.length - 1;
    let slot = mixed & mask;
    for (;;) {
      const node = (slots[slot] ?? 0) - 1;
      if (node === NONE || this.#nodes.startOf(node) === start) return slot;
      slot = (slot + 1) & mask;
    }
  }

  #widen(part: number): void {
    const old = this.#parts[part] as Int32Array;
    const slots = new Int32Array(old.length * 2);
    this.#parts[part] = slots;
    for (const entry of old) {
      if (entry === 0) continue;
      const start = this.#nodes.startOf(entry - 1);
      slots[this.#slotOf(slots, mix(start), start)] = entry;
    }
  }
}

/** Spreads unit numbers, which are mostly multiples of one size, over 32 bits. */
function mix(start: number): number {
  let x = Math.imul(start ^ (start >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

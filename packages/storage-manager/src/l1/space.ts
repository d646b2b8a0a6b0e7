import type { L1Allocator } from "@cache/l1-memory";

/**
 * L1 as ranges: the allocator, and pins of I/O in flight. A pin belongs to the bytes, not to the object: a range
 * whose object has left stays taken until nothing reads or writes it. No time limit ever ends a pin.
 */
export class L1Space {
  readonly allocator: L1Allocator;
  readonly #pins = new Map<number, number>();
  readonly #freedWhilePinned = new Map<number, number>();
  /** Called when bytes became free. */
  onFreed: () => void = () => {};

  constructor(allocator: L1Allocator) {
    this.allocator = allocator;
  }

  get usedBytes(): number {
    return this.allocator.usedBytes;
  }

  get capacityBytes(): number {
    return this.allocator.capacityBytes;
  }

  /** Ranges that I/O holds. */
  get pinnedRanges(): number {
    return this.#pins.size;
  }

  pin(offset: number): void {
    this.#pins.set(offset, (this.#pins.get(offset) ?? 0) + 1);
  }

  unpin(offset: number): void {
    const left = (this.#pins.get(offset) ?? 0) - 1;
    if (left > 0) {
      this.#pins.set(offset, left);
      return;
    }
    this.#pins.delete(offset);
    const length = this.#freedWhilePinned.get(offset);
    if (length === undefined) return;
    this.#freedWhilePinned.delete(offset);
    this.#free(offset, length);
  }

  isPinned(offset: number): boolean {
    return this.#pins.has(offset);
  }

  /** The object at this range is gone. */
  freed(offset: number, length: number): void {
    if (this.#pins.has(offset)) this.#freedWhilePinned.set(offset, length);
    else this.#free(offset, length);
  }

  #free(offset: number, length: number): void {
    this.allocator.free(offset, length);
    this.onFreed();
  }
}

import { CacheError } from "@cache/contracts";
import { RangeMap } from "./range-map.ts";
import type { L1Allocator, L1Range } from "./types.ts";

/** Options of {@link createL1Allocator}, in bytes. */
export interface L1AllocatorOptions {
  /** Bytes that may be handed out at first; rounded down to the alignment. */
  readonly capacityBytes: number;
  /** Every range begins at a multiple of this: a power of two. */
  readonly alignBytes: number;
  /** No range crosses a multiple of this; default 4 GiB, a multiple of `alignBytes`. */
  readonly viewBytes?: number;
}

/** Views of Node 20 end here. */
export const DEFAULT_VIEW_BYTES = 4 * 2 ** 30;
/** Units are kept in 32 bits: 16 TiB at the default alignment. */
const UNITS_MAX = 2 ** 32 - 1;

function corrupt(range: L1Range, why: string): CacheError {
  return new CacheError("DATA_CORRUPT", `the L1 range of ${range.length} bytes at ${range.offset} ${why}`, {
    details: { offset: range.offset, length: range.length },
  });
}

const LITTLE_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** The places of offsets in ascending order. Sorted natively where they are what they should be. */
function orderOf(flat: Float64Array, alignBytes: number): Uint32Array {
  const count = flat.length / 2;
  const words = new Uint32Array(count * 2);
  const [high, low] = LITTLE_ENDIAN ? [1, 0] : [0, 1];
  let sortable = true;
  for (let i = 0; i < count; i++) {
    const unit = (flat[i * 2] ?? 0) / alignBytes;
    words[i * 2 + high] = unit;
    words[i * 2 + low] = i;
    if (words[i * 2 + high] !== unit) sortable = false;
  }
  // Damaged offsets: in any order that numbers have, for the check that finds them.
  if (!sortable) {
    return Uint32Array.from({ length: count }, (_, i) => i).sort(
      (a, b) => (flat[a * 2] ?? 0) - (flat[b * 2] ?? 0),
    );
  }
  new BigUint64Array(words.buffer).sort();
  return Uint32Array.from({ length: count }, (_, i) => words[i * 2 + low] ?? 0);
}

/** Ranges to rebuild from, kept flat and sorted by offset. */
function sortRanges(ranges: Iterable<L1Range>, alignBytes: number): Float64Array {
  let flat = new Float64Array(256);
  let count = 0;
  let ordered = true;
  let previous = -1;
  for (const { offset, length } of ranges) {
    if (count + 2 > flat.length) {
      const wider = new Float64Array(flat.length * 2);
      wider.set(flat);
      flat = wider;
    }
    flat[count++] = offset;
    flat[count++] = length;
    // Not `offset < previous`: NaN must not count as ordered.
    if (!(offset > previous)) ordered = false;
    previous = offset;
  }
  flat = flat.slice(0, count);
  if (ordered) return flat;
  const sorted = new Float64Array(count);
  let at = 0;
  for (const place of orderOf(flat, alignBytes)) {
    sorted[at++] = flat[place * 2] ?? 0;
    sorted[at++] = flat[place * 2 + 1] ?? 0;
  }
  return sorted;
}

/** Best fit, the lowest address of equals; logarithmic in the number of free ranges, about 40 bytes a range. */
class BestFitAllocator implements L1Allocator {
  readonly #alignBytes: number;
  readonly #viewBytes: number;
  #map: RangeMap;

  constructor(alignBytes: number, viewBytes: number, capacityBytes: number) {
    this.#alignBytes = alignBytes;
    this.#viewBytes = viewBytes;
    this.#map = this.#emptyMap();
    this.grow(capacityBytes);
  }

  get capacityBytes(): number {
    return this.#map.capacity * this.#alignBytes;
  }

  get usedBytes(): number {
    return this.#map.usedUnits * this.#alignBytes;
  }

  get largestFreeBytes(): number {
    return this.#map.longestFree * this.#alignBytes;
  }

  allocate(length: number): number {
    if (!Number.isSafeInteger(length) || length <= 0) {
      throw new TypeError(`an L1 range has a positive whole number of bytes, got ${length}`);
    }
    const units = this.#units(length);
    const start = this.#map.take(units, units * this.#alignBytes - length);
    return start < 0 ? -1 : start * this.#alignBytes;
  }

  free(offset: number, length: number): void {
    const units = this.#units(length);
    if (
      offset % this.#alignBytes !== 0 ||
      !this.#map.give(offset / this.#alignBytes, units, units * this.#alignBytes - length)
    ) {
      throw new TypeError(`the L1 range of ${length} bytes at ${offset} was not handed out`);
    }
  }

  grow(capacityBytes: number): void {
    const units = Math.floor(capacityBytes / this.#alignBytes);
    if (!(units >= this.#map.capacity)) {
      throw new TypeError(`L1 cannot shrink from ${this.capacityBytes} to ${capacityBytes} bytes`);
    }
    if (units > UNITS_MAX) {
      throw new CacheError(
        "INVALID_CONFIG",
        `L1 of ${capacityBytes} bytes is more than ${UNITS_MAX} times the alignment of ` +
          `${this.#alignBytes} bytes; set a larger --l1-align-bytes`,
      );
    }
    this.#map.extend(units);
  }

  rebuild(ranges: Iterable<L1Range>): void {
    const sorted = sortRanges(ranges, this.#alignBytes);
    const map = this.#emptyMap();
    const capacity = this.#map.capacity;
    for (let i = 0; i < sorted.length; i += 2) {
      const range = { offset: sorted[i] ?? 0, length: sorted[i + 1] ?? 0 };
      this.#check(range, map.capacity);
      const units = this.#units(range.length);
      map.appendUsed(range.offset / this.#alignBytes, units, units * this.#alignBytes - range.length);
    }
    map.extend(capacity);
    this.#map = map;
  }

  roundUp(length: number): number {
    return this.#units(length) * this.#alignBytes;
  }

  #check(range: L1Range, endOfPrevious: number): void {
    const { offset, length } = range;
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length <= 0) {
      throw corrupt(range, "is not a range of bytes");
    }
    if (offset % this.#alignBytes !== 0) throw corrupt(range, `is not aligned to ${this.#alignBytes} bytes`);
    if (offset < endOfPrevious * this.#alignBytes) throw corrupt(range, "overlaps the one before it");
    const end = offset + this.roundUp(length);
    if (end > this.capacityBytes) throw corrupt(range, `ends beyond L1 (${this.capacityBytes} bytes)`);
    if (Math.floor(offset / this.#viewBytes) !== Math.floor((end - 1) / this.#viewBytes)) {
      throw corrupt(range, `crosses a multiple of ${this.#viewBytes} bytes`);
    }
  }

  #units(length: number): number {
    return Math.ceil(length / this.#alignBytes);
  }

  #emptyMap(): RangeMap {
    return new RangeMap(this.#viewBytes / this.#alignBytes);
  }
}

/**
 * An empty allocator over L1.
 *
 * @throws TypeError if `alignBytes` is not a power of two or `viewBytes` not a multiple of it.
 * @throws CacheError `INVALID_CONFIG` if L1 has more than 2^32 - 1 aligned places.
 */
export function createL1Allocator(options: L1AllocatorOptions): L1Allocator {
  const { alignBytes, capacityBytes, viewBytes = DEFAULT_VIEW_BYTES } = options;
  if (!Number.isSafeInteger(alignBytes) || alignBytes <= 0 || !Number.isInteger(Math.log2(alignBytes))) {
    throw new TypeError(`alignBytes must be a power of two, got ${alignBytes}`);
  }
  if (!Number.isSafeInteger(viewBytes) || viewBytes <= 0 || viewBytes % alignBytes !== 0) {
    throw new TypeError(`viewBytes must be a multiple of alignBytes (${alignBytes}), got ${viewBytes}`);
  }
  return new BestFitAllocator(alignBytes, viewBytes, capacityBytes);
}

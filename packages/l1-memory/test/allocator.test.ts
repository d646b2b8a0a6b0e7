import { hasCode } from "@cache/contracts";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createL1Allocator, type L1Allocator, type L1Range } from "../src/index.ts";

const ALIGN = 16;
const VIEW = 512;

/** The same by brute force: one flag a unit. */
class NaiveModel {
  units: boolean[];
  ranges: L1Range[] = [];

  constructor(capacity: number) {
    this.units = Array.from({ length: Math.floor(capacity / ALIGN) }, () => false);
  }

  grow(capacity: number): void {
    while (this.units.length < Math.floor(capacity / ALIGN)) this.units.push(false);
  }

  /** Free runs, cut at views' ends. */
  holes(): L1Range[] {
    const holes: L1Range[] = [];
    let start = -1;
    for (let unit = 0; unit <= this.units.length; unit++) {
      const ends = unit === this.units.length || this.units[unit] || (unit * ALIGN) % VIEW === 0;
      if (start >= 0 && ends) {
        holes.push({ offset: start * ALIGN, length: (unit - start) * ALIGN });
        start = -1;
      }
      if (start < 0 && unit < this.units.length && !this.units[unit]) start = unit;
    }
    return holes;
  }

  bestFit(length: number): number {
    const fits = this.holes().filter((hole) => hole.length >= length);
    fits.sort((a, b) => a.length - b.length || a.offset - b.offset);
    return fits[0]?.offset ?? -1;
  }

  set(range: L1Range, used: boolean): void {
    const end = Math.ceil((range.offset + range.length) / ALIGN);
    for (let unit = range.offset / ALIGN; unit < end; unit++) this.units[unit] = used;
    if (used) this.ranges.push(range);
    else this.ranges = this.ranges.filter((r) => r.offset !== range.offset);
  }

  get used(): number {
    return this.units.filter(Boolean).length * ALIGN;
  }
}

function expectEqual(allocator: L1Allocator, model: NaiveModel): void {
  expect(allocator.usedBytes).toBe(model.used);
  expect(allocator.capacityBytes).toBe(model.units.length * ALIGN);
  expect(allocator.largestFreeBytes).toBe(Math.max(0, ...model.holes().map((hole) => hole.length)));
}

const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant("take" as const), n: fc.integer({ min: 1, max: 600 }) }),
  },
  { weight: 5, arbitrary: fc.record({ do: fc.constant("give" as const), n: fc.nat(10_000) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("grow" as const), n: fc.integer({ min: 0, max: 700 }) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("rebuild" as const), n: fc.nat(7) }) },
);

describe("createL1Allocator", () => {
  it("does what brute force does, also after rebuild and grow", () => {
    fc.assert(
      fc.property(fc.nat(3000), fc.array(step, { maxLength: 150 }), (capacity, steps) => {
        const allocator = createL1Allocator({ capacityBytes: capacity, alignBytes: ALIGN, viewBytes: VIEW });
        const model = new NaiveModel(capacity);
        for (const { do: what, n } of steps) {
          if (what === "take") {
            const expected = model.bestFit(n);
            expect(allocator.allocate(n)).toBe(expected);
            if (expected >= 0) model.set({ offset: expected, length: n }, true);
          } else if (what === "give" && model.ranges.length > 0) {
            const range = model.ranges[n % model.ranges.length];
            if (range === undefined) continue;
            allocator.free(range.offset, range.length);
            model.set(range, false);
            expect(() => allocator.free(range.offset, range.length)).toThrow(TypeError);
          } else if (what === "grow") {
            const larger = allocator.capacityBytes + n;
            allocator.grow(larger);
            model.grow(larger);
          } else if (what === "rebuild") {
            // Some are dropped, as a recovery that forgets objects does; the order is any.
            model.ranges.filter((_, i) => i % 8 === n).forEach((range) => model.set(range, false));
            allocator.rebuild(model.ranges.toReversed());
          }
          expectEqual(allocator, model);
        }
      }),
      { numRuns: 300 },
    );
  });

  it("frees only exactly what was handed out", () => {
    const allocator = createL1Allocator({ capacityBytes: 4096, alignBytes: 16 });
    const offset = allocator.allocate(100);
    expect(() => allocator.free(offset, 99)).toThrow(TypeError);
    expect(() => allocator.free(offset, 112)).toThrow(TypeError);
    expect(() => allocator.free(offset + 16, 84)).toThrow(TypeError);
    expect(() => allocator.free(Number.NaN, 100)).toThrow(TypeError);
    allocator.free(offset, 100);
    expect(allocator.usedBytes).toBe(0);
    expect(allocator.largestFreeBytes).toBe(4096);
  });

  it("keeps ranges inside 4 GiB views of a large pool", () => {
    const gib = 2 ** 30;
    const allocator = createL1Allocator({ capacityBytes: 9 * gib, alignBytes: 4096 });
    expect(allocator.largestFreeBytes).toBe(4 * gib);
    expect(allocator.allocate(4 * gib + 1)).toBe(-1);
    const offsets = [allocator.allocate(3 * gib), allocator.allocate(3 * gib)];
    expect(offsets.toSorted((a, b) => a - b)).toEqual([0, 4 * gib]);
    expect([1, 2, 3].map(() => allocator.allocate(gib) / gib)).toEqual([3, 7, 8]);
    expect(allocator.allocate(1)).toBe(-1);
    expect(allocator.usedBytes).toBe(9 * gib);
  });

  it.each([
    [
      "overlap",
      [
        { offset: 0, length: 100 },
        { offset: 96, length: 16 },
      ],
    ],
    [
      "equal",
      [
        { offset: 64, length: 8 },
        { offset: 64, length: 8 },
      ],
    ],
    ["beyond the end", [{ offset: 4080, length: 17 }]],
    ["far outside", [{ offset: 2 ** 50, length: 16 }]],
    ["negative", [{ offset: -16, length: 16 }]],
    ["unaligned", [{ offset: 8, length: 8 }]],
    ["empty", [{ offset: 0, length: 0 }]],
    [
      "not a number",
      [
        { offset: 0, length: 16 },
        { offset: Number.NaN, length: 16 },
      ],
    ],
    ["across a view's end", [{ offset: 496, length: 32 }]],
  ])("refuses to rebuild from ranges that are wrong (%s) and stays as it was", (_name, ranges) => {
    const allocator = createL1Allocator({ capacityBytes: 4096, alignBytes: ALIGN, viewBytes: VIEW });
    const offset = allocator.allocate(300);
    let error: unknown;
    try {
      allocator.rebuild(ranges);
    } catch (thrown) {
      error = thrown;
    }
    expect(hasCode(error, "DATA_CORRUPT")).toBe(true);
    expect(allocator.usedBytes).toBe(304);
    allocator.free(offset, 300);
  });

  it("refuses bad arguments", () => {
    const allocator = createL1Allocator({ capacityBytes: 4096, alignBytes: 4096 });
    for (const length of [0, -1, 1.5, Number.NaN])
      expect(() => allocator.allocate(length)).toThrow(TypeError);
    expect(() => allocator.grow(0)).toThrow(TypeError);
    expect(() => allocator.grow(Number.NaN)).toThrow(TypeError);
    expect(() => createL1Allocator({ capacityBytes: 1, alignBytes: 3 })).toThrow(TypeError);
    expect(() => createL1Allocator({ capacityBytes: 1, alignBytes: 16, viewBytes: 24 })).toThrow(TypeError);
    let error: unknown;
    try {
      createL1Allocator({ capacityBytes: 2 ** 40, alignBytes: 16 });
    } catch (thrown) {
      error = thrown;
    }
    expect(hasCode(error, "INVALID_CONFIG")).toBe(true);
  });

  it("gives back the lowest of 100,000 equal holes each time", () => {
    const allocator = createL1Allocator({ capacityBytes: 2 ** 32, alignBytes: 4096 });
    const offsets = Array.from({ length: 200_000 }, () => allocator.allocate(4096));
    // Every second one freed: 100,000 holes of one size, the worst case for a list per size.
    for (let i = 0; i < offsets.length; i += 2) allocator.free(offsets[i] ?? -1, 4096);
    expect(allocator.usedBytes).toBe(100_000 * 4096);
    for (let i = 0; i < 100_000; i++) expect(allocator.allocate(4096)).toBe(i * 2 * 4096);
    expect(allocator.usedBytes).toBe(200_000 * 4096);
  });
});

import fc from "fast-check";
import { expect, test } from "vitest";
import { Bitmap } from "../src/index.ts";

test("a bitmap agrees with a set of positions", () => {
  const commands = fc.array(fc.tuple(fc.boolean(), fc.nat(129)), { maxLength: 200 });
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 130 }), commands, (size, steps) => {
      const bitmap = new Bitmap(size);
      const model = new Set<number>();
      for (const [set, position] of steps) {
        if (position >= size) continue;
        if (set) bitmap.set(position);
        else bitmap.clear(position);
        if (set) model.add(position);
        else model.delete(position);
      }
      const sorted = [...model].sort((a, b) => a - b);
      expect([...bitmap.positions()]).toEqual(sorted);
      expect(bitmap.count()).toBe(model.size);
      const firstClear = Array.from({ length: size }, (_, i) => i).find((i) => !model.has(i));
      expect(bitmap.prefixLength()).toBe(firstClear ?? size);
      const items = Array.from({ length: size }, (_, i) => `item ${i}`);
      expect(bitmap.gather(items)).toEqual(sorted.map((i) => `item ${i}`));
      expect([...Bitmap.of(size, sorted).positions()]).toEqual(sorted);
    }),
  );
});

test.each([0, 1, 31, 32, 33, 64, 100])("a full bitmap of %i has every position", (size) => {
  expect(Bitmap.full(size).count()).toBe(size);
  expect(Bitmap.full(size).prefixLength()).toBe(size);
});

test("positions outside and bad sizes are refused", () => {
  const bitmap = new Bitmap(3);
  for (const position of [-1, 3, 0.5, Number.NaN]) {
    expect(() => bitmap.has(position)).toThrow(RangeError);
    expect(() => bitmap.set(position)).toThrow(RangeError);
    expect(() => bitmap.clear(position)).toThrow(RangeError);
  }
  for (const size of [-1, 1.5, Number.NaN]) expect(() => new Bitmap(size)).toThrow(RangeError);
});

test("gather ignores items beyond the bitmap", () => {
  expect(Bitmap.full(1).gather(["a", "b"])).toEqual(["a"]);
});

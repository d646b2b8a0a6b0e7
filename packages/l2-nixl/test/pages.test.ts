import fc from "fast-check";
import { expect, test } from "vitest";
import { type PageRun, Pages } from "../src/pages.ts";

const listed = (runs: readonly PageRun[]): number[] =>
  runs.flatMap(({ first, count }) => Array.from({ length: count }, (_, i) => first + i));

test("takes neighbours, goes round, and gives out no page twice", () => {
  const pages = new Pages(70);
  expect(pages.take(40)).toEqual([{ first: 0, count: 40 }]);
  expect(pages.take(31)).toBeNull();
  expect(pages.take(0)).toBeNull();
  const second = pages.take(30);
  expect(second).toEqual([{ first: 40, count: 30 }]);
  expect(pages.free).toBe(0);
  pages.release([{ first: 10, count: 5 }]);
  pages.release([{ first: 50, count: 5 }]);
  expect(listed(pages.take(7) ?? [])).toEqual([10, 11, 12, 13, 14, 50, 51]);
});

test("a page that was freed is reused last", () => {
  const pages = new Pages(10);
  pages.take(3);
  pages.release([{ first: 0, count: 3 }]);
  expect(pages.take(7)).toEqual([{ first: 3, count: 7 }]);
  expect(pages.take(1)).toEqual([{ first: 0, count: 1 }]);
});

test("a page that is given back twice, or is none, is an error", () => {
  const pages = new Pages(8);
  pages.take(2);
  pages.release([{ first: 0, count: 1 }]);
  expect(() => pages.release([{ first: 0, count: 1 }])).toThrow(/page 0 was given back twice/);
  for (const run of [
    { first: -1, count: 1 },
    { first: 8, count: 1 },
    { first: 7, count: 2 },
    { first: 0, count: 0 },
  ])
    expect(() => pages.release([run])).toThrow(RangeError);
  expect(() => new Pages(0)).toThrow(TypeError);
  expect(() => new Pages(2 ** 32)).toThrow(TypeError);
});

test("claims all or nothing", () => {
  const pages = new Pages(64);
  expect(
    pages.claim([
      { first: 5, count: 3 },
      { first: 30, count: 10 },
    ]),
  ).toBe(true);
  expect(
    pages.claim([
      { first: 0, count: 3 },
      { first: 38, count: 4 },
    ]),
  ).toBe(false);
  expect(
    pages.claim([
      { first: 0, count: 2 },
      { first: 1, count: 2 },
    ]),
  ).toBe(false);
  expect(pages.free).toBe(51);
  expect(pages.claim([{ first: 0, count: 5 }])).toBe(true);
});

test("agrees with a set, whatever is taken and given back", () => {
  const step = fc.record({ take: fc.boolean(), count: fc.integer({ min: 1, max: 40 }), pick: fc.nat() });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 130 }), fc.array(step, { maxLength: 60 }), (count, steps) => {
      const pages = new Pages(count);
      const taken = new Set<number>();
      const held: PageRun[][] = [];
      for (const one of steps) {
        if (one.take) {
          const runs = pages.take(one.count);
          expect(runs === null).toBe(one.count > count - taken.size);
          if (runs === null) continue;
          expect(listed(runs)).toHaveLength(one.count);
          for (const page of listed(runs)) {
            expect(taken.has(page)).toBe(false);
            taken.add(page);
          }
          held.push(runs);
        } else if (held.length > 0) {
          const [runs = []] = held.splice(one.pick % held.length, 1);
          pages.release(runs);
          for (const page of listed(runs)) taken.delete(page);
        }
        expect(pages.free).toBe(count - taken.size);
      }
    }),
  );
});

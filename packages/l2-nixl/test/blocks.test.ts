import { expect, test } from "vitest";
import type { NixlAgent } from "../src/agent.ts";
import { Blocks, piecesOf } from "../src/memory.ts";

const blocksOf = (): Blocks => new Blocks({} as NixlAgent, 16, () => 4096);

test.each([[["second", "other"]], [["second", "third", "other"]]])(
  "who waited for blocks has them all, also if another asks before it goes on (%s)",
  async (expected) => {
    const blocks = blocksOf();
    const lent: string[] = [];
    const take = (who: string, count: number): Promise<void> =>
      blocks.use(count, async (given) => {
        expect([given.length, new Set(given).size]).toEqual([count, count]);
        lent.push(who);
        await new Promise((resolve) => setImmediate(resolve));
      });
    let end: () => void = () => undefined;
    const all = [blocks.use(Blocks.most, () => new Promise<void>((resolve) => (end = resolve)))];
    all.push(take("second", Blocks.most - 1));
    if (expected.length > 2) all.push(take("third", 1));
    end();
    // Runs when the first has given its blocks back, and before the second goes on with them.
    all.push(Promise.resolve().then(() => take("other", Blocks.most)));
    await Promise.all(all);
    expect(lent).toEqual(expected);
  },
);

test("the last part of an object is never left out", () => {
  const ranges = [{ device: 3, offset: 0, byteLength: 32 }];
  expect(piecesOf(4096, 20, ranges, 16, 8192)).toHaveLength(2);
  expect(() => piecesOf(4096, 20, ranges, 16, null)).toThrow(TypeError);
});

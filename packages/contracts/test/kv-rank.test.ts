import fc from "fast-check";
import { expect, test } from "vitest";
import { hasCode, packKvRank, unpackKvRank, workerKvRank } from "../src/index.ts";

// LMCache 0.5.6: world size and worker id as its server packs them.
test.each([
  [1, 0, 16777472],
  [2, 0, 33554944],
  [2, 1, 33620481],
  [4, 3, 67306499],
  [8, 5, 134547461],
])("worker of world size %i with id %i has kv rank %i", (worldSize, workerId, kvRank) => {
  expect(workerKvRank(worldSize, workerId)).toBe(kvRank);
});

test("the largest world stays unsigned", () => {
  expect(workerKvRank(255, 254)).toBe(0xfffefffe);
});

const half = fc.integer({ min: 1, max: 255 }).chain((size) => fc.tuple(fc.constant(size), fc.nat(size - 1)));

test("unpack undoes pack, and pack undoes unpack", () => {
  fc.assert(
    fc.property(half, half, ([worldSize, globalRank], [localWorldSize, localRank]) => {
      const parts = { worldSize, globalRank, localWorldSize, localRank };
      expect(unpackKvRank(packKvRank(parts))).toEqual(parts);
      expect(packKvRank(unpackKvRank(packKvRank(parts)))).toBe(packKvRank(parts));
    }),
  );
});

test.each([
  [256, 0],
  [0, 0],
  [2, 2],
  [2, -1],
  [2.5, 1],
  [3, 0.5],
  [Number.NaN, 0],
])("rank part %d of %d does not spill into its neighbour", (size, rank) => {
  for (const pack of [
    () => workerKvRank(size, rank),
    () => packKvRank({ worldSize: 4, globalRank: 1, localWorldSize: size, localRank: rank }),
  ]) {
    expect(pack).toThrow(expect.objectContaining({ code: "INVALID_KEY" }));
  }
});

test("any 32-bit value has parts", () => {
  expect(unpackKvRank(0xffffffff)).toEqual({
    worldSize: 255,
    globalRank: 255,
    localWorldSize: 255,
    localRank: 255,
  });
  expect(hasCode(new Error("x"), "INVALID_KEY")).toBe(false);
});

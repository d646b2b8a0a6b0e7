import fc from "fast-check";
import { expect, it } from "vitest";
import { ChunkIndex } from "../../src/kv-events/chunk-index.ts";
import { KeyTable } from "../../src/state/key-table.ts";

const KEYS = 60;

/** Hashes that share parts and places, so that they stand in each other's way. */
function hashOf(chunk: number): Uint8Array {
  const hash = new Uint8Array(32);
  hash[1] = chunk % 3;
  hash[31] = chunk;
  return hash;
}

it("finds exactly the chunks that have keys, under collisions, growth and removals", () => {
  const keys = new KeyTable();
  const names = ["a", "b", "c"].flatMap((modelName) =>
    ["", "tenant"].map((cacheSalt) => ({ modelName, kvRank: 0, objectGroupId: 0, cacheSalt })),
  );
  for (const [number, group] of names.entries()) keys.defineGroup(number, group);
  for (let key = 0; key < KEYS; key++) keys.bind(key, key % 6, hashOf(Math.floor(key / 6)), 0);
  const tagOf = (key: number): number => (key % 6 < 2 ? 1 : key % 6 < 4 ? 2 : 2 ** 47);
  const chunkOf = (key: number): string => `${tagOf(key)}/${Math.floor(key / 6)}`;
  fc.assert(
    fc.property(fc.array(fc.nat(KEYS - 1), { maxLength: 200 }), (toggles) => {
      const index = new ChunkIndex(keys, tagOf);
      const members = new Map<string, Set<number>>();
      for (const key of toggles) {
        const chunk = members.get(chunkOf(key)) ?? new Set<number>();
        members.set(chunkOf(key), chunk);
        if (chunk.has(key)) {
          chunk.delete(key);
          expect(index.remove(key)).toBe(chunk.size === 0);
        } else {
          expect(index.add(key)).toBe(chunk.size === 0);
          chunk.add(key);
        }
        for (let other = 0; other < KEYS; other += 2) {
          const found = index.find(tagOf(other), hashOf(Math.floor(other / 6)));
          const wanted = members.get(chunkOf(other)) ?? new Set();
          expect(wanted.size === 0 ? found === -1 : wanted.has(found)).toBe(true);
        }
      }
    }),
    { numRuns: 150 },
  );
});

import { keyString, objectKey } from "@cache/contracts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { clusterSlot, decodeWireKey, encodeWireKey, scanPattern } from "../src/names.ts";

// Made by LMCache 0.5.6 (`_object_key_to_string`).
const VECTORS: [string, string, number, number, string, string][] = [
  ["deadbeef", "meta-llama/Llama-3.1-8B", 0x01000100, 0, "", "meta-llama/Llama-3.1-8B@01000100@0@deadbeef"],
  [
    "b18efa847f7a3fa48fe0aafd4a6250aa5129740e05126859377af20cedafdeee",
    "Qwen/Qwen2.5-0.5B-Instruct",
    0x08050805,
    3,
    "tenant-a",
    "Qwen/Qwen2.5-0.5B-Instruct@08050805@3@b18efa847f7a3fa48fe0aafd4a6250aa5129740e05126859377af20cedafdeee@tenant-a",
  ],
  ["0001", "local--model", 0x02010201, 17, "ü salt+%", "local--model@02010201@11@0001@ü salt+%"],
  ["00".repeat(16), "a/b/c", 0xff00ff00, 255, "", `a/b/c@ff00ff00@ff@${"00".repeat(16)}`],
];

test.each(VECTORS)("LMCache's name of %s %s", (hash, modelName, kvRank, objectGroupId, cacheSalt, name) => {
  const key = objectKey({ chunkHash: Buffer.from(hash, "hex"), modelName, kvRank, objectGroupId, cacheSalt });
  expect(encodeWireKey(key, "")).toBe(name);
  expect(encodeWireKey(key, "team")).toBe(`team@${name}`);
});

const isWhole = (value: string): boolean => !/\p{Surrogate}/u.test(value);
const text = fc.string({ unit: "grapheme", maxLength: 20 });
const anyKey = fc
  .record({
    chunkHash: fc.uint8Array({ minLength: 1, maxLength: 64 }),
    modelName: text.filter((name) => name !== "" && !/[@\0]/.test(name) && isWhole(name)),
    kvRank: fc.nat(0xffffffff),
    objectGroupId: fc.nat(0xffffffff),
    cacheSalt: text.filter((salt) => !/[@/\\\0]/.test(salt) && isWhole(salt)),
  })
  .map((fields) => objectKey(fields));
const anyPrefix = text.filter((prefix) => !/[@\0\r\n]/.test(prefix) && isWhole(prefix));

test("any key comes back from its name", () => {
  fc.assert(
    fc.property(anyKey, anyPrefix, (key, prefix) => {
      const decoded = decodeWireKey(encodeWireKey(key, prefix), prefix);
      expect(decoded === null ? null : keyString(decoded)).toBe(keyString(key));
    }),
  );
});

test("names of others are nobody's key", () => {
  const hash = "ab".repeat(32);
  for (const name of [
    "",
    "x",
    `m@01000100@0`,
    `m@0x01000100@0@${hash}`,
    `m@01000100@00@${hash}`,
    `m@0100010@0@${hash}`,
  ]) {
    expect(decodeWireKey(name, "")).toBeNull();
  }
  for (const name of [
    `m@01000100@0@${hash}@`,
    `m@01000100@0@${hash.toUpperCase()}`,
    `m@01000100@0@${hash}@a@b`,
    `@01000100@0@${hash}`,
  ]) {
    expect(decodeWireKey(name, "")).toBeNull();
  }
  expect(decodeWireKey(`m@01000100@0@${hash}`, "team")).toBeNull();
  expect(decodeWireKey(`team@m@01000100@0@${hash}`, "")).toBeNull();
});

test("a pattern's special characters stand for themselves", () => {
  expect(scanPattern("a*b", "m?[x]\\y-z")).toBe("a\\*b@m\\?\\[x\\]\\\\y\\-z@????????@*@*");
  expect(scanPattern("")).toBe("*@????????@*@*");
});

test("cluster slots as Redis computes them", () => {
  // Answers of CLUSTER KEYSLOT.
  expect(clusterSlot("123456789")).toBe(12739);
  expect(clusterSlot("foo")).toBe(12182);
  expect(clusterSlot("{user1000}.following")).toBe(clusterSlot("{user1000}.followers"));
  expect(clusterSlot("foo{}{bar}")).toBe(clusterSlot("foo{}{bar}"));
  expect(clusterSlot("foo{{bar}}zap")).toBe(clusterSlot("{bar"));
  expect(clusterSlot("foo{bar}{zap}")).toBe(clusterSlot("bar"));
  expect(clusterSlot("foo{}bar")).not.toBe(clusterSlot(""));
});

import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  CACHE_SALT_CHARS_MAX,
  CHUNK_HASH_BYTES_MAX,
  decodeObjectKey,
  type EncodedObjectKey,
  encodeObjectKey,
  hasCode,
  keyString,
  MODEL_NAME_BYTES_MAX,
  type ObjectKeyFields,
  objectKey,
} from "../src/index.ts";

const good: ObjectKeyFields = { chunkHash: Buffer.from("deadbeef", "hex"), modelName: "m", kvRank: 1 };

const fields: fc.Arbitrary<Required<ObjectKeyFields>> = fc.record({
  chunkHash: fc.uint8Array({ minLength: 1, maxLength: CHUNK_HASH_BYTES_MAX }),
  modelName: fc
    .string({ unit: "grapheme", minLength: 1, maxLength: 40 })
    .filter((name) => !/[@\0]/.test(name) && Buffer.byteLength(name) <= MODEL_NAME_BYTES_MAX),
  kvRank: fc.nat(0xffffffff),
  objectGroupId: fc.nat(0xffffffff),
  cacheSalt: fc.string({ unit: "grapheme", maxLength: 30 }).filter((salt) => !/[@/\\\0]/.test(salt)),
});

function refused(bad: Partial<ObjectKeyFields>): unknown {
  try {
    return objectKey({ ...good, ...bad });
  } catch (error) {
    return hasCode(error, "INVALID_KEY") ? "INVALID_KEY" : error;
  }
}

describe("invariants", () => {
  const bad: Record<string, Partial<ObjectKeyFields>> = {
    "empty hash": { chunkHash: new Uint8Array() },
    "hash too long": { chunkHash: new Uint8Array(CHUNK_HASH_BYTES_MAX + 1) },
    "empty model": { modelName: "" },
    "@ in model": { modelName: "a@b" },
    "NUL in model": { modelName: "a\0b" },
    "model too long": { modelName: "ü".repeat(MODEL_NAME_BYTES_MAX / 2 + 1) },
    "half a character in model": { modelName: "a\ud800" },
    "half a character in salt": { cacheSalt: "\udc00a" },
    "negative rank": { kvRank: -1 },
    "rank of 33 bits": { kvRank: 2 ** 32 },
    "fractional rank": { kvRank: 1.5 },
    "rank NaN": { kvRank: Number.NaN },
    "negative group": { objectGroupId: -1 },
    "group of 33 bits": { objectGroupId: 2 ** 32 },
    "@ in salt": { cacheSalt: "a@b" },
    "/ in salt": { cacheSalt: "a/b" },
    "\\ in salt": { cacheSalt: "a\\b" },
    "NUL in salt": { cacheSalt: "a\0b" },
    "salt too long": { cacheSalt: "s".repeat(CACHE_SALT_CHARS_MAX + 1) },
  };
  for (const [name, field] of Object.entries(bad)) {
    test(`${name} is refused`, () => expect(refused(field)).toBe("INVALID_KEY"));
  }

  test("bounds themselves are accepted, and characters of the salt are counted, not bytes", () => {
    expect(objectKey({ ...good, chunkHash: new Uint8Array(CHUNK_HASH_BYTES_MAX) }).kvRank).toBe(1);
    expect(objectKey({ ...good, cacheSalt: "🚀".repeat(CACHE_SALT_CHARS_MAX) }).cacheSalt.length).toBe(256);
    expect(objectKey({ ...good, modelName: "m".repeat(MODEL_NAME_BYTES_MAX) }).objectGroupId).toBe(0);
    expect(objectKey({ ...good, kvRank: 0xffffffff, objectGroupId: 0xffffffff }).kvRank).toBe(0xffffffff);
  });

  test("the message names the field, and a long value is cut", () => {
    expect(() => objectKey({ ...good, cacheSalt: "s".repeat(5000) })).toThrow(
      /^cache_salt .{1,80}characters$/,
    );
    expect(() => objectKey({ ...good, modelName: "a@b" })).toThrow(/model_name "a@b" contains '@'/);
  });

  test("a key is frozen", () => expect(Object.isFrozen(objectKey(good))).toBe(true));
});

describe("encoding", () => {
  test("decode(encode(key)) is the key, also through JSON", () => {
    fc.assert(
      fc.property(fields, (one) => {
        const key = objectKey(one);
        const encoded = encodeObjectKey(key);
        expect(keyString(decodeObjectKey(JSON.parse(JSON.stringify(encoded)) as EncodedObjectKey))).toBe(
          keyString(key),
        );
        expect(encodeObjectKey(decodeObjectKey(encoded))).toEqual(encoded);
      }),
    );
  });

  test("group and salt may be left out", () => {
    const key = decodeObjectKey({ chunk_hash_hex: "00FF", model_name: "m", kv_rank: 3 });
    expect(encodeObjectKey(key)).toEqual({
      chunk_hash_hex: "00ff",
      model_name: "m",
      kv_rank: 3,
      object_group_id: 0,
      cache_salt: "",
    });
  });

  test.each(["", "0", "abc", "zz", "0x00", "00 11", "00\n"])("hash %j is refused", (chunk_hash_hex) => {
    expect(() => decodeObjectKey({ chunk_hash_hex, model_name: "m", kv_rank: 1 })).toThrow(/chunk_hash_hex/);
  });

  test("keys are equal exactly if their strings are", () => {
    fc.assert(
      fc.property(
        fields,
        fields,
        fc.subarray(["modelName", "kvRank", "cacheSalt"] as const),
        (a, b, same) => {
          const other = { ...b };
          for (const name of same) Object.assign(other, { [name]: a[name] });
          const equal =
            JSON.stringify(encodeObjectKey(objectKey(a))) ===
            JSON.stringify(encodeObjectKey(objectKey(other)));
          expect(keyString(objectKey(a)) === keyString(objectKey(other))).toBe(equal);
        },
      ),
    );
  });

  test("a hash that is a view into a larger buffer is read as the view", () => {
    const view = Buffer.from("00deadbeef00", "hex").subarray(1, 5);
    expect(keyString(objectKey({ ...good, chunkHash: view }))).toBe(keyString(objectKey(good)));
    expect(encodeObjectKey(objectKey({ ...good, chunkHash: view })).chunk_hash_hex).toBe("deadbeef");
  });

  // Computed by LMCache 0.5.6's own code.
  const vectors = JSON.parse(
    readFileSync(new URL("./vectors/object-keys.json", import.meta.url), "utf8"),
  ) as { key: EncodedObjectKey; wire: string }[];
  test.each(vectors)("LMCache's key $wire round-trips", ({ key, wire }) => {
    const decoded = decodeObjectKey(key);
    expect(encodeObjectKey(decoded)).toEqual(key);
    // keyString is no storage format; without a salt it happens to be LMCache's wire string and a separator.
    expect(keyString(decoded)).toBe(key.cache_salt === "" ? `${wire}@` : wire);
  });
});

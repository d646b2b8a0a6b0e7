import fc from "fast-check";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  decodeObjectKey,
  type EncodedObjectKey,
  keyString,
  objectKey,
  type ObjectNames,
  PERCENT_ENCODED_NAMES,
  URL_PATH_NAMES,
  WIRE_NAMES,
} from "../src/index.ts";

const vectors = JSON.parse(
  readFileSync(new URL("./vectors/object-names.json", import.meta.url), "utf8"),
) as readonly { key: EncodedObjectKey; wire: string; s3_path: string; hf: string }[];

const FORMS = { WIRE_NAMES, PERCENT_ENCODED_NAMES, URL_PATH_NAMES };

const field = (forbidden: RegExp, maxLength: number) =>
  fc
    .string({ unit: "grapheme", maxLength })
    .filter((text) => !forbidden.test(text) && !/\p{Surrogate}/u.test(text));
const anyKey = fc
  .record({
    chunkHash: fc.uint8Array({ minLength: 1, maxLength: 64 }),
    modelName: field(/[@\0]/, 40).filter((name) => name !== ""),
    kvRank: fc.nat(0xffffffff),
    objectGroupId: fc.nat(0xffffffff),
    cacheSalt: field(/[@/\\\0]/, 20),
  })
  .map(objectKey);

test("names are those that LMCache 0.5.6 computes, and lead back", () => {
  expect(vectors.length).toBeGreaterThan(3);
  for (const { key: encoded, wire, s3_path, hf } of vectors) {
    const key = decodeObjectKey(encoded);
    expect(WIRE_NAMES.encode(key)).toBe(wire);
    expect(`/${URL_PATH_NAMES.encode(key)}`).toBe(s3_path);
    expect(PERCENT_ENCODED_NAMES.encode(key)).toBe(hf);
    for (const [name, text] of Object.entries({ WIRE_NAMES: wire, PERCENT_ENCODED_NAMES: hf })) {
      const back = FORMS[name as keyof typeof FORMS].decode(text);
      expect(back === null ? null : keyString(back)).toBe(keyString(key));
    }
  }
});

const encodeOrNull = (names: ObjectNames, key: Parameters<ObjectNames["encode"]>[0]): string | null => {
  try {
    return names.encode(key);
  } catch (error) {
    expect(error).toMatchObject({ code: "AMBIGUOUS_NAME" });
    return null;
  }
};

test.each(Object.entries(FORMS))(
  "%s: decode undoes encode, and different keys have different names",
  (_, names) => {
    fc.assert(
      fc.property(anyKey, anyKey, (a, b) => {
        const [nameA, nameB] = [encodeOrNull(names, a), encodeOrNull(names, b)];
        if (nameA === null || nameB === null) return;
        const back = names.decode(nameA);
        expect(back === null ? null : keyString(back)).toBe(keyString(a));
        if (keyString(a) !== keyString(b)) expect(nameA).not.toBe(nameB);
      }),
    );
  },
);

test.each(Object.entries(FORMS))("%s: a foreign name is null, never another key", (_, names) => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme" }), (name) => {
      const key = names.decode(name);
      if (key !== null) expect(names.encode(key)).toBe(name);
    }),
  );
  for (const name of [
    "",
    "a@b",
    "m@01000100@0@deadbeef@s@t",
    "m@1000100@0@de",
    "m@01000100@00@de",
    "m@01000100@0@DE",
    "%",
    "%zz",
    "m@01000100@0@de@",
  ]) {
    expect(names.decode(name)).toBe(null);
  }
});

test.each(["..", "a/../b", "/abs", "a//b", "./x"])(
  "a path never has the folded segments of %j",
  (modelName) => {
    const key = objectKey({ chunkHash: Buffer.from([1]), modelName, kvRank: 1 });
    if (modelName === "..") expect(URL_PATH_NAMES.encode(key)).toBe("..%4000000001%400%4001");
    else expect(() => URL_PATH_NAMES.encode(key)).toThrow(/serve the model under another name/);
  },
);

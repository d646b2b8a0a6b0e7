import { readFileSync } from "node:fs";
import { decodeObjectKey, type EncodedObjectKey, keyString } from "@cache/contracts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { decodeFileName, encodeFileName, parseTemporaryName, shardOf, temporaryName } from "../src/names.ts";
import { key } from "./support/fixtures.ts";

/** Names that LMCache 0.5.6's own code gives. */
const vectors = JSON.parse(readFileSync(new URL("./vectors/object-keys.json", import.meta.url), "utf8")) as {
  readonly key: EncodedObjectKey;
  readonly name: string;
  readonly sharded: string;
}[];

test.each(vectors)("LMCache's name $name", ({ key: encoded, name, sharded }) => {
  const k = decodeObjectKey(encoded);
  if (k.modelName.includes("--")) {
    expect(() => encodeFileName(k)).toThrow(/share its file names/);
    return;
  }
  expect(encodeFileName(k)).toBe(name);
  expect(`${shardOf(k, true)}/${name}`).toBe(sharded);
  expect(shardOf(k, false)).toBe("");
  expect(keyString(decodeFileName(name) ?? key(0))).toBe(keyString(k));
});

test("every key that has a name has one of its own", () => {
  const model = fc.string({
    unit: fc.constantFrom("a", "/", "-", "_", "0", "."),
    minLength: 1,
    maxLength: 12,
  });
  const salt = fc.string({ unit: fc.constantFrom("a", "_", "0", ".", "-"), maxLength: 6 });
  const seen = new Map<string, string>();
  fc.assert(
    fc.property(
      model,
      salt,
      fc.nat(0xffffffff),
      fc.nat(300),
      (modelName, cacheSalt, kvRank, objectGroupId) => {
        const k = key(1, { modelName, cacheSalt, kvRank, objectGroupId });
        let name: string;
        try {
          name = encodeFileName(k);
        } catch {
          return; // ambiguous
        }
        const before = seen.get(name);
        if (before !== undefined) expect(before).toBe(keyString(k));
        seen.set(name, keyString(k));
        expect(keyString(decodeFileName(name) ?? key(0))).toBe(keyString(k));
      },
    ),
  );
});

test("ambiguous and overlong names are refused, with the other name and the fix", () => {
  expect(() => encodeFileName(key(1, { modelName: "a--b" }))).toThrow(/share its file names with "a\/b"/);
  expect(() => encodeFileName(key(1, { modelName: "m".repeat(250) }))).toThrow(/shorten model name/);
});

test("foreign names are no objects", () => {
  const good = encodeFileName(key(1));
  for (const name of [
    "",
    ".bin",
    "x.bin",
    good.slice(0, -4),
    `${good}.bin`,
    good.toUpperCase(),
    `x${good}@.bin`,
  ]) {
    expect(decodeFileName(name)).toBeNull();
  }
});

test("temporaries tell their writer, are no objects, and LMCache's close leaves them", () => {
  const owner = { hostToken: "0123abcd", pid: 42, openToken: "89abcdef" };
  const name = temporaryName(owner, 77);
  expect(parseTemporaryName(name)).toEqual(owner);
  expect(decodeFileName(name)).toBeNull();
  expect(name).not.toContain(".tmp.");
  expect(parseTemporaryName("x.tmp")).toBeNull();
});

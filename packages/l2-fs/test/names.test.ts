import { readdirSync, readFileSync } from "node:fs";
import {
  decodeObjectKey,
  type EncodedObjectKey,
  hasCode,
  keyString,
  type ObjectKey,
  objectKey,
} from "@cache/contracts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodeFileName, encodeFileName, parseTemporaryName, temporaryPrefix } from "../src/names.ts";
import { key } from "./fixtures.ts";

const vectors = JSON.parse(readFileSync(new URL("./vectors/object-keys.json", import.meta.url), "utf8")) as {
  key: EncodedObjectKey;
  fs: string;
}[];

function codeOf(run: () => unknown): string {
  try {
    run();
    return "none";
  } catch (error) {
    return (error as { code: string }).code;
  }
}

/** Any key that the contract allows, with the strings that names are made of. */
const anyKey: fc.Arbitrary<ObjectKey> = fc
  .record({
    chunkHash: fc.uint8Array({ minLength: 1, maxLength: 64 }),
    modelName: fc
      .array(fc.constantFrom("a", "/", "-", "SEP", "-SEP-", "-SEP", "SEP-", ".", "ü", "🚀", " "), {
        minLength: 1,
        maxLength: 10,
      })
      .map((parts) => parts.join("")),
    kvRank: fc.integer({ min: 0, max: 0xffffffff }),
    objectGroupId: fc.integer({ min: 0, max: 0xffffffff }),
    cacheSalt: fc.string({ maxLength: 20, unit: "grapheme" }).map((salt) => salt.replaceAll(/[@/\\\0]/g, "")),
  })
  .map((fields) => objectKey(fields));

describe("file names", () => {
  test.each(vectors)("LMCache's vector $fs", ({ key: encoded, fs }) => {
    expect(encodeFileName(decodeObjectKey(encoded))).toBe(fs);
    expect(keyString(decodeFileName(fs) as ObjectKey)).toBe(keyString(decodeObjectKey(encoded)));
  });

  test("the vectors are there, and so are the names of files that LMCache wrote", () => {
    expect(vectors.length).toBeGreaterThanOrEqual(5);
    for (const writer of ["fs", "fsn"]) {
      const names = readdirSync(new URL(`./vectors/serde/${writer}`, import.meta.url));
      expect(names).toHaveLength(3);
      for (const name of names) expect(encodeFileName(decodeFileName(name) as ObjectKey)).toBe(name);
    }
  });

  test("a name is refused with a typed error, or leads back to its key", () => {
    fc.assert(
      fc.property(anyKey, (k) => {
        let name: string;
        try {
          name = encodeFileName(k);
        } catch (error) {
          expect(hasCode(error, "AMBIGUOUS_NAME") || hasCode(error, "INVALID_KEY")).toBe(true);
          return;
        }
        expect(Buffer.byteLength(name)).toBeLessThanOrEqual(255);
        expect(name).not.toMatch(/[/\0]/);
        expect(Buffer.from(name).toString()).toBe(name);
        expect(keyString(decodeFileName(name) as ObjectKey)).toBe(keyString(k));
      }),
      { numRuns: 2000 },
    );
  });

  test("decoding is canonical: what decodes has exactly that name", () => {
    const parts = fc.constantFrom(
      "a-SEP-b",
      "@",
      "0x01000100",
      "0",
      "01",
      "DEADBEEF",
      "dead",
      ".data",
      "",
      "t",
    );
    fc.assert(
      fc.property(fc.array(parts, { maxLength: 11 }), (chosen) => {
        const name = chosen.join("");
        const k = decodeFileName(name);
        if (k !== null) expect(encodeFileName(k)).toBe(name);
      }),
      { numRuns: 5000 },
    );
  });

  test.each([
    "a@0x01000100@0@dead.tmp",
    "a@01000100@0@dead.data",
    "a@0x1000100@0@dead.data",
    "a@0x01000100@00@dead.data",
    "a@0x01000100@0@DEAD.data",
    "a@0x01000100@0@dea.data",
    "a@0x01000100@0@dead@.data",
    "a@0x01000100@0@dead@s@t.data",
    "@0x01000100@0@dead.data",
    "notes.data",
    ".data",
  ])("a foreign file is no object: %s", (name) => {
    expect(decodeFileName(name)).toBeNull();
  });

  test.each(["a-SEP-b", "-SEP-", "a-SEP/b", "x/-SEP-/y"])("the model name %s would collide", (modelName) => {
    expect(codeOf(() => encodeFileName(key(1, { modelName })))).toBe("AMBIGUOUS_NAME");
  });

  test.each(["a/SEP-b", "a-SEP", "SEP-b", "/", "a//b"])("the model name %s does not collide", (modelName) => {
    expect(decodeFileName(encodeFileName(key(1, { modelName })))?.modelName).toBe(modelName);
  });

  test("names beyond 255 bytes are refused", () => {
    expect(codeOf(() => encodeFileName(key(1, { cacheSalt: "🚀".repeat(128) })))).toBe("INVALID_KEY");
    const rest = Buffer.byteLength(encodeFileName(key(1, { modelName: "m" }))) - 1;
    expect(codeOf(() => encodeFileName(key(1, { modelName: "m".repeat(255 - rest) })))).toBe("none");
    expect(codeOf(() => encodeFileName(key(1, { modelName: "m".repeat(256 - rest) })))).toBe("INVALID_KEY");
  });
});

describe("temporary names", () => {
  const owner = { hostToken: "0123abcd", pid: 4711, openToken: "89ef0123" };

  test("carry adapter id and owner, and are never an object's", () => {
    const name = `${temporaryPrefix("fs.second/../x", owner)}z1.tmp`;
    expect(name).toBe(".cache-engine.fs_second____x.0123abcd.4711.89ef0123.z1.tmp");
    expect(parseTemporaryName(name)).toEqual(owner);
    expect(decodeFileName(name)).toBeNull();
  });

  test.each(["a@0x01000100@0@dead.tmp", ".cache-engine.fs.0123abcd.47.tmp", "x.tmp", ".tmp"])(
    "a foreign temporary is not ours: %s",
    (name) => expect(parseTemporaryName(name)).toBeNull(),
  );
});

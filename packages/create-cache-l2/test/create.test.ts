import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { run } from "../src/cli.ts";
import { createPackage, namesFor } from "../src/index.ts";

const directory = mkdtempSync(join(tmpdir(), "create-cache-l2-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

test.each([
  ["foo", "cache-l2-foo", "foo", "Foo", "foo"],
  ["cache-l2-foo", "cache-l2-foo", "foo", "Foo", "foo"],
  ["@you/foo-bar", "@you/cache-l2-foo-bar", "foo-bar", "FooBar", "fooBar"],
  ["@you/cache-l2-s3_x", "@you/cache-l2-s3_x", "s3_x", "S3X", "s3X"],
])("%s names package, type and identifiers", (text, packageName, type, pascal, camel) => {
  expect(namesFor(text)).toEqual({ packageName, type, pascal, camel, folder: `cache-l2-${type}` });
});

test.each(["", "Foo", "1foo", "a/b", "../x", "@/x", "foo bar", "@You/x", "a.b"])(
  "%j cannot name one",
  (text) => {
    expect(() => namesFor(text)).toThrow(/lower-case letters/);
  },
);

test("a type of ours is refused", () => expect(() => namesFor("fs")).toThrow(/taken/));

test("a directory that is not empty is left alone", () => {
  const target = join(directory, "full");
  mkdirSync(target);
  writeFileSync(join(target, "precious"), "1");
  expect(run(["foo", "--directory", target])).toMatchObject({
    code: 2,
    text: expect.stringMatching(/not empty/),
  });
  expect(readFileSync(join(target, "precious"), "utf8")).toBe("1");
});

test("no placeholder stays; dependencies lead to this clone", () => {
  const { files, directory: target } = createPackage("@you/foo-bar", join(directory, "new"));
  expect(files).toContain(".gitignore");
  expect(files).toContain(".github/workflows/release.yml");
  for (const file of files) expect(readFileSync(join(target, file), "utf8"), file).not.toMatch(/__[A-Za-z@]/);
  const json = JSON.parse(readFileSync(join(target, "package.json"), "utf8")) as Record<string, unknown>;
  expect(json).toMatchObject({
    name: "@you/cache-l2-foo-bar",
    license: "Apache-2.0",
    cacheL2: { types: ["foo-bar"], apiVersion: 1 },
    peerDependencies: { "@cache/contracts": expect.stringMatching(/^>=\d+\.\d+\.\d+ <\d+\.0\.0$/) },
  });
  const { dependencies } = json as { dependencies: Record<string, string> };
  const [, link = ""] = dependencies["@cache/simple-store"]?.split("file:") ?? [];
  expect(JSON.parse(readFileSync(join(target, link, "package.json"), "utf8"))).toMatchObject({
    name: "@cache/simple-store",
  });
});

test("the command says how to go on, and how it is used", () => {
  const target = join(directory, "by-command");
  expect(run(["foo", "--directory", target])).toMatchObject({
    code: 0,
    text: expect.stringMatching(/npm install && npm test\n\npackage.json leads to this clone's packages/),
  });
  expect(run([])).toMatchObject({ code: 2, text: expect.stringMatching(/^usage:/) });
  expect(run(["--help"])).toMatchObject({ code: 0 });
  expect(run(["foo", "--nonsense"])).toMatchObject({ code: 2, text: expect.stringMatching(/nonsense/) });
});

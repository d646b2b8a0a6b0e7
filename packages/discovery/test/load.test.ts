import { getRegisteredL2Adapter } from "@cache/contracts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { listAdapters, loadAdapter } from "@cache/discovery";
import { Tree } from "./trees.ts";

let tree: Tree;
beforeEach(() => {
  tree = new Tree();
  tree.contracts("node_modules");
});
afterEach(() => tree.remove());

const load = async (type: string, allow?: string[]) =>
  await loadAdapter(type, await listAdapters({ startDirectory: tree.root, allow }));

test("loads the package that claims the type, though it brings its own copy of contracts", async () => {
  tree.adapter("node_modules/@x/cache-l2-claimed", {
    name: "@x/cache-l2-claimed",
    types: ["claimed", "claimed2"],
  });
  const loaded = await load("claimed2");
  expect(loaded.package.name).toBe("@x/cache-l2-claimed");
  expect(loaded.registration).toBe(getRegisteredL2Adapter("claimed2"));
  expect((await load("claimed")).registration.type).toBe("claimed");
});

test("loads a package with only package.json and index.js, also one whose name says another type", async () => {
  tree.adapter("node_modules/cache-l2-aaa", { name: "cache-l2-aaa", source: "export {};" });
  tree.adapter("node_modules/cache-l2-bbb", { name: "cache-l2-bbb", registers: ["least"] });
  expect((await load("least")).package.name).toBe("cache-l2-bbb");
});

test("a failing package that the scan passes is reported, and does not stop it", async () => {
  tree.adapter("node_modules/cache-l2-a-fails", {
    name: "cache-l2-a-fails",
    source: "throw new Error('boom')",
  });
  tree.adapter("node_modules/cache-l2-b-works", { name: "cache-l2-b-works", registers: ["after-failure"] });
  const loaded = await load("after-failure");
  expect(loaded.failures.map((failure) => failure.message)).toEqual([expect.stringContaining("boom")]);
  await expect(load("nothing-has-this")).rejects.toMatchObject({
    code: "ADAPTER_TYPE_UNKNOWN",
    message: expect.stringContaining("boom"),
  });
});

test("a manifest wins over a package without one whose name says the type", async () => {
  tree.adapter("node_modules/cache-l2-won", { name: "cache-l2-won", registers: ["won"] });
  tree.adapter("node_modules/@x/cache-l2-other", { name: "@x/cache-l2-other", types: ["won"] });
  expect((await load("won")).package.name).toBe("@x/cache-l2-other");
});

test.each([
  ["with manifests", ["twice"]],
  ["by their names", undefined],
])("two claimants of a type %s are an error that names both", async (_how, types) => {
  tree.adapter("node_modules/cache-l2-twice", { name: "cache-l2-twice", ...(types && { types }) });
  tree.adapter("node_modules/@x/cache-l2-twice", { name: "@x/cache-l2-twice", ...(types && { types }) });
  await expect(load("twice")).rejects.toMatchObject({
    code: "ADAPTER_TYPE_CONFLICT",
    details: { type: "twice", packages: ["@x/cache-l2-twice", "cache-l2-twice"] },
  });
});

test("an allow list decides between claimants, and an excluded package is named", async () => {
  tree.adapter("node_modules/cache-l2-allowed", { name: "cache-l2-allowed", types: ["listed"] });
  tree.adapter("node_modules/@x/cache-l2-allowed", {
    name: "@x/cache-l2-allowed",
    types: ["listed", "unlisted"],
  });
  expect((await load("listed", ["cache-l2-allowed"])).package.name).toBe("cache-l2-allowed");
  await expect(load("unlisted", ["cache-l2-allowed"])).rejects.toMatchObject({
    code: "ADAPTER_TYPE_UNKNOWN",
    message: expect.stringContaining("@x/cache-l2-allowed offers it, but --adapter-allow does not name it"),
  });
});

test.each([
  [
    "has a broken package.json",
    (at: string) => tree.file(`${at}/package.json`, "{"),
    "ADAPTER_LOAD_FAILED",
    "JSON",
  ],
  [
    "fails on import",
    (at: string) =>
      tree.adapter(at, { name: "cache-l2-bad", types: ["bad"], source: "throw new Error('boom')" }),
    "ADAPTER_LOAD_FAILED",
    "boom",
  ],
  [
    "lacks a dependency",
    (at: string) => tree.adapter(at, { name: "cache-l2-bad", types: ["bad"], source: 'import "not-there";' }),
    "ADAPTER_LOAD_FAILED",
    "not-there",
  ],
  [
    "was built for another API",
    (at: string) => tree.adapter(at, { name: "cache-l2-bad", types: ["bad"], apiVersion: 7 }),
    "ADAPTER_API_INCOMPATIBLE",
    "adapter API 7",
  ],
  [
    "registers another type than it claims",
    (at: string) =>
      tree.adapter(at, { name: "cache-l2-bad", types: ["bad"], registers: [`worse-${Date.now()}`] }),
    "ADAPTER_NOT_REGISTERED",
    "registered 'worse-",
  ],
  [
    "has no built entry",
    (at: string) =>
      tree.adapter(at, { name: "cache-l2-bad", types: ["bad"], json: { exports: "./dist/index.js" } }),
    "ADAPTER_LOAD_FAILED",
    "is it built?",
  ],
  [
    "names an entry outside itself",
    (at: string) =>
      tree.adapter(at, { name: "cache-l2-bad", types: ["bad"], json: { main: "../outside.js" } }),
    "ADAPTER_NOT_REGISTERED",
    "registered nothing",
  ],
])("the error for a package that %s names package, type and cause", async (_what, make, code, text) => {
  const at = `node_modules/cache-l2-bad`;
  make(at);
  if (code === "ADAPTER_NOT_REGISTERED" && text === "registered nothing") {
    tree.file("node_modules/outside.js", "throw new Error('code from outside the package ran')");
    tree.file(`${at}/index.js`, "export {};");
    tree.file(
      `${at}/package.json`,
      `{"name":"cache-l2-bad","exports":"./../outside.js","cacheL2":{"types":["bad"],"apiVersion":1}}`,
    );
    await expect(load("bad")).rejects.toMatchObject({ code: "ADAPTER_LOAD_FAILED" });
    return;
  }
  const error = await load("bad").catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code, details: { package: "cache-l2-bad" } });
  expect(String(error)).toContain("cache-l2-bad");
  expect(String(error)).toContain("'bad'");
  expect(String(error)).toContain(text);
});

test("a package that registers under another package's name is refused", async () => {
  tree.adapter("node_modules/cache-l2-liar", {
    name: "cache-l2-liar",
    types: ["liar"],
    registersAs: "@cache/l2-fs",
  });
  await expect(load("liar")).rejects.toMatchObject({
    code: "ADAPTER_NOT_REGISTERED",
    message: expect.stringContaining("@cache/l2-fs registered it"),
  });
});

test("a package that registers a type of another package is a conflict naming both", async () => {
  tree.adapter("node_modules/cache-l2-first", { name: "cache-l2-first", types: ["taken"] });
  tree.adapter("node_modules/cache-l2-second", {
    name: "cache-l2-second",
    types: ["own"],
    registers: ["taken"],
  });
  await load("taken");
  const error = await load("own").catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: "ADAPTER_TYPE_CONFLICT" });
  expect(String(error)).toMatch(/cache-l2-first.*cache-l2-second/s);
});

test.each([
  ["redis", "npm install @cache/l2-redis"],
  ["resp", "npm install @cache/l2-redis"],
  ["nixl_store", "npm install @cache/l2-nixl"],
  ["hfbucket", "npm install @cache/l2-hfbucket"],
  ["s3", "named cache-l2-NAME or @scope/cache-l2-NAME, e.g. cache-l2-s3"],
  ["constructor", "e.g. cache-l2-constructor"],
  ["plugin", "install an adapter package"],
  ["fs_native", "use the type fs"],
  ["valkey", "use the type redis"],
])("the error for the unknown type %s says what to install", async (type, text) => {
  await expect(load(type)).rejects.toMatchObject({
    code: "ADAPTER_TYPE_UNKNOWN",
    message: expect.stringContaining(text),
  });
});

test.each(["near", "neaarby", "naerby", "nearbx"])(
  "a mistyped %s is told the type that it means",
  async (typed) => {
    tree.adapter("node_modules/cache-l2-nearby", { name: "cache-l2-nearby", types: ["nearby"] });
    const meant = typed === "near" ? /named cache-l2-NAME/ : /did you mean 'nearby'/;
    await expect(load(typed)).rejects.toMatchObject({ message: expect.stringMatching(meant) });
  },
);

test("a root that is a package itself is told its parent, above the scope if it has one", async () => {
  tree.adapter("mine/@x/cache-l2-toy", { name: "@x/cache-l2-toy", types: ["toy"] });
  tree.adapter("mine/toy", { name: "cache-l2-toy", types: ["toy"] });
  for (const [path, text] of [
    ["mine/@x/cache-l2-toy", `must be its parent directory, ${tree.path("mine")}`],
    ["mine/toy", "its folder must be called l2-NAME or cache-l2-NAME"],
  ] as const) {
    const listing = await listAdapters({ startDirectory: tree.root, only: [tree.path(path)] });
    const error = await loadAdapter("toy", listing).catch((thrown: unknown) => thrown);
    expect(String(error)).toContain("is a package itself: --adapter-root");
    expect(String(error)).toContain(text);
  }
});

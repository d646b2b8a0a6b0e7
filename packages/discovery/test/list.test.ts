import { mkdirSync } from "node:fs";
import { afterEach, beforeEach, expect, test } from "vitest";
import { listAdapters } from "@cache/discovery";
import { Tree } from "./trees.ts";

let tree: Tree;
beforeEach(() => {
  tree = new Tree();
});
afterEach(() => tree.remove());

const names = async (options: Parameters<typeof listAdapters>[0]) =>
  (await listAdapters(options)).packages.map((found) => found.name);

test("finds the three name patterns in npm's flat layout, and nothing else", async () => {
  const modules = "app/node_modules";
  tree.adapter(`${modules}/@cache/l2-one`, { name: "@cache/l2-one", types: ["one"] });
  tree.adapter(`${modules}/cache-l2-two`, { name: "cache-l2-two" });
  tree.adapter(`${modules}/@x/cache-l2-y`, { name: "@x/cache-l2-y", types: ["y", "y-fast"] });
  tree.adapter(`${modules}/@x/l2-z`, { name: "@x/l2-z" });
  tree.adapter(`${modules}/cache-l1-two`, { name: "cache-l1-two" });
  mkdirSync(tree.path(modules, "cache-l2-leftover"));
  const { packages, roots } = await listAdapters({ startDirectory: tree.path("app/src/deep") });
  expect(packages.map(({ name, types, hasManifest }) => ({ name, types, hasManifest }))).toEqual([
    { name: "@cache/l2-one", types: ["one"], hasManifest: true },
    { name: "@x/cache-l2-y", types: ["y", "y-fast"], hasManifest: true },
    { name: "cache-l2-two", types: ["two"], hasManifest: false },
  ]);
  expect(roots[0]?.directory).toBe(tree.path(modules));
});

test("imports nothing while listing", async () => {
  tree.adapter("app/node_modules/cache-l2-bomb", {
    name: "cache-l2-bomb",
    source: "throw new Error('imported')",
  });
  expect(await names({ startDirectory: tree.path("app") })).toEqual(["cache-l2-bomb"]);
});

test("lists a package once that pnpm's links reach on several ways", async () => {
  const real = "app/node_modules/.pnpm/@cache+l2-one@1.0.0/node_modules/@cache/l2-one";
  tree.adapter(real, { name: "@cache/l2-one", types: ["one"] });
  tree.link("app/node_modules/@cache/l2-one", real);
  tree.link("app/node_modules/.pnpm/node_modules/@cache/l2-one", real);
  const engine = "app/node_modules/.pnpm/@cache+engine@1.0.0/node_modules/@cache/engine";
  tree.file(`${engine}/bin/cache-engine.js`, "");
  tree.link("app/node_modules/@cache/engine", engine);
  const { packages } = await listAdapters({
    startDirectory: tree.path("app"),
    enginePath: tree.path("app/node_modules/@cache/engine/bin/cache-engine.js"),
  });
  expect(packages).toHaveLength(1);
  expect(packages[0]?.realDirectory).toBe(tree.path(real));
});

test("finds adapters that are installed globally beside the engine", async () => {
  tree.file("prefix/lib/node_modules/@cache/engine/bin/cache-engine.js", "");
  tree.adapter("prefix/lib/node_modules/@cache/l2-one", { name: "@cache/l2-one", types: ["one"] });
  tree.adapter("prefix/lib/node_modules/@x/cache-l2-y", { name: "@x/cache-l2-y", types: ["y"] });
  tree.link("prefix/bin/cache-engine", "prefix/lib/node_modules/@cache/engine/bin/cache-engine.js");
  mkdirSync(tree.path("elsewhere"));
  expect(
    await names({ startDirectory: tree.path("elsewhere"), enginePath: tree.path("prefix/bin/cache-engine") }),
  ).toEqual(["@cache/l2-one", "@x/cache-l2-y"]);
});

test("finds packages/l2-* of the clone that the engine runs from, also through a linked engine", async () => {
  tree.file("clone/pnpm-workspace.yaml", "packages: []\n");
  tree.file("clone/apps/engine/package.json", '{"name":"@cache/engine"}');
  tree.file("clone/apps/engine/bin/cache-engine.js", "");
  tree.adapter("clone/packages/l2-toy", { name: "@cache/l2-toy" });
  tree.adapter("clone/packages/contracts", { name: "@cache/contracts" });
  tree.link("app/node_modules/@cache/engine", "clone/apps/engine");
  expect(
    await names({
      startDirectory: tree.path("app"),
      enginePath: tree.path("app/node_modules/@cache/engine/bin/cache-engine.js"),
    }),
  ).toEqual(["@cache/l2-toy"]);
});

test("does not take another workspace's packages for the clone", async () => {
  tree.file("other/pnpm-workspace.yaml", "packages: []\n");
  tree.file("other/apps/engine/package.json", '{"name":"something-else"}');
  tree.file("other/apps/engine/bin/engine.js", "");
  tree.adapter("other/packages/l2-evil", { name: "l2-evil" });
  expect(
    await names({
      startDirectory: tree.path("other"),
      enginePath: tree.path("other/apps/engine/bin/engine.js"),
    }),
  ).toEqual([]);
});

test("uses the nearer of two packages with one name and shows the other as shadowed", async () => {
  tree.adapter("app/node_modules/cache-l2-a", { name: "cache-l2-a", types: ["a"] });
  tree.adapter("node_modules/cache-l2-a", { name: "cache-l2-a", types: ["a"] });
  const { packages } = await listAdapters({ startDirectory: tree.path("app") });
  expect(packages.map((found) => [found.directory, found.shadowedBy])).toEqual([
    [tree.path("app/node_modules/cache-l2-a"), null],
    [tree.path("node_modules/cache-l2-a"), tree.path("app/node_modules/cache-l2-a")],
  ]);
});

test("named roots replace all others and may hold l2-* folders directly", async () => {
  tree.adapter("app/node_modules/cache-l2-a", { name: "cache-l2-a" });
  tree.adapter("mine/l2-b", { name: "b" });
  tree.adapter("mine/@x/cache-l2-c", { name: "@x/cache-l2-c" });
  expect(await names({ startDirectory: tree.path("app"), only: ["../mine"] })).toEqual([
    "@x/cache-l2-c",
    "b",
  ]);
});

test("a named root that is not there is an error", async () => {
  await expect(listAdapters({ startDirectory: tree.root, only: ["nowhere"] })).rejects.toMatchObject({
    code: "INVALID_CONFIG",
    message: expect.stringContaining(tree.path("nowhere")),
  });
});

test.each([
  ["not JSON", "{", "cannot be read"],
  ["a list", "[]", "not a JSON object"],
  ["a manifest without types", '{"name":"cache-l2-a","cacheL2":{"apiVersion":1}}', '"types"'],
  ["a manifest with a bad type", '{"name":"cache-l2-a","cacheL2":{"types":["A.b"],"apiVersion":1}}', "A.b"],
  ["a manifest without version", '{"name":"cache-l2-a","cacheL2":{"types":["a"]}}', '"apiVersion"'],
])("lists a package whose package.json is %s with its problem", async (_what, content, text) => {
  tree.file("node_modules/cache-l2-a/package.json", content);
  const { packages } = await listAdapters({ startDirectory: tree.root });
  expect(packages[0]?.name).toBe("cache-l2-a");
  expect(packages[0]?.problem).toMatchObject({ code: "ADAPTER_LOAD_FAILED" });
  expect(packages[0]?.problem?.message).toContain(text);
});

test("lists a link that leads nowhere with its problem", async () => {
  tree.link("node_modules/@cache/l2-gone", "removed");
  const { packages } = await listAdapters({ startDirectory: tree.root });
  expect(packages[0]).toMatchObject({ name: "@cache/l2-gone", types: ["gone"], entry: null });
  expect(packages[0]?.problem?.message).toContain("leads nowhere");
});

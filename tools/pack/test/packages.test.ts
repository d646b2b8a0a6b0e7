import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";

interface PackedFile {
  readonly mode: number;
  readonly size: number;
  text(): string;
}

interface Packed {
  readonly name: string;
  readonly version: string;
  readonly folder: string;
  readonly size: number;
  readonly files: Map<string, PackedFile>;
  readonly manifest: Record<string, unknown>;
}

interface Findings {
  findings(packed: Packed, all: readonly Packed[]): string[];
  staleOutputs(packed: Packed): string[];
}

/** Bytes. The largest is storage-manager with about 280,000: a package that doubles has something in it. */
const TARBALL_SIZE_MAX = 500_000;

const directory = mkdtempSync(join(tmpdir(), "cache-pack-test-"));
let all: Packed[];
let contents: Findings;

beforeAll(async () => {
  // Not typed: programs that run on a bare Node.
  const pack = (await import(String(new URL("../pack.mjs", import.meta.url)))) as {
    packAll(into: string): Packed[];
  };
  contents = (await import(String(new URL("../contents.mjs", import.meta.url)))) as Findings;
  all = pack.packAll(directory);
});

afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
});

/** One package with some of its files replaced; null removes one. */
function changed(name: string, change: Record<string, string | null>, manifest = {}): string[] {
  const packed = all.find((found) => found.name === name)!;
  const files = new Map(packed.files);
  for (const [path, text] of Object.entries(change)) {
    if (text === null) files.delete(path);
    else files.set(path, { mode: 0o644, size: text.length, text: () => text });
  }
  return contents.findings({ ...packed, files, manifest: { ...packed.manifest, ...manifest } }, all);
}

test("every packed package holds what it should, and its manifest is fit to be published", () => {
  expect(all.map((packed) => packed.name)).toContain("@cache/engine");
  expect(all.flatMap((packed) => contents.findings(packed, all))).toEqual([]);
});

test("every package that was never released is named by a changeset", () => {
  const folder = fileURLToPath(new URL("../../../.changeset", import.meta.url));
  const changesets = readdirSync(folder)
    .filter((file) => file.endsWith(".md"))
    .map((file) => readFileSync(join(folder, file), "utf8"));
  const unnamed = all.filter(
    ({ name, version }) =>
      version === "0.0.0" && !changesets.some((text) => text.includes(`\n"${name}": minor\n`)),
  );
  expect(unnamed.map(({ name }) => name)).toEqual([]);
});

test("no package is suddenly large", () => {
  expect(all.filter(({ size }) => size > TARBALL_SIZE_MAX).map(({ name, size }) => [name, size])).toEqual([]);
});

test.each<[string, Record<string, string | null>, object, string]>([
  ["a test", { "dist/adapter.test.js": "" }, {}, "@cache/l2-fs: holds dist/adapter.test.js"],
  ["build information", { "dist/.tsbuildinfo": "{}" }, {}, "@cache/l2-fs: holds dist/.tsbuildinfo"],
  ["no licence", { LICENSE: null }, {}, "@cache/l2-fs: lacks LICENSE"],
  [
    "a map to elsewhere",
    { "dist/config.js.map": '{"sources":["../../../config.ts"]}' },
    {},
    "@cache/l2-fs: dist/config.js.map leads to ../../config.ts",
  ],
  [
    "a missing export",
    { "src/index.ts": null },
    {},
    "@cache/l2-fs: exports ./src/index.ts, which is not there",
  ],
  [
    "a workspace version",
    {},
    { dependencies: { "@cache/contracts": "workspace:^" } },
    "@cache/l2-fs: dependencies has @cache/contracts workspace:^",
  ],
  [
    "the contract as a dependency",
    {},
    { dependencies: { "@cache/contracts": "^0.0.0" } },
    "@cache/l2-fs: @cache/contracts is a dependency, not a peer",
  ],
  [
    "a private package of ours",
    {},
    { optionalDependencies: { "@cache/tools": "1.0.0" } },
    "@cache/l2-fs: optionalDependencies has @cache/tools, which is not published",
  ],
  [
    "an older Node",
    {},
    { engines: { node: ">=18" } },
    '@cache/l2-fs: engines is {"node":">=18"}, not {"node":">=20.19.0"}',
  ],
  [
    "a script at installation",
    {},
    { scripts: { postinstall: "node x" } },
    "@cache/l2-fs: runs a script on postinstall",
  ],
])("%s is found", (_, files, manifest, finding) => {
  expect(changed("@cache/l2-fs", files, manifest)).toContain(finding);
});

test("a template that came out of the packing incomplete is found", () => {
  const change = { "template/_gitignore": null, "template/src/store.ts": "", "template/.gitignore": "" };
  expect(changed("create-cache-l2", change)).toEqual([
    "create-cache-l2: lacks template/_gitignore",
    "create-cache-l2: template/src/store.ts differs",
    "create-cache-l2: holds template/.gitignore, which the repository lacks",
  ]);
});

test("an output without a source is found", () => {
  const packed = all.find((found) => found.name === "@cache/l2-fs")!;
  const files = new Map(packed.files).set("dist/gone.js", { mode: 0o644, size: 0, text: () => "" });
  expect(contents.staleOutputs({ ...packed, files })).toEqual([
    "@cache/l2-fs: dist/gone.js has no source any more: remove dist and build",
  ]);
});

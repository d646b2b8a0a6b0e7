import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const SOURCE_LINES_MAX = 450;
const TEST_LINES_MAX = 600;
/** Of code; lines with text in quotes may be longer, comments up to {@link COMMENT_CHARACTERS_MAX}. */
const LINE_CHARACTERS_MAX = 120;
const COMMENT_CHARACTERS_MAX = 200;

/** Which of our packages a package's sources may import. Absent: an adapter, which has the contract alone. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  "@cache/contracts": [],
  "@cache/adapter-kit": ["@cache/contracts"],
  "@cache/simple-store": ["@cache/adapter-kit", "@cache/contracts"],
  "create-cache-l2": [],
  "@cache/libc": ["@cache/contracts"],
  "@cache/journal": ["@cache/contracts", "@cache/libc"],
  "@cache/l1-memory": ["@cache/contracts", "@cache/libc"],
  "@cache/discovery": ["@cache/contracts"],
  "@cache/lmcache-wire": ["@cache/contracts"],
  "@cache/conformance": ["@cache/contracts", "@cache/discovery"],
  // The kernel's lock keeps a second engine out of its pool.
  "@cache/l2-nixl": ["@cache/adapter-kit", "@cache/contracts", "@cache/libc"],
  "@cache/storage-manager": ["@cache/contracts", "@cache/journal", "@cache/l1-memory"],
  "@cache/engine": [
    "@cache/contracts",
    "@cache/discovery",
    "@cache/journal",
    "@cache/l1-memory",
    "@cache/libc",
    "@cache/lmcache-wire",
    "@cache/storage-manager",
  ],
};

/** An adapter: the contract, the parts that adapters share, and what makes one of a simple store; nothing else of ours. */
const ADAPTER_MAY_IMPORT = ["@cache/adapter-kit", "@cache/contracts", "@cache/simple-store"];

interface Source {
  readonly path: string;
  readonly text: string;
}

interface Package {
  readonly name: string;
  readonly folder: string;
  readonly dependencies: readonly string[];
  readonly sources: readonly Source[];
}

function filesBelow(folder: string, pattern: RegExp): Source[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && pattern.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => !/[\\/](node_modules|dist|vectors)[\\/]/.test(path))
    .map((path) => ({ path: relative(ROOT, path), text: readFileSync(path, "utf8") }));
}

const packages: Package[] = ["packages", "apps"]
  .flatMap((group) => readdirSync(join(ROOT, group)).map((name) => join(ROOT, group, name)))
  .filter((folder) => existsSync(join(folder, "package.json")) && existsSync(join(folder, "tsconfig.json")))
  .map((folder) => {
    const json = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as {
      name: string;
      dependencies?: Record<string, string>;
      peerDependencies?: Record<string, string>;
    };
    const dependencies = Object.keys({ ...json.dependencies, ...json.peerDependencies });
    return { name: json.name, folder, dependencies, sources: filesBelow(join(folder, "src"), /\.ts$/) };
  });

const everything = [
  ...packages.flatMap((found) => [...found.sources, ...filesBelow(join(found.folder, "test"), /\.ts$/)]),
  ...filesBelow(join(ROOT, "tools"), /\.(ts|mjs)$/),
];

const ours = (name: string) => name.startsWith("@cache/");
const withoutComments = (text: string) => text.replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");
const importsOf = (text: string) =>
  [
    ...withoutComments(text).matchAll(/(?:\bfrom\s+|\bimport\s*\(\s*|^import\s+)["']([^"'.][^"']*)["']/gm),
  ].map((match) => match[1] ?? "");
const packageOf = (specifier: string) =>
  specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");

test.each(packages)(
  "$name imports only what its place in the house allows",
  ({ name, sources, dependencies }) => {
    const allowed = MAY_IMPORT[name] ?? ADAPTER_MAY_IMPORT;
    const wrong = sources.flatMap(({ path, text }) =>
      importsOf(text)
        .map(packageOf)
        .filter((imported) => ours(imported) && imported !== name && !allowed.includes(imported))
        .map((imported) => `${path} imports ${imported}`),
    );
    const wrongDependencies = dependencies
      .filter((dependency) => ours(dependency) && !allowed.includes(dependency))
      .map((dependency) => `package.json depends on ${dependency}`);
    expect([...wrong, ...wrongDependencies]).toEqual([]);
  },
);

test.each(packages)("$name declares what it imports", ({ sources, dependencies, name }) => {
  const optional = JSON.parse(
    readFileSync(join(packages.find((found) => found.name === name)!.folder, "package.json"), "utf8"),
  ) as {
    optionalDependencies?: Record<string, string>;
  };
  const declared = new Set([...dependencies, ...Object.keys(optional.optionalDependencies ?? {}), name]);
  const missing = sources.flatMap(({ path, text }) =>
    importsOf(text)
      .filter(
        (specifier) =>
          !specifier.startsWith("node:") && /^[@a-z]/.test(specifier) && !declared.has(packageOf(specifier)),
      )
      .map((specifier) => `${path} imports ${specifier}`),
  );
  expect(missing).toEqual([]);
});

test("no file is too long and no line too wide", () => {
  const wrong = everything.flatMap(({ path, text }) => {
    const lines = text.split("\n");
    const wide = lines.flatMap((line, index) => {
      const max = /^\s*(\*|\/[/*])/.test(line) ? COMMENT_CHARACTERS_MAX : LINE_CHARACTERS_MAX;
      return line.length > max && !/["'`]/.test(line) ? [`${path}:${index + 1} is too wide: break it`] : [];
    });
    const linesMax = /[\\/]test[\\/]/.test(path) ? TEST_LINES_MAX : SOURCE_LINES_MAX;
    return lines.length > linesMax ? [`${path} has ${lines.length} lines: split it`, ...wide] : wide;
  });
  expect(wrong).toEqual([]);
});

test("sources have no console, no FIXME, no export *, no enum and no default export", () => {
  const banned: readonly [RegExp, string][] = [
    [/\bconsole\./, "use the log that is passed in"],
    [/FIX[M]E/, "fix it or open an issue"],
    [/^export \*/m, "name what is exported"],
    [/^\s*(export )?(const )?enum /m, "use a union of strings"],
    [/^export default/m, "use a named export"],
    [/: any\b|<any>|as any\b/, "use unknown and check"],
  ];
  const wrong = packages
    .flatMap((found) => found.sources)
    .flatMap(({ path, text }) => {
      const code = withoutComments(text);
      return banned
        .filter(([pattern]) => pattern.test(code))
        .map(([pattern, remedy]) => `${path}: ${pattern}: ${remedy}`);
    });
  expect(wrong).toEqual([]);
});

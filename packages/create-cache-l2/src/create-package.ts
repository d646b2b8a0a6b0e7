import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type AdapterNames, namesFor } from "./names.ts";

const PACKAGE = fileURLToPath(new URL("..", import.meta.url));
const TEMPLATE = join(PACKAGE, "template");
/** Major version of the adapter contract that the template is written for. */
const API_VERSION = 1;
/** Names that npm, or a tool in a clone, would not leave alone inside a package. */
const RENAMED: Readonly<Record<string, string>> = {
  "_package.json": "package.json",
  "_tsconfig.json": "tsconfig.json",
  _gitignore: ".gitignore",
};

/** What was made. */
export interface CreatedPackage {
  readonly names: AdapterNames;
  readonly directory: string;
  /** Paths below the directory, sorted. */
  readonly files: readonly string[];
  /** True from a clone: its dependencies on our packages are links into the clone, fit for trying, not for publishing. */
  readonly linked: boolean;
}

/** One of our packages, as a new package should name it. */
interface OurPackage {
  /** Version that this creator was released with. */
  readonly version: string;
  /** Its folder, where nothing is released yet: in a clone. */
  readonly folder: string | null;
}

function ourPackage(name: string): OurPackage {
  const { devDependencies } = readManifest(PACKAGE);
  const range = devDependencies?.[name];
  if (range === undefined) throw new Error(`the template names ${name}, which is no devDependency`);
  if (!range.startsWith("workspace:")) return { version: range.replace(/^[^0-9]*/, ""), folder: null };
  const folder = join(PACKAGE, "..", name.replace("@cache/", ""));
  return { version: readManifest(folder).version, folder };
}

interface Manifest {
  readonly version: string;
  readonly devDependencies?: Readonly<Record<string, string>>;
}

function readManifest(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Manifest;
}

/** From a clone a link, which npm makes without a registry; else a range. */
function dependencyOn(name: string, target: string): string {
  const { version, folder } = ourPackage(name);
  if (folder === null) return `^${version}`;
  return `file:${relative(target, folder).replaceAll("\\", "/")}`;
}

/** For a peer: any release before the next major one, since the contract's own version is checked when it registers. */
function peerRange(name: string): string {
  const { version } = ourPackage(name);
  return `>=${version} <${Number(version.split(".")[0]) + 1}.0.0`;
}

function targetOf(path: string): string {
  const folders = path.split("/");
  const file = folders.pop() ?? "";
  if (folders[0] === "github") folders[0] = ".github";
  return [...folders, RENAMED[file] ?? file].join("/");
}

function fill(text: string, names: AdapterNames, target: string): string {
  return text
    .replaceAll("__package__", names.packageName)
    .replaceAll("__type__", names.type)
    .replaceAll("__Name__", names.pascal)
    .replaceAll("__camel__", names.camel)
    .replaceAll("__apiVersion__", String(API_VERSION))
    .replaceAll(/__peer:(@cache\/[a-z-]+)__/g, (_, name: string) => peerRange(name))
    .replaceAll(/__(@cache\/[a-z-]+)__/g, (_, name: string) => dependencyOn(name, target));
}

/**
 * Writes a new adapter package.
 *
 * @param name `foo`, `cache-l2-foo`, `@you/foo` or `@you/cache-l2-foo`.
 * @param directory where it goes; it is made. Default: a folder with the package's name in the working directory.
 * @throws Error if the name breaks a rule, or the directory is not empty.
 */
export function createPackage(name: string, directory?: string): CreatedPackage {
  const names = namesFor(name);
  const target = directory ?? join(process.cwd(), names.folder);
  if (existsSync(target) && readdirSync(target).length > 0) {
    throw new Error(`${target} is there and not empty; choose another directory with --directory`);
  }
  const files = readdirSync(TEMPLATE, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(TEMPLATE, join(entry.parentPath, entry.name)).replaceAll("\\", "/"))
    .map((path) => ({ from: path, to: targetOf(path) }))
    .sort((a, b) => (a.to < b.to ? -1 : 1));
  for (const { from, to } of files) {
    const path = join(target, to);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, fill(readFileSync(join(TEMPLATE, from), "utf8"), names, resolve(target)));
  }
  const linked = ourPackage("@cache/contracts").folder !== null;
  return { names, directory: target, files: files.map(({ to }) => to), linked };
}

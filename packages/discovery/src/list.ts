import { CacheError } from "@cache/contracts";
import fastGlob from "fast-glob";
import { lstatSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { readPackageManifest } from "./package-manifest.ts";
import { adapterRoots, type AdapterRootsOptions } from "./roots.ts";
import type { AdapterListing, AdapterPackage, AdapterRoot } from "./types.ts";

const MODULE_PATTERNS = ["@cache/l2-*", "cache-l2-*", "@*/cache-l2-*"];
const PACKAGE_PATTERNS = ["l2-*"];

/** Where to search, and what may be used. */
export interface ListAdaptersOptions extends AdapterRootsOptions {
  /** Names of the only packages that may be imported (`--adapter-allow`); empty or absent: all. */
  readonly allow?: readonly string[] | undefined;
}

/**
 * Lists the adapter packages that are installed. Imports nothing. A package that several roots or links lead to is
 * listed once; of packages with the same name in different roots the first root's is used, as Node would.
 *
 * @throws CacheError `INVALID_CONFIG` if a named root is not a directory.
 */
export async function listAdapters(options: ListAdaptersOptions): Promise<AdapterListing> {
  const roots = adapterRoots(options);
  const allow = options.allow === undefined || options.allow.length === 0 ? null : [...options.allow];
  const seen = new Set<string>();
  const firstOfName = new Map<string, string>();
  const packages: AdapterPackage[] = [];
  for (const root of roots) {
    for (const directory of await candidates(root)) {
      const found = describe(root, directory, allow);
      if (found === undefined || seen.has(found.realDirectory)) continue;
      seen.add(found.realDirectory);
      const shadowedBy = firstOfName.get(found.name) ?? null;
      if (shadowedBy === null) firstOfName.set(found.name, found.directory);
      packages.push({ ...found, shadowedBy });
    }
  }
  packages.sort((a, b) => compare(a.name, b.name) || compare(a.directory, b.directory));
  return { roots, packages, allow };
}

/** The package in a directory, whatever its name; undefined if there is none. Imports nothing. */
export function describePackage(directory: string): AdapterPackage | undefined {
  const root: AdapterRoot = { directory: dirname(directory), origin: "option", layout: "both" };
  const found = describe(root, directory, null);
  return found === undefined ? undefined : { ...found, shadowedBy: null };
}

async function candidates(root: AdapterRoot): Promise<string[]> {
  const patterns = [
    ...(root.layout === "packages" ? [] : MODULE_PATTERNS),
    ...(root.layout === "modules" ? [] : PACKAGE_PATTERNS),
  ];
  const found = await fastGlob(patterns, { cwd: root.directory, onlyFiles: false, suppressErrors: true });
  return [...new Set(found)].sort(compare).map((path) => join(root.directory, path));
}

function describe(
  root: AdapterRoot,
  directory: string,
  allow: readonly string[] | null,
): Omit<AdapterPackage, "shadowedBy"> | undefined {
  let realDirectory: string;
  try {
    realDirectory = realpathSync(directory);
  } catch (error) {
    return danglingLink(root, directory, error);
  }
  // A folder without package.json is no package (a checkout leaves such folders behind).
  const manifest = readPackageManifest(directory);
  if (manifest === undefined) return undefined;
  return { ...manifest, directory, realDirectory, root, allowed: allow?.includes(manifest.name) ?? true };
}

function danglingLink(
  root: AdapterRoot,
  directory: string,
  cause: unknown,
): Omit<AdapterPackage, "shadowedBy"> | undefined {
  if (lstatSync(directory, { throwIfNoEntry: false })?.isSymbolicLink() !== true) return undefined;
  const scope = basename(dirname(directory));
  const folder = basename(directory);
  const name = scope.startsWith("@") ? `${scope}/${folder}` : folder;
  const type = folder.replace(/^(?:cache-)?l2-/, "");
  return {
    name,
    version: null,
    directory,
    realDirectory: directory,
    root,
    types: [type],
    hasManifest: false,
    apiVersion: null,
    entry: null,
    allowed: true,
    problem: new CacheError(
      "ADAPTER_LOAD_FAILED",
      `package ${name} (adapter type '${type}') cannot be read: ${directory} is a link that leads nowhere; reinstall or remove it`,
      { cause, details: { package: name, types: [type], directory } },
    ),
  };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

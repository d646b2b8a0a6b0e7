import { CacheError } from "@cache/contracts";
import { basename, dirname } from "node:path";
import { readPackageManifest } from "./package-manifest.ts";
import type { AdapterListing } from "./types.ts";

/** Which package of ours serves a type. */
const PACKAGE_OF_TYPE: ReadonlyMap<string, string> = new Map([
  ["fs", "@cache/l2-fs"],
  ["mock", "@cache/l2-mock"],
  ["hfbucket", "@cache/l2-hfbucket"],
  ["redis", "@cache/l2-redis"],
  ["resp", "@cache/l2-redis"],
  ["nixl_store", "@cache/l2-nixl"],
  ["nixl_store_dynamic", "@cache/l2-nixl"],
]);

/** Types of LMCache that name something which exists only in its own process. */
const PYTHON_ONLY: ReadonlyMap<string, string> = new Map([
  ["plugin", "it names a Python class; install an adapter package instead and use its own type"],
  ["native_plugin", "it names a Python module; install an adapter package instead and use its own type"],
]);

/** Types of LMCache whose data an adapter of ours reads and writes under another type. */
const SAME_DATA: ReadonlyMap<string, string> = new Map([
  ["fs_native", "fs reads and writes the same files: use the type fs"],
  ["valkey", "redis reads and writes the same keys: use the type redis (@cache/l2-redis)"],
]);

/** The error for a type that no installed package offers. Says what to install. */
export function unknownTypeError(
  type: string,
  listing: AdapterListing,
  failures: readonly CacheError[],
): CacheError {
  const parts = [`no installed package offers adapter type '${type}'`];
  const known = [
    ...new Set(listing.packages.filter((found) => found.allowed).flatMap((found) => found.types)),
  ];
  const nearest = known.find((candidate) => isNearly(type, candidate));
  const forbidden = listing.packages.find((found) => found.types.includes(type) && !found.allowed);
  const sameData = SAME_DATA.get(type);
  const pythonOnly = PYTHON_ONLY.get(type);
  if (forbidden !== undefined) {
    parts.push(`package ${forbidden.name} offers it, but --adapter-allow does not name it`);
  } else if (pythonOnly !== undefined) {
    parts.push(pythonOnly);
  } else if (sameData !== undefined) {
    parts.push(sameData);
  } else if (nearest !== undefined) {
    parts.push(`did you mean '${nearest}'?`);
  } else {
    parts.push(installAdvice(type));
  }
  parts.push(`installed types: ${known.length === 0 ? "none" : known.sort().join(", ")}`);
  const roots = listing.roots.map((root) => root.directory).join(", ");
  parts.push(`searched: ${roots === "" ? "nothing" : roots}`);
  for (const { directory } of listing.roots) {
    const advice = packageAsRoot(directory);
    if (advice !== null) parts.push(advice);
  }
  for (const failure of failures) parts.push(`also: ${failure.message}`);
  return new CacheError("ADAPTER_TYPE_UNKNOWN", parts.join("; "), {
    details: { type, installedTypes: known },
    ...(failures.length === 0 ? {} : { cause: failures[0] }),
  });
}

function installAdvice(type: string): string {
  const ours = packageForType(type);
  if (ours !== null) return `install it: \`npm install ${ours}\``;
  return (
    "if somebody else's package offers it, install that beside the engine or below a directory of --adapter-root; " +
    `it is named cache-l2-NAME or @scope/cache-l2-NAME, e.g. cache-l2-${type}`
  );
}

/** The package of ours that offers a type; null if none does. */
export function packageForType(type: string): string | null {
  return PACKAGE_OF_TYPE.get(type) ?? null;
}

/** What to say of a root that is an adapter package itself, where a folder of packages was wanted; null if it is none. */
function packageAsRoot(directory: string): string | null {
  if (readPackageManifest(directory)?.hasManifest !== true) return null;
  const parent = dirname(directory);
  const root = basename(parent).startsWith("@") ? dirname(parent) : parent;
  const rename = /^(cache-)?l2-./.test(basename(directory))
    ? ""
    : ", and its folder must be called l2-NAME or cache-l2-NAME";
  return `${directory} is a package itself: --adapter-root must be its parent directory, ${root}${rename}`;
}

/** True if one letter more, less or other, or two neighbours swapped, make the words equal. */
function isNearly(a: string, b: string): boolean {
  if (Math.abs(a.length - b.length) > 1) return false;
  let at = 0;
  while (at < a.length && a[at] === b[at]) at++;
  const swapped = a[at] === b[at + 1] && a[at + 1] === b[at] && a.slice(at + 2) === b.slice(at + 2);
  return (
    a.slice(at + 1) === b.slice(at) ||
    a.slice(at) === b.slice(at + 1) ||
    a.slice(at + 1) === b.slice(at + 1) ||
    swapped
  );
}

import { CacheError } from "@cache/contracts";
import type { AdapterListing } from "./types.ts";

/** Which package serves a type whose name differs from the package's. */
const PACKAGE_OF_TYPE: Readonly<Record<string, string>> = {
  resp: "@cache/l2-redis",
  valkey: "@cache/l2-redis",
  nixl_store: "@cache/l2-nixl",
  nixl_store_dynamic: "@cache/l2-nixl",
  nixl_native: "@cache/l2-nixl",
};

/** Types of LMCache that name something which exists only in its own process. */
const PYTHON_ONLY: Readonly<Record<string, string>> = {
  plugin: "it names a Python class; install an adapter package instead and use its own type",
  native_plugin: "it names a Python module; install an adapter package instead and use its own type",
};

/** Types of LMCache whose data an adapter of ours reads and writes under another type. */
const SAME_DATA: Readonly<Record<string, string>> = {
  fs_native: "fs reads and writes the same files: use the type fs",
};

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
  const pythonOnly = PYTHON_ONLY[type];
  if (forbidden !== undefined) {
    parts.push(`package ${forbidden.name} offers it, but --adapter-allow does not name it`);
  } else if (pythonOnly !== undefined) {
    parts.push(pythonOnly);
  } else if (SAME_DATA[type] !== undefined) {
    parts.push(SAME_DATA[type]);
  } else if (nearest !== undefined) {
    parts.push(`did you mean '${nearest}'?`);
  } else {
    parts.push(`install one, e.g. \`npm install ${packageForType(type)}\``);
  }
  parts.push(`installed types: ${known.length === 0 ? "none" : known.sort().join(", ")}`);
  const roots = listing.roots.map((root) => root.directory).join(", ");
  parts.push(`searched: ${roots === "" ? "nothing" : roots}`);
  for (const failure of failures) parts.push(`also: ${failure.message}`);
  return new CacheError("ADAPTER_TYPE_UNKNOWN", parts.join("; "), {
    details: { type, installedTypes: known },
    ...(failures.length === 0 ? {} : { cause: failures[0] }),
  });
}

/** The package that most likely offers a type. */
export function packageForType(type: string): string {
  return PACKAGE_OF_TYPE[type] ?? `@cache/l2-${type}`;
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

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

/** The error for a type that no installed package offers. Says what to install. */
export function unknownTypeError(
  type: string,
  listing: AdapterListing,
  failures: readonly CacheError[],
): CacheError {
  const parts = [`no installed package offers adapter type '${type}'`];
  const forbidden = listing.packages.find((found) => found.types.includes(type) && !found.allowed);
  const pythonOnly = PYTHON_ONLY[type];
  if (forbidden !== undefined) {
    parts.push(`package ${forbidden.name} offers it, but --adapter-allow does not name it`);
  } else if (pythonOnly !== undefined) {
    parts.push(pythonOnly);
  } else {
    parts.push(`install one, e.g. \`npm install ${packageForType(type)}\``);
  }
  const known = [
    ...new Set(listing.packages.filter((found) => found.allowed).flatMap((found) => found.types)),
  ];
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

import {
  CacheError,
  getRegisteredL2Adapter,
  isCacheError,
  L2_API_VERSION,
  listRegisteredL2Adapters,
  messageOf,
  type RegisteredL2Adapter,
} from "@cache/contracts";
import { pathToFileURL } from "node:url";
import type { AdapterListing, AdapterPackage, LoadedAdapter } from "./types.ts";
import { unknownTypeError } from "./unknown-type.ts";

/**
 * Imports the package that offers a type and returns its registration. The package whose manifest claims the type
 * is imported; if none claims it, those without a manifest are imported in name order until one registers it.
 *
 * @throws CacheError, each naming package, type and cause: `ADAPTER_TYPE_UNKNOWN` (says what to install),
 *   `ADAPTER_TYPE_CONFLICT`, `ADAPTER_API_INCOMPATIBLE`, `ADAPTER_LOAD_FAILED`, `ADAPTER_NOT_REGISTERED`.
 */
export async function loadAdapter(type: string, listing: AdapterListing): Promise<LoadedAdapter> {
  const usable = listing.packages.filter((found) => found.shadowedBy === null && found.allowed);
  const claiming = usable.filter((found) => found.hasManifest && found.types.includes(type));
  const claimant = only(type, claiming);
  if (claimant !== undefined) {
    await importPackage(claimant, type);
    return { registration: registrationOf(claimant, type), package: claimant, failures: [] };
  }
  const broken = usable.find(
    (found) => !found.hasManifest && found.problem !== null && found.types.includes(type),
  );
  if (broken?.problem != null) throw broken.problem;
  return await scan(type, usable, listing);
}

/** Imports packages without a manifest, in name order, until the registry holds the type. */
async function scan(
  type: string,
  usable: readonly AdapterPackage[],
  listing: AdapterListing,
): Promise<LoadedAdapter> {
  const silent = usable.filter((found) => !found.hasManifest && found.problem === null);
  only(
    type,
    silent.filter((found) => found.types.includes(type)),
  );
  const failures: CacheError[] = [];
  for (const candidate of silent) {
    try {
      await importPackage(candidate, candidate.types.join(", "));
    } catch (error) {
      if (!isCacheError(error)) throw error;
      // Its name stands for the type: this is the failure that the caller must see.
      if (candidate.types.includes(type)) throw error;
      failures.push(error);
      continue;
    }
    const registration = getRegisteredL2Adapter(type);
    if (registration?.packageName === candidate.name) return { registration, package: candidate, failures };
    if (candidate.types.includes(type)) registrationOf(candidate, type);
  }
  throw unknownTypeError(type, listing, failures);
}

function only(type: string, claimants: readonly AdapterPackage[]): AdapterPackage | undefined {
  if (claimants.length < 2) return claimants[0];
  const places = claimants.map((found) => `${found.name} (${found.directory})`).join(" and ");
  throw new CacheError(
    "ADAPTER_TYPE_CONFLICT",
    `adapter type '${type}' is claimed by ${places}; uninstall one, or name the wanted one with --adapter-allow`,
    { details: { type, packages: claimants.map((found) => found.name) } },
  );
}

// What a package registered, remembered per file: a module runs once, however often it is imported.
const imported = new Map<string, readonly string[]>();

async function importPackage(found: AdapterPackage, type: string): Promise<void> {
  if (found.problem !== null) throw found.problem;
  const details = { package: found.name, type, directory: found.directory };
  if (found.entry === null) {
    throw new CacheError(
      "ADAPTER_LOAD_FAILED",
      `package ${found.name} (adapter type '${type}') has no file to import in ${found.directory}; its package.json names none that exists inside the package (is it built?)`,
      { details },
    );
  }
  if (imported.has(found.entry)) return;
  const before = new Set(listRegisteredL2Adapters().map((registered) => registered.type));
  try {
    await import(pathToFileURL(found.entry).href);
  } catch (error) {
    // The registry's own errors (conflict, incompatible API) say more than "could not be loaded".
    const code = isCacheError(error) ? error.code : "ADAPTER_LOAD_FAILED";
    throw new CacheError(
      code,
      `package ${found.name} (adapter type '${type}') could not be imported from ${found.entry}: ${messageOf(error)}`,
      { cause: error, details },
    );
  }
  const after = listRegisteredL2Adapters().map((registered) => registered.type);
  imported.set(
    found.entry,
    after.filter((registered) => !before.has(registered)),
  );
}

function registrationOf(found: AdapterPackage, type: string): RegisteredL2Adapter {
  const registration = getRegisteredL2Adapter(type);
  if (registration?.packageName === found.name) return registration;
  const details = { package: found.name, type, directory: found.directory };
  if (registration !== undefined) {
    throw new CacheError(
      "ADAPTER_NOT_REGISTERED",
      `package ${found.name} claims adapter type '${type}', but ${registration.packageName} registered it; the packageName that a package registers must be its own name`,
      { details },
    );
  }
  const others = imported.get(found.entry ?? "") ?? [];
  const instead = others.length === 0 ? "nothing" : others.map((name) => `'${name}'`).join(", ");
  throw new CacheError(
    "ADAPTER_NOT_REGISTERED",
    `package ${found.name} claims adapter type '${type}' and was imported, but registered ${instead}${otherRegistries()}; call registerL2Adapter on import with the claimed types`,
    { details },
  );
}

/** Registrations made through a contracts package of another major version land in a registry of their own. */
function otherRegistries(): string {
  const prefix = "@cache/contracts/l2-registry@";
  const versions = Object.getOwnPropertySymbols(globalThis)
    .map((symbol) => symbol.description ?? "")
    .filter((name) => name.startsWith(prefix) && name !== `${prefix}${L2_API_VERSION}`)
    .map((name) => name.slice(prefix.length));
  return versions.length === 0
    ? ""
    : ` (a copy of @cache/contracts with adapter API ${versions.join(", ")} is loaded; this engine has ${L2_API_VERSION})`;
}

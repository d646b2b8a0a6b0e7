import { CacheError, type RegisteredL2Adapter } from "@cache/contracts";
import {
  type AdapterListing,
  type AdapterPackage,
  describePackage,
  listAdapters,
  loadAdapter,
} from "@cache/discovery";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The adapter to try. */
export interface FoundAdapter {
  readonly package: AdapterPackage;
  readonly registration: RegisteredL2Adapter;
}

async function listingOf(packageName: string, startDirectory: string): Promise<AdapterListing> {
  if (!packageName.startsWith("@") && /[./\\]/.test(packageName)) {
    const directory = resolve(startDirectory, packageName);
    const found = describePackage(directory);
    if (found !== undefined) return { roots: [found.root], packages: [found], allow: null };
    throw new CacheError(
      "ADAPTER_LOAD_FAILED",
      `${directory} has no package.json; name the adapter's directory`,
    );
  }
  const listing = await listAdapters({ startDirectory, enginePath: fileURLToPath(import.meta.url) });
  const packages = listing.packages.filter(
    ({ name, shadowedBy }) => name === packageName && shadowedBy === null,
  );
  if (packages.length > 0) return { ...listing, packages };
  const others = listing.packages.map(({ name }) => name).join(", ") || "none";
  throw new CacheError(
    "ADAPTER_LOAD_FAILED",
    `no adapter package ${packageName} is installed here (found: ${others}); install it, or give the path of its directory`,
  );
}

/**
 * Finds an adapter as an engine would, and imports it.
 *
 * @throws CacheError of discovery, naming package and cause.
 */
export async function findAdapter(
  packageName: string,
  type: string | undefined,
  startDirectory: string,
): Promise<FoundAdapter> {
  const listing = await listingOf(packageName, startDirectory);
  const wanted = type ?? listing.packages[0]?.types[0] ?? "";
  const loaded = await loadAdapter(wanted, listing);
  return { package: loaded.package, registration: loaded.registration };
}

import type { CacheError, RegisteredL2Adapter } from "@cache/contracts";

/** Where a root comes from, for messages. */
export type AdapterRootOrigin = "option" | "start-directory" | "engine-path" | "engine-real-path" | "clone";

/** A directory that is searched for adapter packages. Code is only ever imported from packages found under one. */
export interface AdapterRoot {
  /** Absolute path. */
  readonly directory: string;
  readonly origin: AdapterRootOrigin;
  /**
   * `modules`: laid out as `node_modules` (`@cache/l2-*`, `cache-l2-*`, `@*` + `/cache-l2-*`);
   * `packages`: adapters lie directly in it as `l2-*`; `both`: either (a directory that somebody named).
   */
  readonly layout: "modules" | "packages" | "both";
}

/** A package that looks like an adapter. Read from its `package.json`: nothing of it has been imported. */
export interface AdapterPackage {
  /** `name` of its package.json; the folder's name if it has none or cannot be read. */
  readonly name: string;
  readonly version: string | null;
  /** Where it was found, absolute. */
  readonly directory: string;
  /** The same without symbolic links: what identifies the package. */
  readonly realDirectory: string;
  readonly root: AdapterRoot;
  /** The types that its manifest claims; without a manifest the one type that its name stands for. */
  readonly types: readonly string[];
  /** True if package.json has `"cacheL2": { "types": […], "apiVersion": … }`. */
  readonly hasManifest: boolean;
  /** The contract's major version that the manifest states; null without a manifest. */
  readonly apiVersion: number | null;
  /** The file that would be imported, absolute; null if it cannot be told. */
  readonly entry: string | null;
  /** False if an allow list is given and does not name this package. */
  readonly allowed: boolean;
  /** Directory of a package of the same name in a root that comes first; that one is used. Null if none. */
  readonly shadowedBy: string | null;
  /** Why it cannot be used: unreadable package.json, malformed manifest, incompatible apiVersion. */
  readonly problem: CacheError | null;
}

/** What is installed. */
export interface AdapterListing {
  /** In order of precedence; only directories that exist. */
  readonly roots: readonly AdapterRoot[];
  /** Sorted by name, then by directory. */
  readonly packages: readonly AdapterPackage[];
  /** Package names of the allow list; null if all are allowed. */
  readonly allow: readonly string[] | null;
}

/** A loaded adapter. */
export interface LoadedAdapter {
  readonly registration: RegisteredL2Adapter;
  readonly package: AdapterPackage;
  /** Packages without a manifest that were tried on the way and could not be imported. */
  readonly failures: readonly CacheError[];
}

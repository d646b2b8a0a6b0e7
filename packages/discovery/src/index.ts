export { describePackage, listAdapters, type ListAdaptersOptions } from "./list.ts";
export { loadAdapter } from "./load.ts";
export { adapterRoots, type AdapterRootsOptions } from "./roots.ts";
export type {
  AdapterListing,
  AdapterPackage,
  AdapterRoot,
  AdapterRootOrigin,
  LoadedAdapter,
} from "./types.ts";
export { packageForType } from "./unknown-type.ts";

import type { L2Adapter } from "@cache/contracts";
import { SimpleAdapter } from "./adapter.ts";
import type { SimpleAdapterOptions } from "./options.ts";
import type { SimpleStore } from "./store.ts";

export type { SimpleAdapterOptions } from "./options.ts";
export type { ListedObject, NamedBytes, SimpleStore } from "./store.ts";

/**
 * Makes an L2 adapter of a store that has `exists`, `get` and `put`, and whatever else it offers. Does no I/O.
 * Locks, deadlines, partial failures, lengths and accounting are done here; the store does nothing but its methods.
 *
 * @throws TypeError for options out of range: a mistake of the adapter's author, not of its user.
 */
export function createSimpleAdapter(store: SimpleStore, options: SimpleAdapterOptions): L2Adapter {
  return new SimpleAdapter(store, options);
}

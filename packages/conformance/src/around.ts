import type { L2Adapter } from "@cache/contracts";

/** The waiting operations of an adapter that wrappers stand in front of; `close` is not among them. */
export type AdapterOperation =
  | "open"
  | "store"
  | "lookupAndLock"
  | "load"
  | "delete"
  | "listKeys"
  | "quarantine";

/** Stands around one call of an operation: may fail it, wait, look at it. `keys` is 0 where there are none. */
export type Around = <T>(operation: AdapterOperation, keys: number, run: () => Promise<T>) => Promise<T>;

/** The same adapter with every waiting operation but `close` inside `around`. */
export function wrapAdapter(adapter: L2Adapter, around: Around, close = () => adapter.close()): L2Adapter {
  const removing = adapter.delete?.bind(adapter);
  const listing = adapter.listKeys?.bind(adapter);
  const quarantining = adapter.quarantine?.bind(adapter);
  return {
    capabilities: adapter.capabilities,
    location: adapter.location,
    open: (context) => around("open", 0, () => adapter.open(context)),
    store: (keys, objects, signal) =>
      around("store", keys.length, () => adapter.store(keys, objects, signal)),
    lookupAndLock: (requests, signal) =>
      around("lookupAndLock", requests.length, () => adapter.lookupAndLock(requests, signal)),
    unlock: (keys) => adapter.unlock(keys),
    load: (requests, into, signal) =>
      around("load", requests.length, () => adapter.load(requests, into, signal)),
    ...(removing && {
      delete: (keys, signal) => around("delete", keys.length, () => removing(keys, signal)),
    }),
    ...(listing && { listKeys: (page, signal) => around("listKeys", 0, () => listing(page, signal)) }),
    ...(quarantining && {
      quarantine: (keys, reason, signal) =>
        around("quarantine", keys.length, () => quarantining(keys, reason, signal)),
    }),
    usage: () => adapter.usage(),
    status: () => adapter.status(),
    close,
  } satisfies L2Adapter;
}

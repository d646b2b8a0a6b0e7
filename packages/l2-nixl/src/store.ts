import type {
  AdapterUsage,
  CacheError,
  KeyListPage,
  MemoryObj,
  ObjectKey,
  PageRequest,
} from "@cache/contracts";

/** An object to be stored or loaded, with its name in the store. */
export interface NamedObject {
  readonly name: string;
  readonly key: ObjectKey;
  readonly object: MemoryObj;
}

/** What a look for an object of a length found. */
export type Found = "whole" | "absent" | "other-length";
/** How a load ended: `short` is an object whose end did not come. */
export type Loaded = Found | "short";

/**
 * What the two adapters differ in: how objects lie in the store. One answer for each item, in order. Nobody else
 * changes the names of a call while it runs.
 */
export interface ObjectStore {
  /** The name of a key. Throws a `CacheError` for a key that can have none. */
  nameOf(key: ObjectKey): string;
  /** Bytes written: 0 for an object that was there. */
  store(items: readonly NamedObject[], ended: AbortSignal): Promise<(number | CacheError)[]>;
  look(
    requests: readonly { readonly name: string; readonly byteLength: number }[],
    ended: AbortSignal,
  ): Promise<(Found | CacheError)[]>;
  load(items: readonly NamedObject[], ended: AbortSignal): Promise<(Loaded | CacheError)[]>;
  /** True for each that is not there any more. */
  remove(names: readonly string[], ended: AbortSignal): Promise<(true | CacheError)[]>;
  list(page: PageRequest, checkStopped: () => void): Promise<KeyListPage>;
  usage(): AdapterUsage;
  /** Why nothing of it can be used any more; null if it can. */
  readonly problem: string | null;
  /** What an operator sees of it. */
  status(): Record<string, unknown>;
  /** Ends everything. No call is under way. */
  close(): Promise<void>;
}

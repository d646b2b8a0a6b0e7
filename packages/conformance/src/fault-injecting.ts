import { CacheError, type L2Adapter } from "@cache/contracts";
import { createPrng } from "./prng.ts";

/** The waiting operations that {@link faultInjecting} can make fail. */
export type FaultyOperation =
  | "open"
  | "store"
  | "lookupAndLock"
  | "load"
  | "delete"
  | "listKeys"
  | "quarantine";

/** What goes wrong, and when. */
export interface FaultPlan {
  /** Share of calls that fail, 0..1, by operation. Default: none. */
  readonly failureRate?: Partial<Readonly<Record<FaultyOperation, number>>>;
  /** Decides each call itself, after the rate did not: an error to reject with, or null. `call` counts from 1. */
  readonly fail?: (operation: FaultyOperation, call: number) => CacheError | null;
  /** Seed of the rates, so that a run can be repeated. Default 1. */
  readonly seed?: number;
}

/**
 * The same adapter, whose calls fail as planned before they reach it: to test what stands in front of an adapter.
 * With an empty plan it passes every law that the adapter passes. `unlock`, `usage`, `status` and `close` never fail.
 */
export function faultInjecting(adapter: L2Adapter, plan: FaultPlan): L2Adapter {
  const random = createPrng(plan.seed ?? 1);
  const calls = new Map<FaultyOperation, number>();
  const guarded = async <T>(operation: FaultyOperation, run: () => Promise<T>): Promise<T> => {
    const call = (calls.get(operation) ?? 0) + 1;
    calls.set(operation, call);
    const rate = plan.failureRate?.[operation] ?? 0;
    if (rate > 0 && random.next() < rate) {
      throw new CacheError("BACKEND_UNAVAILABLE", `injected failure of ${operation}, call ${call}`);
    }
    const planned = plan.fail?.(operation, call) ?? null;
    if (planned !== null) throw planned;
    return run();
  };
  const removing = adapter.delete?.bind(adapter);
  const listing = adapter.listKeys?.bind(adapter);
  const quarantining = adapter.quarantine?.bind(adapter);
  return {
    capabilities: adapter.capabilities,
    location: adapter.location,
    open: (context) => guarded("open", () => adapter.open(context)),
    store: (keys, objects, signal) => guarded("store", () => adapter.store(keys, objects, signal)),
    lookupAndLock: (requests, signal) =>
      guarded("lookupAndLock", () => adapter.lookupAndLock(requests, signal)),
    unlock: (keys) => adapter.unlock(keys),
    load: (requests, into, signal) => guarded("load", () => adapter.load(requests, into, signal)),
    ...(removing && {
      delete: (keys, signal) => guarded("delete", () => removing(keys, signal)),
    }),
    ...(listing && { listKeys: (page, signal) => guarded("listKeys", () => listing(page, signal)) }),
    ...(quarantining && {
      quarantine: (keys, reason, signal) => guarded("quarantine", () => quarantining(keys, reason, signal)),
    }),
    usage: () => adapter.usage(),
    status: () => adapter.status(),
    close: () => adapter.close(),
  } satisfies L2Adapter;
}

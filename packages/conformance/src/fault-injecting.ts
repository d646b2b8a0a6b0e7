import { CacheError, type L2Adapter } from "@cache/contracts";
import { type AdapterOperation, wrapAdapter } from "./around.ts";
import { createPrng } from "./prng.ts";

/** What goes wrong, and when. */
export interface FaultPlan {
  /** Share of calls that fail, 0..1, by operation. Default: none. */
  readonly failureRate?: Partial<Readonly<Record<AdapterOperation, number>>>;
  /** Decides each call itself, after the rate did not: an error to reject with, or null. `call` counts from 1. */
  readonly fail?: (operation: AdapterOperation, call: number) => CacheError | null;
  /** Seed of the rates, so that a run can be repeated. Default 1. */
  readonly seed?: number;
}

/**
 * The same adapter, whose calls fail as planned before they reach it: to test what stands in front of an adapter.
 * With an empty plan it passes every law that the adapter passes. `unlock`, `usage`, `status` and `close` never fail.
 */
export function faultInjecting(adapter: L2Adapter, plan: FaultPlan): L2Adapter {
  const random = createPrng(plan.seed ?? 1);
  const calls = new Map<AdapterOperation, number>();
  return wrapAdapter(adapter, (operation, _, run) => {
    const call = (calls.get(operation) ?? 0) + 1;
    calls.set(operation, call);
    const rate = plan.failureRate?.[operation] ?? 0;
    if (rate > 0 && random.next() < rate) {
      return Promise.reject(
        new CacheError("BACKEND_UNAVAILABLE", `injected failure of ${operation}, call ${call}`),
      );
    }
    const planned = plan.fail?.(operation, call) ?? null;
    return planned === null ? run() : Promise.reject(planned);
  });
}

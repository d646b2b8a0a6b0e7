import { type CacheError, hasCode, isCacheError } from "@cache/contracts";
import type { GuardedCall } from "../l2-gate/index.ts";

/** What a call of an adapter came to, once nothing of it runs any more. */
export interface SettledCall<Result> {
  /** The final answer, null if there is none. */
  readonly result: Result | null;
  /** Why position i has no answer; null if it has one. */
  readonly errorOf: (position: number) => CacheError | null;
  /** The first error, null if there is none. */
  readonly error: CacheError | null;
}

/** Waits until the adapter has settled. Never rejects. */
export async function settledCall<Result>(call: GuardedCall<Result>): Promise<SettledCall<Result>> {
  const rejection = await call.outcome.then(
    () => null,
    (error: unknown) => (isCacheError(error) ? error : null),
  );
  await call.settled;
  const failures = call.failures();
  return {
    result: call.lateResult(),
    // A call that the gate refused at once names no position: the refusal is every position's.
    errorOf: (position) => failures.get(position) ?? (failures.size === 0 ? rejection : null),
    error: rejection ?? failures.values().next().value ?? null,
  };
}

/** True if the adapter was never asked: nothing can have changed there. */
export function wasNeverTried(error: CacheError | null): boolean {
  return error !== null && (hasCode(error, "BREAKER_OPEN") || hasCode(error, "LIMIT_REACHED"));
}

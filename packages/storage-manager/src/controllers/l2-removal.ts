import type { Bitmap, CacheError, ObjectKey } from "@cache/contracts";
import type { Core } from "../core.ts";
import type { GuardedCall } from "../l2-gate/index.ts";
import type { AttachedAdapter } from "./attached-adapter.ts";
import { settledCall, wasNeverTried } from "./settled-call.ts";

/** What became of objects that were to leave an adapter. */
export interface Removal {
  readonly deleted: readonly number[];
  /** The adapter has them still. */
  readonly kept: readonly number[];
  /** Nobody knows: they stay `deleting` until the adapter was asked. */
  readonly doubtful: readonly number[];
  readonly error: CacheError | null;
}

/**
 * Takes stored objects out of an adapter: two events, and in between the one call. While it runs the keys keep their
 * numbers. Never rejects.
 *
 * @param start the call, e.g. the gate's `delete`; bit i of its answer: key i is out.
 */
export async function removeFromL2(
  core: Core,
  adapter: AttachedAdapter,
  keys: readonly number[],
  reason: string,
  start: (names: readonly ObjectKey[]) => GuardedCall<Bitmap>,
): Promise<Removal> {
  const { number } = adapter;
  const names = keys.map((key) => core.nameOf(key));
  core.record({ type: "l2.delete.submitted", adapter: number, keys, reason });
  const call = core.commit() ? await settledCall(start(names)) : null;
  const deleted: number[] = [];
  const kept: number[] = [];
  const doubtful: number[] = [];
  for (const [i, key] of keys.entries()) {
    const error = call?.errorOf(i) ?? null;
    if (call?.result?.has(i) === true) deleted.push(key);
    else if (call === null || error === null || wasNeverTried(error)) kept.push(key);
    else doubtful.push(key);
  }
  if (deleted.length > 0) core.record({ type: "l2.keys.deleted", adapter: number, keys: deleted, reason });
  if (kept.length > 0) core.record({ type: "l2.delete.refused", adapter: number, keys: kept });
  core.commit();
  return { deleted, kept, doubtful, error: call?.error ?? null };
}

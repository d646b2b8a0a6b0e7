import { keyString, type ObjectKey } from "@cache/contracts";
import type { LookupCells } from "../l1/lookups.ts";
import type { Session } from "../state/records.ts";
import type { AttachedAdapter } from "./attached-adapter.ts";

/** One lookup that waits for L2. */
export interface Job {
  readonly cells: LookupCells;
  readonly session: Session;
  readonly tokens: ReadonlyMap<number, Uint8Array>;
  readonly done: (alive: boolean) => void;
  /** Ranges that eviction must leave until the lookup has its locks. */
  readonly pinned: number[];
  cancelTimer: () => void;
  cancelled: boolean;
  finished: boolean;
}

/** A cell that L1 lacks. */
export interface Wanted {
  readonly cell: number;
  readonly chunk: number;
  readonly key: ObjectKey;
  /** Adapters that have it and hold a lock for it, preferred first. */
  holders: AttachedAdapter[];
}

/** Names an object on its way: key and layout. */
export function loadId(job: Job, want: Wanted): string {
  return `${job.cells.layout}@${keyString(want.key)}`;
}

/** True if every cell is held by an adapter such that all preferred before it have answered. */
export function coversAll(
  wanted: readonly Wanted[],
  adapters: readonly AttachedAdapter[],
  answered: ReadonlyMap<AttachedAdapter, readonly Wanted[]>,
): boolean {
  const covered = new Set<Wanted>();
  for (const adapter of adapters) {
    const found = answered.get(adapter);
    if (found === undefined) return false;
    for (const want of found) covered.add(want);
    if (covered.size === wanted.length) return true;
  }
  return false;
}

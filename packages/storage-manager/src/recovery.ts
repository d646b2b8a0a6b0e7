import { CacheError, messageOf } from "@cache/contracts";
import type { JournalRecovery } from "@cache/journal";
import type { L1Pool, L1Range, PoolIdentity } from "@cache/l1-memory";
import type { Core } from "./core.ts";
import { decodeEvent } from "./events/codec.ts";
import { WRITER } from "./events/definitions.ts";
import { CacheState } from "./state/cache-state.ts";
import { evolve } from "./state/evolve.ts";
import { SLOT } from "./state/slot-table.ts";
import { decodeState } from "./state/snapshot.ts";

/** What a start found: for the banner, the log and `status`. */
export interface RecoveryReport {
  readonly objects: number;
  readonly reattached: boolean;
  /** Why L1 starts empty; null if it does not. */
  readonly emptyBecause: string | null;
  readonly replayedRecords: number;
  readonly tornBytes: number;
  readonly damage: string | null;
  readonly cleanStop: boolean;
}

/** Folds the journal. @throws CacheError `JOURNAL_DAMAGED` if its records do not make a state. */
export function foldJournal(recovery: JournalRecovery): { state: CacheState; records: number } {
  try {
    const state = recovery.snapshot === null ? new CacheState() : decodeState(recovery.snapshot.bytes);
    let records = 0;
    recovery.replay((_position, payload) => {
      records++;
      evolve(state, decodeEvent(payload));
    });
    return { state, records };
  } catch (error) {
    throw new CacheError(
      "JOURNAL_DAMAGED",
      `the journal's records do not fit together: ${messageOf(error)}; run the version that wrote it, or free the ` +
        "state with 'npx @cache/engine purge --state' (what L2 holds stays and is found again)",
      { cause: error },
    );
  }
}

/** How to open the pool: `checkPosition` says why a pool that saw this journal record must not be taken over. */
export type OpenPool = (
  expected: PoolIdentity | null,
  checkPosition: (position: bigint) => string | null,
) => Promise<L1Pool>;

/** Opens the pool that the state belongs to, or a new one if anything disagrees. */
export async function openPoolFor(
  state: CacheState,
  recovery: JournalRecovery,
  openPool: OpenPool,
): Promise<{ pool: L1Pool; emptyBecause: string | null }> {
  const pool = await openPool(recovery.damage === null ? state.pool : null, (position) =>
    position <= recovery.lastPosition
      ? null
      : `the pool saw journal record ${position}, the journal ends at ${recovery.lastPosition}`,
  );
  if (pool.reattached) return { pool, emptyBecause: null };
  const damage = recovery.damage === null ? null : `the journal is damaged: ${recovery.damage.reason}`;
  return { pool, emptyBecause: damage ?? pool.refusal?.detail ?? "this is a new pool" };
}

/** The ranges of all slots that are in use. */
export function* rangesInUse(state: CacheState): Generator<L1Range> {
  for (let slot = 0; slot < state.slots.numbers.bound; slot++) {
    if (state.slots.state.get(slot) === SLOT.free) continue;
    yield { offset: state.slotOffset(slot), length: state.slotBytes(slot) };
  }
}

/**
 * Ends what died with the old process: loads, inline stores and inline reads of its own. What a helper process may still write
 * into is held back.
 *
 * @param writesOnlyFromEngine whether the adapter of this number promises that.
 */
export function endDeadTransfers(core: Core, writesOnlyFromEngine: (adapter: number) => boolean): void {
  for (const transfer of [...core.state.transfers.values()]) {
    if (transfer.kind === "read") {
      if (!transfer.inline) continue;
      const reason = "its reply died with the engine";
      core.record({ type: "l1.read.finished", transfer: transfer.number, committed: false, reason });
      continue;
    }
    if (transfer.writer === WRITER.client || transfer.held) continue;
    const hold = transfer.writer === WRITER.load && !writesOnlyFromEngine(transfer.adapter - 1);
    core.record({
      type: "l1.write.abandoned",
      transfer: transfer.number,
      hold,
      reason: "its writer died with the engine",
    });
  }
}

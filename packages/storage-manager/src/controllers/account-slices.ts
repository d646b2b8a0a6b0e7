import type { Core } from "../core.ts";
import { L2 } from "../state/ledger.ts";
import { SLOT } from "../state/slot-table.ts";

/** Rows of a table that one turn looks at. */
const SLICE_ROWS = 1_024;

/** Objects and their bytes. */
export interface Copies {
  readonly objects: number;
  readonly bytes: number;
}

/** Calls `look` for 1,024 rows after the other, a turn each; `bound` may grow meanwhile. */
async function slices(bound: () => number, look: (from: number, to: number) => void): Promise<void> {
  for (let from = 0; from < bound(); from += SLICE_ROWS) {
    look(from, Math.min(bound(), from + SLICE_ROWS));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Ends the waiting of all objects for their store to this adapter. Answers how many waited. */
export async function giveUpStores(core: Core, adapter: number, reason: string): Promise<number> {
  const { slots } = core.state;
  let count = 0;
  await slices(
    () => slots.numbers.bound,
    (from, to) => {
      const keys: number[] = [];
      for (let slot = from; slot < to; slot++) {
        const waits = (slots.awaiting.get(slot) & (1 << adapter)) !== 0;
        if (waits && slots.state.get(slot) === SLOT.resident) keys.push(slots.key.get(slot));
      }
      if (keys.length === 0) return;
      count += keys.length;
      core.record({ type: "l2.store.given_up", adapter, keys, reason });
      core.commit();
      core.signalRoom();
    },
  );
  return count;
}

/** What neither L1 nor another open adapter has, by our account. */
export async function onlyCopiesOf(core: Core, adapter: number): Promise<Copies> {
  const { state } = core;
  const ledger = state.ledger(adapter);
  const copies = { objects: 0, bytes: 0 };
  await slices(
    () => state.keys.numbers.bound,
    (from, to) => {
      for (let key = from; key < to; key++) {
        if (ledger.state.get(key) !== L2.stored || state.keys.resident.get(key) !== 0) continue;
        const elsewhere = state.ledgers.some(
          (other) => other !== ledger && other.active && other.state.get(key) === L2.stored,
        );
        if (elsewhere) continue;
        copies.objects++;
        copies.bytes += ledger.bytes.get(key);
      }
    },
  );
  return copies;
}

/** Takes every row out of an account that no adapter works on. */
export async function emptyAccount(core: Core, adapter: number, reason: string): Promise<void> {
  const ledger = core.state.ledger(adapter);
  const { numbers } = core.state.keys;
  await slices(
    () => (ledger.storedCount + ledger.inDoubt === 0 ? 0 : numbers.bound),
    (from, to) => {
      const stored: number[] = [];
      const storing: number[] = [];
      for (let key = from; key < to; key++) {
        const state = ledger.state.get(key);
        if (state === L2.storing) storing.push(key);
        else if (state !== L2.none) stored.push(key);
      }
      if (stored.length > 0) core.record({ type: "l2.keys.deleted", adapter, keys: stored, reason });
      if (storing.length > 0) {
        const task = core.state.nextTask;
        core.record({ type: "l2.store.completed", adapter, task, stored: [], failed: storing, reason });
      }
      core.commit();
    },
  );
}

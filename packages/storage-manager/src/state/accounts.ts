import type { CacheState } from "./cache-state.ts";
import { L2, type Ledger } from "./ledger.ts";
import { SLOT } from "./slot-table.ts";

/** What the ledger's figures gain or lose with one stored object. */
function account(state: CacheState, ledger: Ledger, key: number, sign: 1 | -1): void {
  const bytes = ledger.bytes.get(key) * sign;
  ledger.storedCount += sign;
  ledger.storedBytes += bytes;
  if (ledger.own.get(key) === 1) ledger.ownBytes += bytes;
  const salt = state.keys.groupOfKey(key).cacheSalt;
  const total = (ledger.bytesBySalt.get(salt) ?? 0) + bytes;
  if (total > 0) ledger.bytesBySalt.set(salt, total);
  else ledger.bytesBySalt.delete(salt);
}

/** What adapters hold of a key has changed: its object may go now, or is the only copy again. */
export function settleKey(state: CacheState, key: number): void {
  const slot = state.keys.resident.get(key) - 1;
  if (slot < 0) return;
  if (state.isProtected(slot)) state.leaveOrder(slot);
  else state.settleSlot(slot);
}

/** Takes a stored object out of the ledger's order and figures; its state is the caller's to set. */
export function unlist(state: CacheState, ledger: Ledger, key: number): void {
  if (ledger.order.isMember(key)) ledger.order.remove(ledger.orderEnds, key);
  account(state, ledger, key, -1);
}

/** The adapter has the key now; `recent` false: a listing found it, it counts as the oldest. */
export function list(state: CacheState, ledger: Ledger, key: number, recent: boolean): void {
  ledger.state.set(key, L2.stored);
  if (recent) ledger.order.append(ledger.orderEnds, key);
  else ledger.order.prepend(ledger.orderEnds, key);
  account(state, ledger, key, 1);
  settleKey(state, key);
}

/** The adapter has the key no more. */
export function forget(state: CacheState, ledger: Ledger, key: number): void {
  const before = ledger.state.get(key);
  if (before === L2.none) return;
  if (before === L2.stored) unlist(state, ledger, key);
  else ledger.inDoubt--;
  ledger.state.set(key, L2.none);
  settleKey(state, key);
  state.keys.release(key);
}

/** An adapter settled its store of this key, in this layout if one is given: the object may become evictable. */
export function clearAwaiting(state: CacheState, ledger: Ledger, key: number, layout?: number): void {
  const slot = state.keys.resident.get(key) - 1;
  if (slot < 0) return;
  // Another layout took the object's place while the store was under way: that one still waits for its own.
  if (layout !== undefined && state.slots.layout.get(slot) !== layout) return;
  state.slots.awaiting.set(slot, (state.slots.awaiting.get(slot) & ~(1 << ledger.number)) >>> 0);
  state.settleSlot(slot);
}

/**
 * Which adapters are open decides what is protected: only when one comes or goes, so it may look at every slot.
 *
 * @param without number of an adapter for which nothing waits any more.
 */
export function resettleAwaiting(state: CacheState, without?: number): void {
  const kept = without === undefined ? -1 : ~(1 << without);
  for (let slot = 0; slot < state.slots.numbers.bound; slot++) {
    const awaiting = state.slots.awaiting.get(slot);
    if (awaiting === 0 || state.slots.state.get(slot) !== SLOT.resident) continue;
    state.slots.awaiting.set(slot, (awaiting & kept) >>> 0);
    if (state.isProtected(slot)) state.leaveOrder(slot);
    else state.settleSlot(slot);
  }
}

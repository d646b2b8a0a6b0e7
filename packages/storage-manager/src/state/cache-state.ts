import { WRITER } from "../events/definitions.ts";
import type { AdapterChange } from "./adapter-changes.ts";
import { NumberPool } from "./columns.ts";
import { KeyTable } from "./key-table.ts";
import { L2, Ledger } from "./ledger.ts";
import { emptyOrder, type OrderEnds } from "./linked-order.ts";
import {
  type Client,
  type Layout,
  type PoolRecord,
  type Session,
  type TenantUsage,
  type Transfer,
} from "./records.ts";
import { SLOT, SlotTable } from "./slot-table.ts";

/** What the running engine wants to know of a state change. A replay has no listener. */
export interface StateListener {
  /** A range of L1 is no object's any more. */
  slotFreed(offset: number, length: number): void;
  /** A token record is of no use any more. */
  tokenRecordDead(segment: number, offset: number): void;
  /** An object waits for its store to these adapters (bit mask). */
  storeAwaited(key: number, adapters: number): void;
  /** An object has become resident. */
  becameResident?(key: number): void;
  /** A resident object that had no token record has one now. */
  tokensBound?(key: number): void;
  /** An object is not resident any more, and has no token record; the key's hash and group still stand. */
  leftL1?(key: number): void;
}

/** L1 figures, kept by the fold. Bytes are rounded up to the pool's alignment. */
export interface L1Figures {
  residentCount: number;
  residentBytes: number;
  stagedCount: number;
  stagedBytes: number;
  detachedBytes: number;
  lockedCount: number;
}

/**
 * All projections of the journal that the engine decides on: keys, slots, locks, hand-outs, sessions, clients,
 * ledgers, quotas, LRU orders, usage. Its methods are the steps that `evolve` is made of; nothing else may call
 * those that change something.
 */
export class CacheState {
  readonly keys = new KeyTable();
  readonly slots = new SlotTable();
  readonly layouts: (Layout | undefined)[] = [undefined];
  readonly layoutByText = new Map<string, number>();
  readonly clients = new Map<bigint, Client>();
  readonly modelLayouts = new Map<string, number>();
  readonly sessions = new Map<number, Session>();
  readonly sessionByRequest = new Map<string, number>();
  readonly sessionNumbers = new NumberPool();
  readonly transfers = new Map<number, Transfer>();
  readonly transferNumbers = new NumberPool();
  /** Open transfers by their match text, oldest first. */
  readonly openTransfers = new Map<string, number[]>();
  readonly ledgers: Ledger[] = [];
  /** What operators changed about the adapters, by id; in the order in which they were first changed. */
  readonly adapterChanges = new Map<string, AdapterChange>();
  readonly quotas = new Map<string, number>();
  readonly tenants = new Map<string, TenantUsage>();
  readonly tenantOrders = new Map<string, OrderEnds>();
  readonly l1: L1Figures = {
    residentCount: 0,
    residentBytes: 0,
    stagedCount: 0,
    stagedBytes: 0,
    detachedBytes: 0,
    lockedCount: 0,
  };
  /** Cells of all sessions: what their arrays hold. */
  sessionCells = 0;
  pool: PoolRecord | null = null;
  cleanStop = false;
  nextTask = 1;
  /** Raised when an object becomes resident, gets its token record, or leaves L1: the seq of KV events. */
  chunkSeq = 0;
  listener: StateListener | null = null;

  /** The layout of a number. */
  layout(number: number): Layout {
    const layout = this.layouts[number];
    if (layout === undefined) throw new TypeError(`layout ${number} is not defined`);
    return layout;
  }

  /** Bytes of a slot's object. */
  slotBytes(slot: number): number {
    return this.layout(this.slots.layout.get(slot)).objectBytes;
  }

  /** Byte offset of a slot in L1. */
  slotOffset(slot: number): number {
    return this.slots.offset.get(slot) * (this.pool?.alignBytes ?? 1);
  }

  /** Bytes that a slot occupies. */
  occupied(slot: number): number {
    const align = this.pool?.alignBytes ?? 1;
    return Math.ceil(this.slotBytes(slot) / align) * align;
  }

  /** The resident slot of a key with this layout, -1 if there is none. */
  residentSlot(key: number, layout: number): number {
    const slot = this.keys.resident.get(key) - 1;
    return slot >= 0 && this.slots.layout.get(slot) === layout ? slot : -1;
  }

  /** True if an open adapter has the key with this layout, or with an unknown one of the same length. */
  isStoredInL2(key: number, layout: number): boolean {
    const { objectBytes } = this.layout(layout);
    return this.ledgers.some((ledger) => {
      if (!ledger.active || ledger.state.get(key) !== L2.stored) return false;
      const stored = ledger.layout.get(key);
      return stored === layout || (stored === 0 && ledger.bytes.get(key) === objectBytes);
    });
  }

  /** True if dropping the object would lose it: no adapter has it and one is still to get it. */
  isProtected(slot: number): boolean {
    return (
      this.slots.awaiting.get(slot) !== 0 &&
      !this.isStoredInL2(this.slots.key.get(slot), this.slots.layout.get(slot))
    );
  }

  saltOf(slot: number): string {
    return this.keys.groupOfKey(this.slots.key.get(slot)).cacheSalt;
  }

  tenantOrder(salt: string): OrderEnds {
    let ends = this.tenantOrders.get(salt);
    if (ends === undefined) {
      ends = emptyOrder();
      this.tenantOrders.set(salt, ends);
    }
    return ends;
  }

  leaveOrder(slot: number): void {
    if (!this.slots.order.isMember(slot)) return;
    this.slots.order.remove(this.slots.orderEnds, slot);
    this.slots.tenantOrder.remove(this.tenantOrder(this.saltOf(slot)), slot);
  }

  enterOrder(slot: number): void {
    this.leaveOrder(slot);
    this.slots.order.append(this.slots.orderEnds, slot);
    this.slots.tenantOrder.append(this.tenantOrder(this.saltOf(slot)), slot);
  }

  /** After a lock, hand-out or store ended: frees what nobody needs, makes evictable what may go. */
  settleSlot(slot: number): void {
    const { slots } = this;
    if (slots.locks.get(slot) > 0 || slots.handOuts.get(slot) > 0) return;
    const state = slots.state.get(slot);
    if (state === SLOT.detached) this.freeSlot(slot);
    else if (state === SLOT.resident && !slots.order.isMember(slot) && !this.isProtected(slot))
      this.enterOrder(slot);
  }

  /** After a reader ended: a temporary object leaves, unless it is the only copy by now. */
  settleRead(slot: number): void {
    const { slots } = this;
    const idle = slots.locks.get(slot) === 0 && slots.handOuts.get(slot) === 0;
    const leaves = idle && slots.state.get(slot) === SLOT.resident && slots.temporary.get(slot) === 1;
    if (leaves && this.isStoredInL2(slots.key.get(slot), slots.layout.get(slot))) this.detach(slot);
    else this.settleSlot(slot);
  }

  lock(slot: number, count: number): void {
    this.leaveOrder(slot);
    const before = this.slots.locks.get(slot);
    if (before === 0 && count > 0) this.l1.lockedCount++;
    this.slots.locks.set(slot, before + count);
  }

  unlock(slot: number, generation: number, count: number): void {
    if (this.slots.generation.get(slot) !== generation) return;
    const before = this.slots.locks.get(slot);
    if (before === 0) return;
    const left = Math.max(0, before - count);
    this.slots.locks.set(slot, left);
    if (left > 0) return;
    this.l1.lockedCount--;
    this.settleRead(slot);
  }

  handOut(slot: number): void {
    this.leaveOrder(slot);
    this.slots.handOuts.set(slot, this.slots.handOuts.get(slot) + 1);
  }

  endHandOut(slot: number): void {
    this.slots.handOuts.set(slot, this.slots.handOuts.get(slot) - 1);
    this.settleRead(slot);
  }

  reserveSlot(slot: number, key: number, layout: number, offset: number, temporary: boolean): void {
    const { slots } = this;
    slots.numbers.take(slot);
    slots.state.set(slot, SLOT.staged);
    slots.key.set(slot, key);
    slots.layout.set(slot, layout);
    slots.offset.set(slot, offset);
    slots.locks.set(slot, 0);
    slots.handOuts.set(slot, 0);
    slots.awaiting.set(slot, 0);
    slots.temporary.set(slot, temporary ? 1 : 0);
    this.keys.retain(key);
    this.l1.stagedCount++;
    this.l1.stagedBytes += this.occupied(slot);
  }

  /** A staged slot becomes the resident object of its key, unless the key has one of the same layout. */
  makeResident(slot: number, writer: number): void {
    const { slots, keys } = this;
    const key = slots.key.get(slot);
    const layout = slots.layout.get(slot);
    const resident = this.residentSlot(key, layout);
    if (resident >= 0) {
      this.freeSlot(slot);
      // What a client stored stays, also where a load brought the same object before.
      if (writer !== WRITER.load) slots.temporary.set(resident, 0);
      return;
    }
    const other = keys.resident.get(key) - 1;
    if (other >= 0) this.detach(other);
    const bytes = this.occupied(slot);
    this.l1.stagedCount--;
    this.l1.stagedBytes -= bytes;
    this.l1.residentCount++;
    this.l1.residentBytes += bytes;
    this.#tenant(slot, bytes, 1);
    slots.state.set(slot, SLOT.resident);
    keys.resident.set(key, slot + 1);
    this.chunkSeq++;
    this.listener?.becameResident?.(key);
    if (writer !== WRITER.load) {
      slots.awaiting.set(slot, this.#storeMask(key, layout));
      if (slots.awaiting.get(slot) !== 0) this.listener?.storeAwaited(key, slots.awaiting.get(slot));
    }
    this.settleSlot(slot);
  }

  #storeMask(key: number, layout: number): number {
    let mask = 0;
    for (const ledger of this.ledgers) {
      if (!ledger.active || ledger.draining) continue;
      if (ledger.state.get(key) === L2.stored && ledger.layout.get(key) === layout) continue;
      mask |= 1 << ledger.number;
    }
    return mask >>> 0;
  }

  #tenant(slot: number, bytes: number, objects: number): void {
    const salt = this.saltOf(slot);
    const usage = this.tenants.get(salt) ?? { bytes: 0, objects: 0 };
    usage.bytes += bytes;
    usage.objects += objects;
    if (usage.objects === 0) this.tenants.delete(salt);
    else this.tenants.set(salt, usage);
  }

  /** Takes a resident object out of the index; frees it once nobody reads it. */
  detach(slot: number): void {
    const { slots, keys } = this;
    if (slots.state.get(slot) !== SLOT.resident) throw new TypeError(`slot ${slot} is not resident`);
    this.leaveOrder(slot);
    const key = slots.key.get(slot);
    const bytes = this.occupied(slot);
    keys.resident.set(key, 0);
    this.#dropTokenRecord(key);
    this.chunkSeq++;
    this.listener?.leftL1?.(key);
    this.l1.residentCount--;
    this.l1.residentBytes -= bytes;
    this.#tenant(slot, -bytes, -1);
    slots.awaiting.set(slot, 0);
    slots.state.set(slot, SLOT.detached);
    this.l1.detachedBytes += bytes;
    this.settleSlot(slot);
  }

  #dropTokenRecord(key: number): void {
    const segment = this.keys.tokenSegment.get(key);
    if (segment === 0) return;
    this.keys.tokenSegment.set(key, 0);
    this.listener?.tokenRecordDead(segment - 1, this.keys.tokenOffset.get(key));
  }

  /** Where the token record of a resident object lies, from now on. */
  setTokenRecord(key: number, segment: number, offset: number): void {
    const before = this.keys.tokenSegment.get(key);
    if (before !== 0) this.listener?.tokenRecordDead(before - 1, this.keys.tokenOffset.get(key));
    this.keys.tokenSegment.set(key, segment + 1);
    this.keys.tokenOffset.set(key, offset);
    if (before !== 0) return;
    this.chunkSeq++;
    this.listener?.tokensBound?.(key);
  }

  /** Gives a staged or detached slot back. */
  freeSlot(slot: number): void {
    const { slots } = this;
    const bytes = this.occupied(slot);
    if (slots.state.get(slot) === SLOT.staged) {
      this.l1.stagedCount--;
      this.l1.stagedBytes -= bytes;
    } else if (slots.state.get(slot) === SLOT.detached) {
      this.l1.detachedBytes -= bytes;
    } else {
      throw new TypeError(`slot ${slot} is neither staged nor detached`);
    }
    const offset = this.slotOffset(slot);
    const length = this.slotBytes(slot);
    const salt = this.saltOf(slot);
    if (slots.locks.get(slot) > 0) this.l1.lockedCount--;
    slots.locks.set(slot, 0);
    slots.state.set(slot, SLOT.free);
    slots.generation.set(slot, (slots.generation.get(slot) + 1) >>> 0);
    slots.numbers.give(slot);
    this.keys.release(slots.key.get(slot));
    if (!this.tenants.has(salt) && this.tenantOrder(salt).count === 0) this.tenantOrders.delete(salt);
    this.listener?.slotFreed(offset, length);
  }

  ledger(number: number): Ledger {
    const ledger = this.ledgers[number];
    if (ledger === undefined) throw new TypeError(`adapter ${number} is not defined`);
    return ledger;
  }

  addTransfer(transfer: Transfer): void {
    this.transferNumbers.take(transfer.number);
    this.transfers.set(transfer.number, transfer);
    const open = this.openTransfers.get(transfer.match);
    if (open === undefined) this.openTransfers.set(transfer.match, [transfer.number]);
    else open.push(transfer.number);
  }

  closeTransfer(transfer: Transfer): void {
    const open = this.openTransfers.get(transfer.match);
    if (open === undefined) return;
    const at = open.indexOf(transfer.number);
    if (at >= 0) open.splice(at, 1);
    if (open.length === 0) this.openTransfers.delete(transfer.match);
  }

  removeTransfer(transfer: Transfer): void {
    this.closeTransfer(transfer);
    this.transfers.delete(transfer.number);
    this.transferNumbers.give(transfer.number);
  }

  transfer(number: number): Transfer {
    const transfer = this.transfers.get(number);
    if (transfer === undefined) throw new TypeError(`transfer ${number} is not open`);
    return transfer;
  }

  /** The open hand-out of that number and kind. */
  transferOf(number: number, kind: Transfer["kind"]): Transfer {
    const transfer = this.transfer(number);
    if (transfer.kind !== kind) throw new TypeError(`transfer ${number} is a ${transfer.kind}`);
    return transfer;
  }

  session(number: number): Session {
    const session = this.sessions.get(number);
    if (session === undefined) throw new TypeError(`session ${number} is not open`);
    return session;
  }

  /** Gives up to `count` locks of one cell of a session back. */
  releaseCell(session: Session, cell: number, count: number): void {
    const left = session.remaining[cell] ?? 0;
    const given = Math.min(left, count);
    if (given === 0) return;
    session.remaining[cell] = left - given;
    this.unlock((session.slots[cell] as number) - 1, session.generations[cell] as number, given);
  }

  /** The L1 part begins anew with an empty pool. */
  resetL1(): void {
    const listener = this.listener;
    this.listener = null;
    for (const transfer of [...this.transfers.values()]) {
      if (transfer.kind === "read") for (const slot of transfer.slots) this.slots.handOuts.set(slot, 0);
      this.removeTransfer(transfer);
    }
    this.sessions.clear();
    this.sessionCells = 0;
    this.sessionByRequest.clear();
    this.sessionNumbers.restore({ next: 0, free: [] });
    for (let slot = 0; slot < this.slots.numbers.bound; slot++) {
      const state = this.slots.state.get(slot);
      if (state === SLOT.free) continue;
      if (this.slots.locks.get(slot) > 0) this.l1.lockedCount--;
      this.slots.locks.set(slot, 0);
      this.slots.handOuts.set(slot, 0);
      if (state === SLOT.resident) this.detach(slot);
      else this.freeSlot(slot);
    }
    this.clients.clear();
    this.modelLayouts.clear();
    this.listener = listener;
  }
}

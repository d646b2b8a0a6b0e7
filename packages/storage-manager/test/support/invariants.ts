import { decodeEvent } from "../../src/events/codec.ts";
import { CacheState } from "../../src/state/cache-state.ts";
import { evolve } from "../../src/state/evolve.ts";
import { L2 } from "../../src/state/ledger.ts";
import { SLOT } from "../../src/state/slot-table.ts";
import { decodeState, encodeState } from "../../src/state/snapshot.ts";
import type { TestEngine } from "./engine.ts";

function same(what: string, actual: unknown, expected: unknown): void {
  const [left, right] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (left !== right) throw new Error(`${what}: is ${left}, should be ${right}`);
}

function byName<V>(map: ReadonlyMap<string, V>): [string, V][] {
  return [...map].sort(([a], [b]) => (a < b ? -1 : 1));
}

function slotsInUse(state: CacheState): number[] {
  const slots: number[] = [];
  for (let slot = 0; slot < state.slots.numbers.bound; slot++) {
    if (state.slots.state.get(slot) !== SLOT.free) slots.push(slot);
  }
  return slots;
}

/** Ranges do not overlap, and the allocator has handed out exactly them (and what I/O still holds). */
function checkMemory(engine: TestEngine): void {
  const { state } = engine;
  const { space } = engine.manager.core;
  const ranges = slotsInUse(state)
    .map((slot) => ({
      slot,
      from: state.slotOffset(slot),
      to: state.slotOffset(slot) + state.occupied(slot),
    }))
    .sort((a, b) => a.from - b.from);
  for (let i = 1; i < ranges.length; i++) {
    const [before, after] = [ranges[i - 1], ranges[i]] as [(typeof ranges)[0], (typeof ranges)[0]];
    if (after.from < before.to) throw new Error(`slots ${before.slot} and ${after.slot} overlap`);
  }
  const last = ranges.at(-1);
  if (last !== undefined && last.to > engine.pool.sizeBytes) throw new Error("a slot lies beyond the pool");
  const total = ranges.reduce((sum, { from, to }) => sum + to - from, 0);
  if (space.pinnedRanges === 0) same("bytes handed out", space.usedBytes, total);
  else if (space.usedBytes < total) throw new Error(`${space.usedBytes} bytes handed out, ${total} in use`);
}

/** Figures equal a recount. */
function checkFigures(state: CacheState): void {
  const l1 = {
    residentCount: 0,
    residentBytes: 0,
    stagedCount: 0,
    stagedBytes: 0,
    detachedBytes: 0,
    lockedCount: 0,
  };
  const tenants = new Map<string, { bytes: number; objects: number }>();
  for (const slot of slotsInUse(state)) {
    const bytes = state.occupied(slot);
    const kind = state.slots.state.get(slot);
    if (state.slots.locks.get(slot) > 0) l1.lockedCount++;
    if (kind === SLOT.staged) {
      l1.stagedCount++;
      l1.stagedBytes += bytes;
    } else if (kind === SLOT.detached) {
      l1.detachedBytes += bytes;
    } else {
      l1.residentCount++;
      l1.residentBytes += bytes;
      const usage = tenants.get(state.saltOf(slot)) ?? { bytes: 0, objects: 0 };
      tenants.set(state.saltOf(slot), { bytes: usage.bytes + bytes, objects: usage.objects + 1 });
    }
  }
  same("L1 figures", state.l1, l1);
  same("tenants", byName(state.tenants), byName(tenants));
}

/** Every ledger's figures equal a recount, and its order holds exactly what is stored. */
function checkLedgers(state: CacheState): void {
  for (const ledger of state.ledgers) {
    let [count, bytes, own, doubt] = [0, 0, 0, 0];
    const bySalt = new Map<string, number>();
    for (let key = 0; key < state.keys.numbers.bound; key++) {
      const kind = ledger.state.get(key);
      if (kind === L2.storing || kind === L2.deleting) doubt++;
      if (ledger.order.isMember(key) !== (kind === L2.stored))
        throw new Error(`key ${key}: ledger order disagrees`);
      if (kind !== L2.stored) continue;
      const size = ledger.bytes.get(key);
      const salt = state.keys.groupOfKey(key).cacheSalt;
      count++;
      bytes += size;
      own += ledger.own.get(key) === 1 ? size : 0;
      bySalt.set(salt, (bySalt.get(salt) ?? 0) + size);
    }
    const figures = [ledger.storedCount, ledger.storedBytes, ledger.ownBytes, ledger.inDoubt];
    same(`figures of ${ledger.id}`, figures, [count, bytes, own, doubt]);
    same(`tenants of ${ledger.id}`, byName(ledger.bytesBySalt), byName(bySalt));
    same(`order of ${ledger.id}`, [...ledger.order.fromOldest(ledger.orderEnds)].length, count);
  }
}

/** The order holds exactly what may be evicted: resident, unlocked, not handed out, not waiting for its only store. */
function checkOrder(state: CacheState): void {
  const evictable = slotsInUse(state).filter((slot) => {
    const busy = state.slots.locks.get(slot) > 0 || state.slots.handOuts.get(slot) > 0;
    return state.slots.state.get(slot) === SLOT.resident && !busy && !state.isProtected(slot);
  });
  const ascending = (a: number, b: number): number => a - b;
  const listed = [...state.slots.order.fromOldest(state.slots.orderEnds)];
  same("evictable slots", [...listed].sort(ascending), evictable);
  same("their count", state.slots.orderEnds.count, evictable.length);
  const byTenant = [...state.tenantOrders.values()].flatMap((ends) => [
    ...state.slots.tenantOrder.fromOldest(ends),
  ]);
  same("evictable slots by tenant", byTenant.sort(ascending), evictable);
  for (const [salt, ends] of state.tenantOrders) {
    for (const slot of state.slots.tenantOrder.fromOldest(ends)) same("tenant", state.saltOf(slot), salt);
  }
}

/** Hand-outs and slots name each other; locks of sessions are there; keys have as many references as users. */
function checkReferences(state: CacheState, loose: ReadonlySet<number>): void {
  const readers = new Map<number, number>();
  const staged = new Set<number>();
  for (const transfer of state.transfers.values()) {
    for (const slot of transfer.slots) {
      if (transfer.kind === "read") readers.set(slot, (readers.get(slot) ?? 0) + 1);
      else if (staged.has(slot)) throw new Error(`slot ${slot} is staged twice`);
      else staged.add(slot);
    }
    const open = state.openTransfers.get(transfer.match)?.includes(transfer.number) ?? false;
    if (open === transfer.held)
      throw new Error(`transfer ${transfer.number} is both open and held, or neither`);
  }
  const locks = new Map<number, number>();
  for (const session of state.sessions.values()) {
    for (const [cell, entry] of session.slots.entries()) {
      if (entry === 0 || state.slots.generation.get(entry - 1) !== session.generations[cell]) continue;
      locks.set(entry - 1, (locks.get(entry - 1) ?? 0) + (session.remaining[cell] as number));
    }
  }
  const references = new Map<number, number>();
  for (const slot of slotsInUse(state)) {
    const kind = state.slots.state.get(slot);
    if ((kind === SLOT.staged) !== staged.has(slot))
      throw new Error(`slot ${slot} has no hand-out of its own`);
    same(`readers of slot ${slot}`, state.slots.handOuts.get(slot), readers.get(slot) ?? 0);
    readers.delete(slot);
    if (state.slots.locks.get(slot) < (locks.get(slot) ?? 0) && !loose.has(slot))
      throw new Error(`slot ${slot} lost a lock`);
    locks.delete(slot);
    if (kind === SLOT.detached && state.slots.locks.get(slot) + state.slots.handOuts.get(slot) === 0)
      throw new Error(`slot ${slot} is detached and nobody uses it`);
    const key = state.slots.key.get(slot);
    references.set(key, (references.get(key) ?? 0) + 1);
    if (kind === SLOT.resident) same(`resident slot of key ${key}`, state.keys.resident.get(key), slot + 1);
  }
  same("readers of free slots", [...readers], []);
  same(
    "locks of free slots",
    [...locks].filter(([, count]) => count > 0),
    [],
  );
  for (let key = 0; key < state.keys.numbers.bound; key++) {
    const held = state.ledgers.filter((ledger) => ledger.state.get(key) !== L2.none).length;
    same(`references of key ${key}`, state.keys.references.get(key), (references.get(key) ?? 0) + held);
  }
}

/**
 * Throws what is wrong with the engine's state, in words.
 *
 * @param loose slots that somebody read without a lookup of his own: his commit took a lock of another's.
 */
export function checkInvariants(engine: TestEngine, loose: ReadonlySet<number> = new Set()): void {
  checkMemory(engine);
  checkFigures(engine.state);
  checkLedgers(engine.state);
  checkOrder(engine.state);
  checkReferences(engine.state, loose);
}

/** Follows an engine's journal record by record, as a replay would, also from a snapshot made on the way. */
export class Replay {
  readonly #engine: TestEngine;
  #state = new CacheState();
  #fromSnapshot: CacheState | null = null;
  #next = 1n;

  constructor(engine: TestEngine) {
    this.#engine = engine;
  }

  /** From here on a second replay goes on from a snapshot of this one. */
  snapshot(): void {
    this.#fromSnapshot = decodeState(encodeState(this.#state));
  }

  /**
   * Takes in what is new.
   *
   * @param snapshotAfter makes the snapshot after so many of the new records: in the middle of a batch, too.
   */
  catchUp(snapshotAfter = -1): void {
    let taken = 0;
    for (const { position, payload } of this.#engine.journal.read({ from: this.#next })) {
      if (taken++ === snapshotAfter) this.snapshot();
      const event = decodeEvent(payload);
      evolve(this.#state, event);
      if (this.#fromSnapshot !== null) evolve(this.#fromSnapshot, event);
      this.#next = position + 1n;
    }
  }

  /** Throws unless both replays give the bytes of the live state, and these survive decoding. */
  check(): void {
    const live = Buffer.from(encodeState(this.#engine.state));
    const differs = (what: string, state: CacheState): void => {
      const bytes = Buffer.from(encodeState(state));
      if (bytes.equals(live)) return;
      const header = (of: Buffer): string => of.toString("utf8", 4, 4 + of.readUInt32LE(0));
      throw new Error(`${what} differs from the live state:\n${header(bytes)}\n${header(live)}`);
    };
    differs("the replay", this.#state);
    differs("the decoded snapshot", decodeState(live));
    if (this.#fromSnapshot !== null) differs("the replay from a snapshot", this.#fromSnapshot);
  }
}

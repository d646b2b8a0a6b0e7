import { CacheError } from "@cache/contracts";
import type { CacheEvent, EventOf } from "../events/definitions.ts";
import { clearAwaiting, forget, list, resettleAwaiting, settleKey, unlist } from "./accounts.ts";
import type { CacheState } from "./cache-state.ts";
import { ADAPTER_HANDLERS } from "./evolve-adapters.ts";
import { L2 } from "./ledger.ts";
import { layoutText, modelText, type Session } from "./records.ts";
import { SLOT } from "./slot-table.ts";

type Handlers = { readonly [T in CacheEvent["type"]]: (state: CacheState, event: EventOf<T>) => void };

/** In reverse: the head of a prefix ends up the most recent, so that tails are evicted first. */
function reversed<T>(items: readonly T[], each: (item: T, index: number) => void): void {
  for (let i = items.length - 1; i >= 0; i--) each(items[i] as T, i);
}

/** A start for each pool, so that a cursor of another pool's time lies outside of this one's: below 2^52. */
function firstChunkSeq(poolId: string): number {
  return Number.parseInt(poolId.slice(0, 13), 16) || 1;
}

function takeLocks(state: CacheState, session: Session, slots: readonly number[]): void {
  session.slots = Uint32Array.from(slots);
  session.generations = new Uint32Array(slots.length);
  session.remaining = new Uint32Array(slots.length);
  for (let cell = 0; cell < slots.length; cell++) {
    const slot = (slots[cell] as number) - 1;
    if (slot < 0) continue;
    session.generations[cell] = state.slots.generation.get(slot);
    session.remaining[cell] = session.readers;
    state.lock(slot, session.readers);
  }
}

function dropLocks(state: CacheState, session: Session): void {
  for (let cell = session.slots.length - 1; cell >= 0; cell--)
    state.releaseCell(session, cell, session.readers);
}

const HANDLERS: Handlers = {
  ...ADAPTER_HANDLERS,
  "engine.started": (state) => {
    state.cleanStop = false;
    for (const ledger of state.ledgers) ledger.active = false;
    resettleAwaiting(state);
  },
  "engine.stopped": (state) => {
    state.cleanStop = true;
  },
  "l1.pool.created": (state, event) => {
    state.resetL1();
    state.pool = {
      poolId: event.poolId,
      bootId: event.bootId,
      device: event.device,
      inode: event.inode,
      sizeBytes: event.sizeBytes,
      alignBytes: event.alignBytes,
    };
    state.chunkSeq = firstChunkSeq(event.poolId);
  },
  "layout.defined": (state, event) => {
    const layout = {
      shape: [...event.shape],
      dtype: event.dtype,
      blockSize: event.blockSize,
      objectBytes: event.objectBytes,
    };
    state.layouts[event.layout] = layout;
    state.layoutByText.set(layoutText(layout), event.layout);
  },
  "group.defined": (state, { group, modelName, kvRank, objectGroupId, cacheSalt }) => {
    state.keys.defineGroup(group, { modelName, kvRank, objectGroupId, cacheSalt });
  },
  "client.registered": (state, { instance, modelName, worldSize, layout, inline }) => {
    state.clients.set(instance, { instance, modelName, worldSize, layout, inline });
    state.modelLayouts.set(modelText(modelName, worldSize), layout);
  },
  "client.unregistered": (state, { instance }) => {
    const client = state.clients.get(instance);
    if (client === undefined) return;
    state.clients.delete(instance);
    const model = modelText(client.modelName, client.worldSize);
    const left = [...state.clients.values()].filter(
      (other) => modelText(other.modelName, other.worldSize) === model,
    );
    const last = left.at(-1);
    if (last === undefined) state.modelLayouts.delete(model);
    // Lookups must not count what no client that is left could retrieve.
    else if (!left.some(({ layout }) => layout === state.modelLayouts.get(model)))
      state.modelLayouts.set(model, last.layout);
  },
  "l1.key.bound": (state, { group, keys, hashes }) => {
    state.keys.groupOf(group);
    for (let i = 0; i < keys.length; i++) state.keys.bind(keys[i] as number, group, hashes, i * 32);
  },
  "l1.write.reserved": (state, event) => {
    for (let i = 0; i < event.slots.length; i++) {
      state.reserveSlot(
        event.slots[i] as number,
        event.keys[i] as number,
        event.layout,
        event.offsets[i] as number,
        event.temporary,
      );
    }
    state.addTransfer({
      number: event.transfer,
      kind: "write",
      writer: event.writer,
      instance: event.instance,
      adapter: event.adapter,
      requestId: event.requestId,
      match: event.match,
      layout: event.layout,
      complete: event.complete,
      temporary: event.temporary,
      slots: event.slots,
      generations: event.slots.map((slot) => state.slots.generation.get(slot)),
      session: 0,
      fromChunk: 0,
      toChunk: 0,
      rank: 0,
      inline: false,
      held: false,
    });
  },
  "l1.write.finished": (state, event) => {
    const transfer = state.transferOf(event.transfer, "write");
    const missing = new Set(event.missing);
    state.removeTransfer(transfer);
    reversed(transfer.slots, (slot, i) => {
      if (missing.has(i)) state.freeSlot(slot);
      else state.makeResident(slot, transfer.writer);
    });
  },
  "l1.write.abandoned": (state, event) => {
    const transfer = state.transferOf(event.transfer, "write");
    if (event.hold) {
      transfer.held = true;
      state.closeTransfer(transfer);
      return;
    }
    state.removeTransfer(transfer);
    for (const slot of transfer.slots) state.freeSlot(slot);
  },
  "session.looked_up": (state, event) => {
    let session = state.sessions.get(event.session);
    if (session === undefined) {
      state.sessionNumbers.take(event.session);
      session = {
        number: event.session,
        requestId: event.requestId,
        pending: true,
        answered: false,
        ranks: 0,
        readers: 0,
        hits: 0,
        slots: new Uint32Array(0),
        generations: new Uint32Array(0),
        remaining: new Uint32Array(0),
      };
      state.sessions.set(event.session, session);
      state.sessionByRequest.set(event.requestId, event.session);
    }
    const before = { ...session };
    session.pending = event.pending;
    session.answered = false;
    session.ranks = event.ranks;
    session.readers = event.readers;
    session.hits = event.hits;
    takeLocks(state, session, event.slots);
    state.sessionCells += session.slots.length - before.slots.length;
    dropLocks(state, before);
  },
  "session.answered": (state, { session }) => {
    state.session(session).answered = true;
  },
  "session.locks.released": (state, event) => {
    const session = state.session(event.session);
    for (let chunk = Math.min(event.toChunk, session.hits) - 1; chunk >= event.fromChunk; chunk--) {
      for (let rank = 0; rank < session.ranks; rank++) {
        if (event.rank !== 0 && event.rank !== rank + 1) continue;
        state.releaseCell(session, chunk * session.ranks + rank, event.count);
      }
    }
  },
  "session.ended": (state, event) => {
    const session = state.session(event.session);
    for (let cell = session.slots.length - 1; cell >= 0; cell--) {
      const slot = (session.slots[cell] as number) - 1;
      if (slot < 0 || state.slots.generation.get(slot) !== session.generations[cell]) continue;
      if (state.slots.order.isMember(slot)) state.enterOrder(slot);
    }
    // Nobody will ask for the result of a lookup that was still under way.
    if (session.pending) dropLocks(state, session);
    state.sessionCells -= session.slots.length;
    state.sessions.delete(session.number);
    if (state.sessionByRequest.get(session.requestId) === session.number) {
      state.sessionByRequest.delete(session.requestId);
    }
    state.sessionNumbers.give(session.number);
  },
  "l1.read.expired": (state, { slots }) => {
    reversed(slots, (slot) => {
      if (state.slots.locks.get(slot) === 0) return;
      state.slots.locks.set(slot, 0);
      state.slots.generation.set(slot, (state.slots.generation.get(slot) + 1) >>> 0);
      state.l1.lockedCount--;
      state.settleRead(slot);
    });
  },
  "l1.read.handed_out": (state, event) => {
    for (const slot of event.slots) state.handOut(slot);
    state.addTransfer({
      number: event.transfer,
      kind: "read",
      writer: 0,
      instance: event.instance,
      adapter: 0,
      requestId: event.requestId,
      match: event.match,
      layout: 0,
      complete: true,
      temporary: false,
      slots: event.slots,
      generations: event.slots.map((slot) => state.slots.generation.get(slot)),
      session: event.session,
      fromChunk: event.fromChunk,
      toChunk: event.toChunk,
      rank: event.rank,
      inline: event.inline,
      held: false,
    });
  },
  "l1.read.finished": (state, event) => {
    const transfer = state.transferOf(event.transfer, "read");
    state.removeTransfer(transfer);
    const session = transfer.session === 0 ? undefined : state.sessions.get(transfer.session - 1);
    const ours = session !== undefined && session.requestId === transfer.requestId;
    reversed(transfer.slots, (slot, i) => {
      if (event.committed) {
        if (ours) state.releaseCell(session, (transfer.fromChunk + i) * session.ranks + transfer.rank, 1);
        else state.unlock(slot, transfer.generations[i] as number, 1);
      }
      state.endHandOut(slot);
    });
  },
  "l1.keys.evicted": (state, { slots }) => {
    for (const slot of slots) if (state.slots.state.get(slot) === SLOT.resident) state.detach(slot);
  },
  "l1.keys.accessed": (state, { slots }) => {
    reversed(slots, (slot) => {
      if (state.slots.order.isMember(slot)) state.enterOrder(slot);
    });
  },
  "l1.tokens.recorded": (state, { keys, segments, offsets }) => {
    for (let i = 0; i < keys.length; i++) {
      const key = keys[i] as number;
      if (state.keys.resident.get(key) === 0) continue;
      state.setTokenRecord(key, segments[i] as number, offsets[i] as number);
    }
  },
  "l2.store.submitted": (state, { adapter, task, layout, keys }) => {
    const ledger = state.ledger(adapter);
    state.nextTask = Math.max(state.nextTask, task + 1);
    const bytes = state.layout(layout).objectBytes;
    for (const key of keys) {
      const before = ledger.state.get(key);
      if (before === L2.stored) unlist(state, ledger, key);
      if (before === L2.none) state.keys.retain(key);
      if (before === L2.none || before === L2.stored) ledger.inDoubt++;
      ledger.state.set(key, L2.storing);
      ledger.layout.set(key, layout);
      ledger.bytes.set(key, bytes);
      ledger.own.set(key, 1);
      settleKey(state, key);
    }
  },
  "l2.store.completed": (state, { adapter, stored, failed }) => {
    const ledger = state.ledger(adapter);
    reversed(stored, (key) => {
      if (ledger.state.get(key) !== L2.storing) return;
      ledger.inDoubt--;
      list(state, ledger, key, true);
      clearAwaiting(state, ledger, key, ledger.layout.get(key));
    });
    for (const key of failed) if (ledger.state.get(key) === L2.storing) forget(state, ledger, key);
  },
  "l2.store.given_up": (state, { adapter, keys }) => {
    reversed(keys, (key) => clearAwaiting(state, state.ledger(adapter), key));
  },
  "l2.delete.submitted": (state, { adapter, keys }) => {
    const ledger = state.ledger(adapter);
    for (const key of keys) {
      if (ledger.state.get(key) !== L2.stored) continue;
      unlist(state, ledger, key);
      ledger.state.set(key, L2.deleting);
      ledger.inDoubt++;
      settleKey(state, key);
    }
  },
  "l2.keys.deleted": (state, { adapter, keys }) => {
    const ledger = state.ledger(adapter);
    // A store under way is not undone by a listing that did not see it.
    for (const key of keys) if (ledger.state.get(key) !== L2.storing) forget(state, ledger, key);
  },
  "l2.delete.refused": (state, { adapter, keys }) => {
    const ledger = state.ledger(adapter);
    for (const key of keys) {
      if (ledger.state.get(key) !== L2.deleting) continue;
      ledger.inDoubt--;
      list(state, ledger, key, true);
    }
  },
  "l2.keys.adopted": (state, { adapter, keys, lengths }) => {
    const ledger = state.ledger(adapter);
    for (let i = 0; i < keys.length; i++) {
      const key = keys[i] as number;
      if (ledger.state.get(key) !== L2.none) continue;
      state.keys.retain(key);
      ledger.layout.set(key, 0);
      ledger.bytes.set(key, lengths[i] as number);
      ledger.own.set(key, 0);
      list(state, ledger, key, false);
    }
  },
  "l2.keys.accessed": (state, { adapter, keys }) => {
    const ledger = state.ledger(adapter);
    reversed(keys, (key) => {
      if (ledger.state.get(key) !== L2.stored) return;
      ledger.order.remove(ledger.orderEnds, key);
      ledger.order.append(ledger.orderEnds, key);
    });
  },
  "quota.set": (state, { cacheSalt, limitBytes }) => {
    state.quotas.set(cacheSalt, limitBytes);
  },
  "quota.removed": (state, { cacheSalt }) => {
    state.quotas.delete(cacheSalt);
  },
};

/**
 * Applies one event to the state. It depends on nothing but both: replaying a journal gives an equal state.
 *
 * @throws CacheError `DATA_CORRUPT` if the event does not fit the state.
 */
export function evolve(state: CacheState, event: CacheEvent): void {
  try {
    (HANDLERS[event.type] as (state: CacheState, event: CacheEvent) => void)(state, event);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new CacheError("DATA_CORRUPT", `event ${event.type} does not fit the state: ${error.message}`, {
      cause: error,
    });
  }
}

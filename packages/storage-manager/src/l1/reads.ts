import type { Core } from "../core.ts";
import type { Layout, Session, Transfer } from "../state/records.ts";
import { SLOT } from "../state/slot-table.ts";
import type { Clients } from "./clients.ts";
import type { HandOuts } from "./hand-outs.ts";
import { type ChunkRequest, kvRanksOf, matchText, type SlotAnswer } from "./requests.ts";

/** Open hand-outs in all; beyond them retrieves are answered as misses. */
const TRANSFERS_MAX = 65_536;

/** What `prepare_retrieve` answers. */
export type PreparedRetrieve =
  | { readonly kind: "miss" }
  | { readonly kind: "slots"; readonly slots: readonly SlotAnswer[]; readonly takeBack: () => void }
  /** The bytes themselves, for a client without the pool; `release` once they are copied. */
  | {
      readonly kind: "inline";
      readonly objects: readonly { bytes: Uint8Array; shape: readonly number[]; dtype: string }[];
      readonly release: () => void;
    };

interface Located {
  readonly slots: readonly number[];
  readonly session: Session | null;
  readonly rank: number;
}

/** Retrieves: hand-outs for reading, and the locks that they consume. */
export class Reads {
  readonly #core: Core;
  readonly #clients: Clients;
  readonly #handOuts: HandOuts;
  /** Retrieves that were answered as a miss, and their chunks. */
  misses = 0;
  missedChunks = 0;

  constructor(core: Core, clients: Clients, handOuts: HandOuts) {
    this.#core = core;
    this.#clients = clients;
    this.#handOuts = handOuts;
  }

  /** Slots of a range whose every object is resident and locked by an earlier lookup; takes no lock. */
  prepare(request: ChunkRequest, instance: bigint): PreparedRetrieve | Promise<PreparedRetrieve> {
    const { state } = this.#core;
    const client = this.#clients.get(instance);
    if (client === undefined || request.workerId === null || !this.#core.healthy) return { kind: "miss" };
    const located = this.#locate(request, client.layout);
    if (located === null || state.transfers.size >= TRANSFERS_MAX) {
      this.#releaseOnFailure(request);
      this.misses++;
      this.missedChunks += request.endChunk - request.firstChunk;
      return { kind: "miss" };
    }
    const layout = state.layout(client.layout);
    const transfer = this.#open(request, instance, located, !this.#clients.usesPool(instance));
    if (!transfer.inline) {
      return {
        kind: "slots",
        slots: located.slots.map((slot) => ({
          offset: state.slotOffset(slot),
          length: layout.objectBytes,
          shape: layout.shape,
          dtype: layout.dtype,
        })),
        takeBack: () => this.#endUnless(transfer, "its reply could not be sent"),
      };
    }
    return this.#inline(transfer, located.slots, layout);
  }

  /** Ends exactly this hand-out, if it is still open: its number may be another's by now. */
  #endUnless(transfer: Transfer, reason: string): void {
    if (this.#core.state.transfers.get(transfer.number) === transfer) this.#handOuts.end(transfer, reason);
  }

  async #inline(transfer: Transfer, slots: readonly number[], layout: Layout): Promise<PreparedRetrieve> {
    const { state, pool, space } = this.#core;
    const offsets = slots.map((slot) => state.slotOffset(slot));
    for (const offset of offsets) space.pin(offset);
    let isReleased = false;
    const release = (): void => {
      if (isReleased) return;
      isReleased = true;
      for (const offset of offsets) space.unpin(offset);
    };
    const objects = [];
    try {
      for (const offset of offsets) {
        let bytes: Uint8Array | null = pool.view(offset, layout.objectBytes);
        if (bytes === null) {
          bytes = Buffer.allocUnsafe(layout.objectBytes);
          await pool.read(offset, bytes);
        }
        objects.push({ bytes, shape: layout.shape, dtype: layout.dtype });
      }
    } catch (error) {
      release();
      this.#endUnless(transfer, "the pool read failed");
      throw error;
    }
    return {
      kind: "inline",
      objects,
      release: () => {
        release();
        this.#finish(transfer);
      },
    };
  }

  /** The slots that the request's own lookup locked; without such a lookup, what is resident and locked at all. */
  #locate(request: ChunkRequest, layout: number): Located | null {
    const { state } = this.#core;
    const number = state.sessionByRequest.get(request.requestId);
    const session = number === undefined ? null : state.session(number);
    const rank = session !== null && session.ranks > 1 ? (request.workerId ?? 0) : 0;
    const slots: number[] = [];
    for (let chunk = request.firstChunk; chunk < request.endChunk; chunk++) {
      const slot = session === null ? -1 : this.#lockedCell(session, chunk * session.ranks + rank);
      slots.push(slot);
    }
    const [kvRank] = kvRanksOf(request) as [number];
    const group = this.#core.groupFor(request.modelName, kvRank, request.cacheSalt);
    const groupNumber = state.keys.findGroup(group);
    const owned = slots.every((slot, i) =>
      this.#holds(slot, groupNumber, request.hashes, request.firstChunk + i, layout),
    );
    if (owned && session !== null) return { slots, session, rank };
    for (let i = 0; i < slots.length; i++) {
      const key =
        groupNumber < 0 ? -1 : state.keys.find(groupNumber, request.hashes, (request.firstChunk + i) * 32);
      const slot = key < 0 ? -1 : state.residentSlot(key, layout);
      if (slot < 0 || state.slots.locks.get(slot) === 0) return null;
      slots[i] = slot;
    }
    return { slots, session: null, rank: 0 };
  }

  #lockedCell(session: Session, cell: number): number {
    const slot = (session.slots[cell] ?? 0) - 1;
    if (slot < 0 || (session.remaining[cell] ?? 0) === 0) return -1;
    return this.#core.state.slots.generation.get(slot) === session.generations[cell] ? slot : -1;
  }

  /** True if the slot holds exactly this chunk in this layout: never answer with another's bytes. */
  #holds(slot: number, group: number, hashes: Uint8Array, chunk: number, layout: number): boolean {
    const { slots, keys } = this.#core.state;
    if (slot < 0 || group < 0) return false;
    const state = slots.state.get(slot);
    if ((state !== SLOT.resident && state !== SLOT.detached) || slots.layout.get(slot) !== layout)
      return false;
    const key = slots.key.get(slot);
    return keys.group.get(key) === group && keys.hash.equals(key, hashes, chunk * 32);
  }

  #open(request: ChunkRequest, instance: bigint, located: Located, inline: boolean): Transfer {
    const transfer = this.#core.state.transferNumbers.peek();
    this.#core.record({
      type: "l1.read.handed_out",
      transfer,
      instance,
      requestId: request.requestId,
      match: matchText("read", instance, request),
      session: located.session === null ? 0 : located.session.number + 1,
      fromChunk: request.firstChunk,
      toChunk: request.endChunk,
      rank: located.rank,
      inline,
      slots: located.slots,
    });
    this.#handOuts.opened(transfer);
    return this.#core.state.transfer(transfer);
  }

  /** As the reference: a failed retrieve gives one lock of each object that was found back. */
  #releaseOnFailure(request: ChunkRequest): void {
    const { state } = this.#core;
    const number = state.sessionByRequest.get(request.requestId);
    if (number === undefined) return;
    const { ranks } = state.session(number);
    this.#core.record({
      type: "session.locks.released",
      session: number,
      fromChunk: request.firstChunk,
      toChunk: request.endChunk,
      rank: ranks > 1 ? (request.workerId ?? 0) + 1 : 0,
      count: 1,
    });
  }

  /** Ends the oldest open retrieve that equals this one. Answers true always, as the reference. */
  commit(request: ChunkRequest, instance: bigint): boolean {
    const open = this.#core.state.openTransfers.get(matchText("read", instance, request));
    if (open?.[0] !== undefined) this.#finish(this.#core.state.transfer(open[0]));
    return true;
  }

  #finish(transfer: Transfer): void {
    const { number, instance } = transfer;
    if (this.#core.state.transfers.get(number) !== transfer) return;
    this.#core.record({ type: "l1.read.finished", transfer: number, committed: true, reason: "commit" });
    this.#handOuts.committed(number, instance);
    this.#core.signalRoom();
  }
}

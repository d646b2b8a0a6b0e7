import type { Core } from "../core.ts";
import { WRITER } from "../events/definitions.ts";
import type { Client, Transfer } from "../state/records.ts";
import type { Clients } from "./clients.ts";
import type { HandOuts } from "./hand-outs.ts";
import { groupNumbers, type LookupCells } from "./lookups.ts";
import { type ChunkRequest, kvRanksOf, matchText, type SlotAnswer } from "./requests.ts";
import type { Room } from "./room.ts";

/** What `prepare_store` answers. */
export type PreparedStore =
  | {
      readonly kind: "slots";
      readonly slots: readonly SlotAnswer[];
      readonly chunkIndices: readonly number[];
    }
  | { readonly kind: "empty-context" };

/** A prepared store and how to take it back when it could not be told. */
export interface PreparedStoreAnswer {
  readonly value: PreparedStore;
  readonly takeBack?: () => void;
}

/** One object that a client sent inline. */
export interface InlineChunk {
  readonly bytes: Uint8Array;
  readonly shape: readonly number[];
  readonly dtype: string;
}

/** Inline objects that are copied at a time. */
const COPY_LANES = 2;

interface Waiter {
  readonly request: ChunkRequest;
  readonly instance: bigint;
  readonly layout: number;
  readonly resolve: (answer: PreparedStoreAnswer) => void;
  readonly cancelTimer: () => void;
}

/** A range is looked at: chunks that are neither resident nor refused. */
interface Missing {
  readonly group: number;
  readonly chunks: readonly number[];
  readonly residentSlots: readonly number[];
}

const EMPTY_CONTEXT: PreparedStoreAnswer = { value: { kind: "empty-context" } };
const NOTHING_TO_DO: PreparedStoreAnswer = { value: { kind: "slots", slots: [], chunkIndices: [] } };

/** Stores: staging, waiting for room, commits. */
export class Writes {
  readonly #core: Core;
  readonly #clients: Clients;
  readonly #handOuts: HandOuts;
  readonly #room: Room;
  #waiters: Waiter[] = [];
  waited = 0;
  refusedForRoom = 0;
  /** Refused and partial stores whose tenant had no room below its limit. */
  overQuota = 0;
  /** Chunks that found no room, of refused and of partly served stores. */
  refusedChunks = 0;
  partial = 0;

  constructor(core: Core, clients: Clients, handOuts: HandOuts, room: Room) {
    this.#core = core;
    this.#clients = clients;
    this.#handOuts = handOuts;
    this.#room = room;
    core.roomListeners.push(() => this.#serveWaiters());
  }

  get waiting(): number {
    return this.#waiters.length;
  }

  /**
   * Slots for the chunks that are not resident. Waits a little for room; then slots for the longest prefix that
   * fits, or an empty context. No slots at all mean: everything is resident and committed.
   */
  prepare(request: ChunkRequest, instance: bigint): PreparedStoreAnswer | Promise<PreparedStoreAnswer> {
    const client = this.#clients.get(instance);
    if (client === undefined || !this.#core.healthy || request.workerId === null) return EMPTY_CONTEXT;
    if (!this.#matchesClient(request, client)) return EMPTY_CONTEXT;
    if (!this.#clients.usesPool(instance)) return EMPTY_CONTEXT;
    if (this.#handOuts.repeatsOneFromBefore(matchText("write", instance, request))) return EMPTY_CONTEXT;
    // Who came first is served first.
    const answer =
      this.#waiters.length > 0 ? this.#stageNothing(request, client) : this.#stage(request, client, false);
    if (answer !== null) return answer;
    const { storeWaitMs, storeWaitersMax } = this.#core.options;
    if (storeWaitMs === 0 || this.#waiters.length >= storeWaitersMax)
      return this.#stageWhatFits(request, client);
    this.waited++;
    return new Promise((resolve) => {
      const cancelTimer = this.#core.clock.after(storeWaitMs, () => this.#giveUpWaiting(waiter));
      // Only hashes are kept; the message with its tokens is not.
      const kept = { ...request, hashes: Uint8Array.from(request.hashes), tokensOfChunk: noTokens };
      const waiter: Waiter = { request: kept, instance, layout: client.layout, resolve, cancelTimer };
      this.#waiters.push(waiter);
    });
  }

  #matchesClient(request: ChunkRequest, client: Client): boolean {
    return request.modelName === client.modelName && request.worldSize === client.worldSize;
  }

  /** The waiter's client, if it is still registered with the layout that it asked with. */
  #clientOf(waiter: Waiter): Client | null {
    const client = this.#clients.get(waiter.instance);
    return client !== undefined && client.layout === waiter.layout && this.#core.healthy ? client : null;
  }

  #giveUpWaiting(waiter: Waiter): void {
    this.#waiters = this.#waiters.filter((other) => other !== waiter);
    const client = this.#clientOf(waiter);
    waiter.resolve(client === null ? EMPTY_CONTEXT : this.#stageWhatFits(waiter.request, client));
  }

  #serveWaiters(): void {
    while (this.#waiters.length > 0) {
      const waiter = this.#waiters[0] as Waiter;
      const client = this.#clientOf(waiter);
      const answer = client === null ? EMPTY_CONTEXT : this.#stage(waiter.request, client, false);
      if (answer === null) return;
      this.#waiters.shift();
      waiter.cancelTimer();
      waiter.resolve(answer);
    }
  }

  /** The engine stops: nobody waits any more. */
  stop(): void {
    for (const waiter of this.#waiters.splice(0)) {
      waiter.cancelTimer();
      waiter.resolve(EMPTY_CONTEXT);
    }
  }

  #countOverQuota(request: ChunkRequest, client: Client): void {
    const { objectBytes } = this.#core.state.layout(client.layout);
    if (this.#room.atQuota(request.cacheSalt, objectBytes)) this.overQuota++;
  }

  #stageWhatFits(request: ChunkRequest, client: Client): PreparedStoreAnswer {
    const answer = this.#stage(request, client, true) ?? EMPTY_CONTEXT;
    if (answer.value.kind === "empty-context") this.refusedForRoom++;
    else this.partial++;
    this.#countOverQuota(request, client);
    const staged = answer.value.kind === "slots" ? answer.value.slots.length : 0;
    this.refusedChunks += Math.max(0, this.#missing(request, client).chunks.length - staged);
    return answer;
  }

  #missing(request: ChunkRequest, client: Client): Missing {
    const { state } = this.#core;
    const [kvRank] = kvRanksOf(request) as [number];
    const group = state.keys.findGroup(this.#core.groupFor(request.modelName, kvRank, request.cacheSalt));
    const chunks: number[] = [];
    const residentSlots: number[] = [];
    for (let chunk = request.firstChunk; chunk < request.endChunk; chunk++) {
      const key = group < 0 ? -1 : state.keys.find(group, request.hashes, chunk * 32);
      const slot = key < 0 ? -1 : state.residentSlot(key, client.layout);
      if (slot < 0) chunks.push(chunk);
      else residentSlots.push(slot);
    }
    return { group, chunks, residentSlots };
  }

  /** The answer where nothing is missing; null if something is. */
  #stageNothing(request: ChunkRequest, client: Client): PreparedStoreAnswer | null {
    return this.#missing(request, client).chunks.length === 0 ? NOTHING_TO_DO : null;
  }

  /** Stages all missing chunks, or with `partly` the longest prefix of them; null if that cannot be. */
  #stage(request: ChunkRequest, client: Client, partly: boolean): PreparedStoreAnswer | null {
    const missing = this.#missing(request, client);
    if (missing.chunks.length === 0) return NOTHING_TO_DO;
    // What the range already has must not be what makes room for the rest.
    if (missing.residentSlots.length > 0) {
      this.#core.record({ type: "l1.keys.accessed", slots: missing.residentSlots });
    }
    const transfer = this.#reserve(request, client, missing.chunks, partly, WRITER.client);
    if (transfer === null) return null;
    const layout = this.#core.state.layout(client.layout);
    const { number } = transfer;
    return {
      value: {
        kind: "slots",
        slots: transfer.slots.map((slot) => ({
          offset: this.#core.state.slotOffset(slot),
          length: layout.objectBytes,
          shape: layout.shape,
          dtype: layout.dtype,
        })),
        chunkIndices: missing.chunks
          .slice(0, transfer.slots.length)
          .map((chunk) => chunk - request.firstChunk),
      },
      takeBack: () => {
        const open = this.#core.state.transfers.get(number);
        if (open === transfer) this.#handOuts.end(open, "its reply could not be sent");
      },
    };
  }

  #reserve(
    request: ChunkRequest,
    client: Client,
    chunks: readonly number[],
    partly: boolean,
    writer: number,
  ): Transfer | null {
    const { state } = this.#core;
    const bytes = state.layout(client.layout).objectBytes;
    const admitted = this.#room.admit(request.cacheSalt, bytes, chunks.length);
    if (admitted === 0 || (admitted < chunks.length && !partly)) return null;
    const offsets = this.#room.allocateMany(bytes, admitted);
    if (offsets.length === 0) return null;
    if (offsets.length < chunks.length && !partly) {
      this.#room.giveBack(offsets, bytes);
      return null;
    }
    try {
      return this.#recordReserved(request, client, chunks, offsets, writer);
    } catch (error) {
      this.#room.giveBack(offsets, bytes);
      throw error;
    }
  }

  #recordReserved(
    request: ChunkRequest,
    client: Client,
    chunks: readonly number[],
    offsets: readonly number[],
    writer: number,
  ): Transfer {
    const { state } = this.#core;
    const staged = chunks.slice(0, offsets.length);
    const [kvRank] = kvRanksOf(request) as [number];
    const group = this.#core.ensureGroup(this.#core.groupFor(request.modelName, kvRank, request.cacheSalt));
    const transfer = state.transferNumbers.peek();
    this.#core.record({
      type: "l1.write.reserved",
      transfer,
      writer,
      instance: client.instance,
      adapter: 0,
      requestId: request.requestId,
      // An inline store is nobody's to commit but its own.
      match: writer === WRITER.inline ? `inline:${transfer}` : matchText("write", client.instance, request),
      layout: client.layout,
      complete: staged.length === chunks.length,
      temporary: false,
      keys: this.#core.ensureKeys(group, request.hashes, staged),
      slots: state.slots.numbers.peekMany(staged.length),
      offsets: offsets.map((offset) => offset / this.#core.pool.identity.alignBytes),
    });
    this.#handOuts.opened(transfer);
    return state.transfer(transfer);
  }

  /** Ends the oldest open transfer that equals this one. True: everything it was asked for is resident now. */
  commit(request: ChunkRequest, instance: bigint): boolean {
    const transfer = this.#openTransfer(request, instance);
    if (transfer === null) return false;
    this.#finish(request, transfer, []);
    this.#handOuts.copiedIn(instance);
    return transfer.complete;
  }

  #openTransfer(request: ChunkRequest, instance: bigint): Transfer | null {
    const { state } = this.#core;
    const open = state.openTransfers.get(matchText("write", instance, request));
    return open?.[0] === undefined ? null : state.transfer(open[0]);
  }

  #finish(request: ChunkRequest, transfer: Transfer, missing: readonly number[]): void {
    const { state } = this.#core;
    const keys = transfer.slots.map((slot) => state.slots.key.get(slot));
    // What stood under these keys in another layout goes, and the journal says so.
    const replaced = keys
      .map((key) => state.keys.resident.get(key) - 1)
      .filter((slot) => slot >= 0 && state.slots.layout.get(slot) !== transfer.layout);
    if (replaced.length > 0)
      this.#core.record({ type: "l1.keys.evicted", slots: replaced, reason: "layout" });
    this.#core.record({ type: "l1.write.finished", transfer: transfer.number, missing });
    this.#handOuts.committed(transfer.number, transfer.instance);
    this.recordTokens(request, keys);
  }

  /** Writes the token record of each resident key that has none: once for all ranks, with the first one's keys. */
  recordTokens(request: ChunkRequest, keys: readonly number[]): void {
    const { state, journal, options } = this.#core;
    if (!options.tokenRecords || (request.workerId ?? 0) !== 0) return;
    const wanted = new Map<number, number>();
    for (const key of keys) {
      if (state.keys.resident.get(key) !== 0 && state.keys.tokenSegment.get(key) === 0) wanted.set(key, -1);
    }
    if (wanted.size === 0) return;
    const recorded: number[] = [];
    const segments: number[] = [];
    const offsets: number[] = [];
    for (let chunk = request.firstChunk; chunk < request.endChunk; chunk++) {
      const key = state.keys.find(state.keys.group.get(keys[0] as number), request.hashes, chunk * 32);
      if (!wanted.has(key)) continue;
      const tokens = request.tokensOfChunk(chunk);
      if (tokens.length === 0) continue;
      const ref = journal.side.append(tokenRecord(request.hashes, chunk, tokens));
      recorded.push(key);
      segments.push(ref.segment);
      offsets.push(ref.offset);
    }
    if (recorded.length > 0)
      this.#core.record({ type: "l1.tokens.recorded", keys: recorded, segments, offsets });
  }

  /** The same for chunks that a lookup brought in from L2. `tokens` by chunk. */
  recordLoadedTokens(cells: LookupCells, tokens: ReadonlyMap<number, Uint8Array>): void {
    const { state } = this.#core;
    const group = groupNumbers(this.#core, cells)[0] ?? -1;
    if (group < 0 || tokens.size === 0) return;
    const keys = [...tokens.keys()]
      .map((chunk) => state.keys.find(group, cells.request.hashes, chunk * 32))
      .filter((key) => key >= 0);
    if (keys.length === 0) return;
    const tokensOfChunk = (chunk: number): Uint8Array => tokens.get(chunk) ?? noTokens();
    this.recordTokens({ ...cells.request, workerId: 0, firstChunk: 0, tokensOfChunk }, keys);
  }

  /**
   * Stores objects that came inside the message, one a chunk of the range. True: every chunk is resident now.
   * Journal first, bytes second, visibility last: a crash between leaves no object with foreign bytes.
   */
  async commitInline(
    request: ChunkRequest,
    instance: bigint,
    objects: readonly InlineChunk[],
  ): Promise<boolean> {
    const client = this.#clients.get(instance);
    if (client === undefined || request.workerId === null || !this.#matchesClient(request, client))
      return false;
    if (this.#core.healthy) this.#clients.noteInline(instance);
    if (!this.#core.healthy || objects.length !== request.endChunk - request.firstChunk) return false;
    const layout = this.#core.state.layout(client.layout);
    const fits = objects.every(
      (object) =>
        object.bytes.length === layout.objectBytes &&
        object.dtype === layout.dtype &&
        object.shape.join() === layout.shape.join(),
    );
    if (!fits) return false;
    const open = this.#openTransfer(request, instance);
    if (open !== null) this.#handOuts.end(open, "its client sent the data inline");
    const missing = this.#missing(request, client);
    if (missing.chunks.length === 0) return true;
    const tokens = missing.chunks.map((chunk) => Uint8Array.from(request.tokensOfChunk(chunk)));
    const kept: ChunkRequest = {
      ...request,
      hashes: Uint8Array.from(request.hashes),
      tokensOfChunk: (chunk) => tokens[missing.chunks.indexOf(chunk)] ?? new Uint8Array(0),
    };
    const transfer = this.#reserve(kept, client, missing.chunks, true, WRITER.inline);
    if (transfer === null) {
      this.refusedForRoom++;
      this.#countOverQuota(request, client);
      this.refusedChunks += missing.chunks.length;
      return false;
    }
    return this.#writeInline(kept, transfer, missing.chunks, objects);
  }

  async #writeInline(
    request: ChunkRequest,
    transfer: Transfer,
    chunks: readonly number[],
    objects: readonly InlineChunk[],
  ): Promise<boolean> {
    const { state, pool, space } = this.#core;
    const offsets = transfer.slots.map((slot) => state.slotOffset(slot));
    const { complete } = transfer;
    if (!this.#core.commit()) {
      this.#handOuts.end(transfer, "the journal cannot be written");
      return false;
    }
    for (const offset of offsets) space.pin(offset);
    try {
      let next = 0;
      const lane = async (): Promise<void> => {
        for (let i = next++; i < offsets.length; i = next++) {
          const object = objects[(chunks[i] as number) - request.firstChunk] as InlineChunk;
          await pool.write(offsets[i] as number, object.bytes);
        }
      };
      // All lanes end before the pins do, also if one fails.
      const lanes = await Promise.allSettled(Array.from({ length: COPY_LANES }, lane));
      const failed = lanes.find((result) => result.status === "rejected");
      if (failed !== undefined) throw failed.reason;
      const open = state.transfers.get(transfer.number);
      if (open !== transfer) return false;
      this.#finish(request, transfer, []);
      return complete;
    } catch (error) {
      if (state.transfers.get(transfer.number) === transfer)
        this.#handOuts.end(transfer, "the pool write failed");
      throw error;
    } finally {
      for (const offset of offsets) space.unpin(offset);
    }
  }
}

function noTokens(): Uint8Array {
  return new Uint8Array(0);
}

/** Used again for each record: the side log copies it. */
let tokenScratch = Buffer.alloc(0);

/**
 * A token record: flag (1 = has a parent), parent hash (32 bytes or none), token ids big-endian. Valid until the next
 * call.
 */
function tokenRecord(hashes: Uint8Array, chunk: number, tokens: Uint8Array): Uint8Array {
  const head = chunk === 0 ? 1 : 33;
  const length = head + tokens.length;
  if (tokenScratch.length < length) tokenScratch = Buffer.allocUnsafeSlow(length);
  tokenScratch[0] = chunk === 0 ? 0 : 1;
  if (chunk > 0) tokenScratch.set(hashes.subarray((chunk - 1) * 32, chunk * 32), 1);
  tokenScratch.set(tokens, head);
  return tokenScratch.subarray(0, length);
}

import type { Core } from "../core.ts";
import type { Session } from "../state/records.ts";
import { modelText } from "../state/records.ts";
import type { PrefetchController } from "../controllers/prefetch-controller.ts";
import type { LockClock } from "./lock-clock.ts";
import { type ChunkRequest, kvRanksOf } from "./requests.ts";

/** Locked cells of all sessions; a lookup beyond it finds nothing. */
const SESSION_CELLS_MAX = 4_194_304;

/** A range as cells: chunk by chunk, all ranks of a chunk together. */
export interface LookupCells {
  readonly request: ChunkRequest;
  readonly layout: number;
  readonly chunks: number;
  readonly ranks: readonly number[];
}

/** Lookups: which prefix is there, and the locks that keep it. */
export class Lookups {
  /** Sessions that ended because there were as many as may be. */
  endedForRoom = 0;
  readonly #core: Core;
  readonly #locks: LockClock;
  readonly #prefetch: PrefetchController;
  readonly #startedMs = new Map<number, number>();
  readonly #waiting = new Map<number, Set<(hits: number | null) => void>>();
  /** Called for each lookup, and when its result is known. `early`: nothing was looked for, and why. */
  onLookup: (request: ChunkRequest, early: "unknown_model" | "unhealthy" | "limit" | null) => void = () => {};
  onResult: (request: ChunkRequest, hits: number) => void = () => {};
  requested = 0;
  hitChunks = 0;

  constructor(core: Core, locks: LockClock, prefetch: PrefetchController) {
    this.#core = core;
    this.#locks = locks;
    this.#prefetch = prefetch;
  }

  /** Looks a range up and locks the longest prefix that is there. The result is asked for by request id. */
  lookup(request: ChunkRequest): void {
    const { state } = this.#core;
    this.requested++;
    const layout = state.modelLayouts.get(modelText(request.modelName, request.worldSize));
    if (layout === undefined || !this.#core.healthy || state.sessionCells > SESSION_CELLS_MAX) {
      const limit = layout === undefined ? "unknown_model" : "limit";
      this.onLookup(request, this.#core.healthy ? limit : "unhealthy");
      if (!this.#core.healthy) return;
      this.#replacePending(request.requestId);
      this.#record(request, 0, false, 0, []);
      return;
    }
    this.onLookup(request, null);
    this.#replacePending(request.requestId);
    const ranks = kvRanksOf(request);
    const cells: LookupCells = { request, layout, chunks: request.endChunk, ranks };
    const slots = residentCells(this.#core, cells);
    const hits = prefixOf(slots, ranks.length);
    if (hits === cells.chunks || !this.#prefetch.hasAdapters) {
      this.#finish(request, ranks.length, hits, slots.slice(0, hits * ranks.length));
      return;
    }
    const session = this.#record(
      request,
      ranks.length,
      true,
      0,
      slots.map((slot) => slot + 1),
    );
    this.#locks.started(session);
    this.#prefetch.start(cells, session, (kept, alive) => this.#prefetched(session, kept, alive));
  }

  /** A second lookup of a request takes the place of the first. */
  #replacePending(requestId: string): void {
    const { state } = this.#core;
    const number = state.sessionByRequest.get(requestId);
    if (number !== undefined && state.session(number).pending) this.#prefetch.cancel(state.session(number));
  }

  #finish(request: ChunkRequest, ranks: number, hits: number, slots: readonly number[]): void {
    const session = this.#record(
      request,
      ranks,
      false,
      hits,
      slots.map((slot) => slot + 1),
    );
    this.#locks.started(session);
    this.hitChunks += hits;
    this.onResult(request, hits);
    this.#answerWaiting(session);
  }

  /** The prefetch is over: what is resident now counts. */
  #prefetched(session: Session, cells: LookupCells, alive: boolean): void {
    const { state } = this.#core;
    const { request } = cells;
    if (!alive || state.sessions.get(session.number) !== session || !session.pending) return;
    const slots = residentCells(this.#core, cells);
    const hits = prefixOf(slots, cells.ranks.length);
    this.#finish(request, cells.ranks.length, hits, slots.slice(0, hits * cells.ranks.length));
    this.#core.commit();
  }

  #record(
    request: ChunkRequest,
    ranks: number,
    pending: boolean,
    hits: number,
    slots: readonly number[],
  ): Session {
    const { state, options } = this.#core;
    const known = state.sessionByRequest.get(request.requestId);
    if (known === undefined && state.sessions.size >= options.sessionsMax) this.#endOldest();
    const number = known ?? state.sessionNumbers.peek();
    this.#core.record({
      type: "session.looked_up",
      session: number,
      requestId: request.requestId,
      pending,
      ranks: Math.max(1, ranks),
      readers: request.numKvReaders,
      hits,
      slots,
    });
    if (!this.#startedMs.has(number)) this.#startedMs.set(number, this.#core.now());
    return state.session(number);
  }

  #endOldest(): void {
    const oldest = this.#core.state.sessions.keys().next();
    if (oldest.done) return;
    this.endedForRoom++;
    this.#end(oldest.value, "limit");
  }

  /** Chunks found; null while L2 is asked; 0 for an unknown id and after the result was given out. */
  query(requestId: string): number | null {
    const { state } = this.#core;
    const number = state.sessionByRequest.get(requestId);
    if (number === undefined) return 0;
    const session = state.session(number);
    if (session.pending) return null;
    if (session.answered) return 0;
    this.#core.record({ type: "session.answered", session: number });
    return session.hits;
  }

  /** The same, waiting up to `ms` while L2 is asked; null when the time is up. */
  wait(requestId: string, ms: number): number | null | Promise<number | null> {
    const first = this.query(requestId);
    if (first !== null || ms <= 0) return first;
    const number = this.#core.state.sessionByRequest.get(requestId) as number;
    return new Promise((resolve) => {
      const waiting = this.#waiting.get(number) ?? new Set();
      this.#waiting.set(number, waiting);
      const settle = (hits: number | null): void => {
        cancel();
        waiting.delete(settle);
        if (waiting.size === 0) this.#waiting.delete(number);
        resolve(hits);
      };
      const cancel = this.#core.clock.after(ms, () => settle(null));
      waiting.add(settle);
    });
  }

  #answerWaiting(session: Session): void {
    const waiting = this.#waiting.get(session.number);
    if (waiting === undefined) return;
    for (const settle of [...waiting]) settle(this.query(session.requestId) ?? 0);
  }

  /** Gives the locks of a part of the hit prefix back: what the scheduler already has. */
  freeLocks(request: ChunkRequest): void {
    const number = this.#core.state.sessionByRequest.get(request.requestId);
    if (number === undefined || request.firstChunk >= request.endChunk) return;
    this.#core.record({
      type: "session.locks.released",
      session: number,
      fromChunk: request.firstChunk,
      toChunk: request.endChunk,
      rank: 0,
      count: request.numKvReaders,
    });
    this.#core.signalRoom();
  }

  endSession(requestId: string): void {
    const number = this.#core.state.sessionByRequest.get(requestId);
    if (number !== undefined) this.#end(number, "ended");
  }

  #end(number: number, reason: string): void {
    const { state } = this.#core;
    const session = state.session(number);
    if (session.pending) this.#prefetch.cancel(session);
    for (const settle of this.#waiting.get(number) ?? []) settle(0);
    this.#core.record({ type: "session.ended", session: number, reason });
    this.#startedMs.delete(number);
    this.#core.signalRoom();
  }

  /** Ends sessions that are too old. */
  sweep(): void {
    const { state, options } = this.#core;
    const now = this.#core.now();
    // In order of their creation: the first young one ends the look.
    for (const number of state.sessions.keys()) {
      const since = this.#startedMs.get(number) ?? now;
      if (now - since < options.sessionTtlMs) return;
      this.#end(number, "time");
    }
  }

  /** After a restart: a lookup whose prefetch died answers what its locks still hold. */
  recover(): void {
    const { state } = this.#core;
    for (const session of [...state.sessions.values()]) {
      this.#startedMs.set(session.number, this.#core.now());
      if (!session.pending) continue;
      // A cell whose lock has ended names a slot that may be another object's by now.
      const cells = [...session.slots].map((cell, i) =>
        cell > 0 && state.slots.generation.get(cell - 1) === session.generations[i] ? cell : 0,
      );
      const ranks = Math.max(1, session.ranks);
      const hits = prefixOf(
        cells.map((cell) => cell - 1),
        ranks,
      );
      this.#core.record({
        type: "session.looked_up",
        session: session.number,
        requestId: session.requestId,
        pending: false,
        ranks,
        readers: session.readers,
        hits,
        slots: cells.slice(0, hits * ranks),
      });
    }
    for (const session of state.sessions.values()) this.#locks.started(session);
  }
}

/** Number of each rank's group now, -1 if unknown. Do not keep them: an empty group's number is used again. */
export function groupNumbers(core: Core, cells: LookupCells): number[] {
  const { modelName, cacheSalt } = cells.request;
  return cells.ranks.map((kvRank) => core.state.keys.findGroup(core.groupFor(modelName, kvRank, cacheSalt)));
}

/** The resident slot of each cell, -1 where there is none of this layout. */
function residentCells(core: Core, cells: LookupCells): number[] {
  const { state } = core;
  const slots: number[] = [];
  const groups = groupNumbers(core, cells);
  for (let chunk = 0; chunk < cells.chunks; chunk++) {
    for (const group of groups) {
      const known = group < 0 ? -1 : state.keys.find(group, cells.request.hashes, chunk * 32);
      slots.push(known < 0 ? -1 : state.residentSlot(known, cells.layout));
    }
  }
  return slots;
}

/** Chunks of the longest prefix in which every rank is present (slot of 0 or more). */
function prefixOf(slots: readonly number[], ranks: number): number {
  const missing = slots.findIndex((slot) => slot < 0);
  return missing < 0 ? Math.floor(slots.length / ranks) : Math.floor(missing / ranks);
}

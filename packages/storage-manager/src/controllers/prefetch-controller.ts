import { type Bitmap, messageOf, objectKey, type SizedKey } from "@cache/contracts";
import type { Core } from "../core.ts";
import { WRITER } from "../events/definitions.ts";
import { groupNumbers, type LookupCells } from "../l1/lookups.ts";
import type { Room } from "../l1/room.ts";
import { L2 } from "../state/ledger.ts";
import type { Session } from "../state/records.ts";
import { forgetAbsent } from "./absent-keys.ts";
import type { AttachedAdapter } from "./attached-adapter.ts";
import { runLoad } from "./load-batch.ts";
import { coversAll, type Job, loadId, type Wanted } from "./prefetch-job.ts";

/** Objects of one load: small enough that the first ones are there early. */
const LOAD_BATCH_OBJECTS_MAX = 64;

/** Loads what a lookup lacks from L2 into L1: the longest prefix that the adapters can give in time. */
export class PrefetchController {
  readonly #core: Core;
  readonly #room: Room;
  readonly #adapters: () => readonly AttachedAdapter[];
  readonly #queue: Job[] = [];
  readonly #running = new Set<Job>();
  /** Objects on their way, by key and layout. */
  readonly #loading = new Map<string, Promise<boolean>>();
  /** Answered in a moment with what L1 has: the queue was full. */
  readonly #turnedAway = new Set<Job>();
  /** Running jobs that have asked an adapter, and may hold locks there or load from it. */
  readonly #users = new Map<AttachedAdapter, number>();
  #stopped = false;
  #idle: (() => void)[] = [];
  /** Writes token records of loaded chunks. */
  onLoaded: (cells: LookupCells, tokens: ReadonlyMap<number, Uint8Array>) => void = () => {};
  loadedObjects = 0;
  loadedBytes = 0;
  failedLoads = 0;
  outOfMemory = 0;
  overDeadline = 0;
  queueFull = 0;

  constructor(core: Core, room: Room, adapters: () => readonly AttachedAdapter[]) {
    this.#core = core;
    this.#room = room;
    this.#adapters = adapters;
  }

  get hasAdapters(): boolean {
    return this.#adapters().length > 0;
  }

  get running(): number {
    return this.#running.size;
  }

  get queued(): number {
    return this.#queue.length;
  }

  /** Begins, or waits for its turn. `done` is called once, when what can be had in time is resident. */
  start(cells: LookupCells, session: Session, done: (cells: LookupCells, alive: boolean) => void): void {
    // The message's buffers do not outlive the call.
    const request = { ...cells.request, hashes: Uint8Array.from(cells.request.hashes) };
    const kept: LookupCells = { ...cells, request };
    const full = this.#queue.length >= this.#core.options.prefetchQueueMax || this.#stopped;
    const job: Job = {
      cells: kept,
      session,
      tokens: full ? new Map() : this.#keepTokens(cells, session),
      done: (alive) => done(kept, alive),
      pinned: [],
      cancelTimer: () => {},
      cancelled: false,
      finished: false,
    };
    if (full) {
      this.queueFull++;
      this.#turnedAway.add(job);
      setImmediate(() => {
        this.#turnedAway.delete(job);
        this.#finish(job);
      });
      return;
    }
    // The time runs while the job waits for its turn, too.
    job.cancelTimer = this.#core.clock.after(this.#limitMs(cells), () => {
      this.overDeadline++;
      this.#finish(job);
      // Its place goes to the next; its loads end by the adapters' own deadlines and stay in L1.
      this.#running.delete(job);
      this.#pump();
    });
    this.#queue.push(job);
    this.#pump();
  }

  #limitMs(cells: LookupCells): number {
    const { options } = this.#core;
    const more = ((cells.chunks * options.chunkTokens) / 1_024) * options.prefetchMsPer1024Tokens;
    return Math.min(options.prefetchMsMax, options.prefetchBaseMs + more);
  }

  #keepTokens(cells: LookupCells, session: Session): ReadonlyMap<number, Uint8Array> {
    const tokens = new Map<number, Uint8Array>();
    if (!this.#core.options.tokenRecords) return tokens;
    for (let chunk = 0; chunk < cells.chunks; chunk++) {
      if (session.slots[chunk * cells.ranks.length] !== 0) continue;
      tokens.set(chunk, Uint8Array.from(cells.request.tokensOfChunk(chunk)));
    }
    return tokens;
  }

  /** The request is over: what is still on its way stays in L1, nobody waits for it. */
  cancel(session: Session): void {
    for (const job of [...this.#turnedAway, ...this.#queue, ...this.#running]) {
      if (job.session === session) job.cancelled = true;
    }
  }

  #pump(): void {
    while (this.#queue.length > 0 && this.#running.size < this.#core.options.prefetchMaxInFlight) {
      const job = this.#queue.shift() as Job;
      if (job.finished) continue;
      if (job.cancelled) {
        this.#finish(job);
        continue;
      }
      this.#running.add(job);
      this.#work(job)
        .catch((error: unknown) => {
          this.#core.log.error("a prefetch ended unexpectedly", { error: messageOf(error) });
        })
        .finally(() => {
          this.#finish(job);
          this.#running.delete(job);
          this.#tellIdle();
          this.#pump();
        });
    }
    this.#tellIdle();
  }

  #tellIdle(): void {
    if (this.#running.size === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** Tells the lookup, once, and lets go of what was pinned for it. Never throws. */
  #finish(job: Job): void {
    if (!job.finished) {
      job.finished = true;
      job.cancelTimer();
      try {
        if (!job.cancelled && job.tokens.size > 0) this.onLoaded(job.cells, job.tokens);
        job.done(!job.cancelled);
      } catch (error) {
        this.#core.log.error("a lookup could not be finished", { error: messageOf(error) });
      }
    }
    for (const offset of job.pinned.splice(0)) this.#core.space.unpin(offset);
  }

  /** Running prefetches that have asked this adapter. */
  usersOf(adapter: AttachedAdapter): number {
    return this.#users.get(adapter) ?? 0;
  }

  #use(adapters: readonly AttachedAdapter[], sign: 1 | -1): void {
    for (const adapter of adapters) {
      const users = this.usersOf(adapter) + sign;
      if (users > 0) this.#users.set(adapter, users);
      else this.#users.delete(adapter);
    }
  }

  async #work(job: Job): Promise<void> {
    const wanted = this.#wanted(job);
    const adapters = this.#adapters().filter(({ gate }) => gate.canTry());
    this.#use(adapters, 1);
    try {
      await this.#lookUp(job, wanted, adapters);
      let rest = this.#plan(job, wanted);
      while (rest.length > 0 && !job.cancelled && !job.finished && this.#core.healthy) {
        rest = await this.#loadRound(job, rest);
      }
    } finally {
      for (const want of wanted) {
        for (const holder of want.holders) holder.gate.unlock([want.key]);
      }
      this.#use(adapters, -1);
    }
  }

  #wanted(job: Job): Wanted[] {
    const { cells, session } = job;
    const wanted: Wanted[] = [];
    for (let chunk = 0; chunk < cells.chunks; chunk++) {
      for (const [i, kvRank] of cells.ranks.entries()) {
        const cell = chunk * cells.ranks.length + i;
        if (session.slots[cell] !== 0) continue;
        const group = this.#core.groupFor(cells.request.modelName, kvRank, cells.request.cacheSalt);
        const chunkHash = cells.request.hashes.subarray(chunk * 32, chunk * 32 + 32);
        wanted.push({ cell, chunk, key: objectKey({ chunkHash, ...group }), holders: [] });
      }
    }
    return wanted;
  }

  /** Asks all adapters at once; goes on as soon as the preferred ones have everything. */
  async #lookUp(job: Job, wanted: readonly Wanted[], adapters: readonly AttachedAdapter[]): Promise<void> {
    const answered = new Map<AttachedAdapter, Wanted[]>();
    let over = false;
    await new Promise<void>((resolve) => {
      let open = adapters.length;
      if (open === 0) resolve();
      const groups = groupNumbers(this.#core, job.cells);
      for (const adapter of adapters) {
        const asked = wanted.filter((want) => this.#mayHold(adapter, job.cells, groups, want));
        // What is stored only while it is asked for is not lost.
        const stored = new Set(asked.filter((want) => this.#isStored(adapter, job.cells, groups, want)));
        const call = adapter.gate.lookupAndLock(asked.map((want) => this.#sized(job, want)));
        call.outcome
          .then((bits: Bitmap) => {
            const found = asked.filter((_, i) => bits.has(i));
            if (over) adapter.gate.unlock(found.map(({ key }) => key));
            else answered.set(adapter, found);
            const absent = asked.filter((want, i) => {
              return stored.has(want) && !bits.has(i) && !call.failures().has(i);
            });
            this.#forget(adapter, job, absent);
          })
          .catch((error: unknown) => {
            this.#core.log.debug("a lookup in L2 failed", { adapter: adapter.id, error: messageOf(error) });
          })
          .finally(() => {
            open--;
            const complete = !over && coversAll(wanted, adapters, answered);
            if (open === 0 || complete) {
              over = true;
              resolve();
            }
          });
      }
    });
    for (const adapter of adapters)
      for (const want of answered.get(adapter) ?? []) want.holders.push(adapter);
  }

  /** An adapter has not what its account says: next time it gets these objects again. */
  #forget(adapter: AttachedAdapter, job: Job, absent: readonly Wanted[]): void {
    if (absent.length === 0) return;
    const groups = groupNumbers(this.#core, job.cells);
    const keys = absent.map((want) => this.#findKey(job.cells, groups, want));
    forgetAbsent(this.#core, adapter.number, job.cells.layout, keys);
    this.#core.commit();
  }

  #isStored(adapter: AttachedAdapter, cells: LookupCells, groups: readonly number[], want: Wanted): boolean {
    const key = this.#findKey(cells, groups, want);
    return key >= 0 && this.#core.state.ledger(adapter.number).state.get(key) === L2.stored;
  }

  /** Number of a cell's key, -1 if unknown. `groups` as `groupNumbers` gives them now. */
  #findKey(cells: LookupCells, groups: readonly number[], want: Wanted): number {
    const group = groups[want.cell % cells.ranks.length] as number;
    return group < 0 ? -1 : this.#core.state.keys.find(group, want.key.chunkHash, 0);
  }

  /** False if our account says that the adapter holds another layout under this key. */
  #mayHold(adapter: AttachedAdapter, cells: LookupCells, groups: readonly number[], want: Wanted): boolean {
    const { state } = this.#core;
    const key = this.#findKey(cells, groups, want);
    if (key < 0) return true;
    const ledger = state.ledger(adapter.number);
    if (ledger.state.get(key) === L2.none) return true;
    if (ledger.state.get(key) === L2.deleting) return false;
    const layout = ledger.layout.get(key);
    return layout === 0 || layout === cells.layout;
  }

  #sized(job: Job, want: Wanted): SizedKey {
    return { key: want.key, byteLength: this.#core.state.layout(job.cells.layout).objectBytes };
  }

  /** The cells of the longest prefix that L1 and the holders have together. */
  #plan(job: Job, wanted: readonly Wanted[]): Wanted[] {
    const gap = wanted.find((want) => want.holders.length === 0);
    const prefix = gap === undefined ? job.cells.chunks : gap.chunk;
    return wanted.filter((want) => want.chunk < prefix);
  }

  /** Loads each cell from its first holder. Answers the cells that another holder may still give. */
  async #loadRound(job: Job, cells: readonly Wanted[]): Promise<Wanted[]> {
    const byHolder = new Map<AttachedAdapter, Wanted[]>();
    for (const want of cells) {
      const holder = want.holders[0];
      if (holder === undefined) continue;
      const batch = byHolder.get(holder) ?? [];
      batch.push(want);
      byHolder.set(holder, batch);
    }
    const loads: Promise<Wanted[]>[] = [];
    const groups = groupNumbers(this.#core, job.cells);
    for (const [holder, asked] of byHolder) {
      const wants = asked.filter((want) => !this.#join(job, groups, want, loads));
      for (let at = 0; at < wants.length; at += LOAD_BATCH_OBJECTS_MAX) {
        const load = this.#startLoad(job, holder, wants.slice(at, at + LOAD_BATCH_OBJECTS_MAX));
        if (load === null) break;
        loads.push(load);
      }
    }
    const failed = (await Promise.all(loads)).flat();
    for (const want of failed) {
      const holder = want.holders.shift();
      holder?.gate.unlock([want.key]);
    }
    return failed.filter((want) => want.holders.length > 0);
  }

  /** True if the cell is there by now, or another lookup is loading it: then that is waited for, not loaded twice. */
  #join(job: Job, groups: readonly number[], want: Wanted, loads: Promise<Wanted[]>[]): boolean {
    if (this.#pinResident(job, groups, want)) return true;
    const other = this.#loading.get(loadId(job, want));
    if (other === undefined) return false;
    loads.push(
      other.then((arrived) =>
        arrived && this.#pinResident(job, groupNumbers(this.#core, job.cells), want) ? [] : [want],
      ),
    );
    return true;
  }

  /** Keeps a resident cell from eviction until the lookup has its locks; false if it is not resident. */
  #pinResident(job: Job, groups: readonly number[], want: Wanted): boolean {
    const { state, space } = this.#core;
    const key = this.#findKey(job.cells, groups, want);
    const slot = key < 0 ? -1 : state.residentSlot(key, job.cells.layout);
    if (slot < 0) return false;
    if (!job.finished) {
      space.pin(state.slotOffset(slot));
      job.pinned.push(state.slotOffset(slot));
    }
    return true;
  }

  /** Stages slots for as many of the cells as fit and loads them. Resolves with the cells that did not arrive. */
  #startLoad(job: Job, holder: AttachedAdapter, wants: readonly Wanted[]): Promise<Wanted[]> | null {
    const { state, options, pool } = this.#core;
    const { layout, request } = job.cells;
    const { objectBytes } = state.layout(layout);
    const admitted = this.#room.admit(request.cacheSalt, objectBytes, wants.length);
    const offsets = this.#room.allocateMany(objectBytes, admitted);
    if (offsets.length < wants.length) this.outOfMemory += wants.length - offsets.length;
    if (offsets.length === 0) return null;
    const loading = wants.slice(0, offsets.length);
    const number = state.transferNumbers.peek();
    const keys = this.#keyNumbers(job, loading);
    this.#core.record({
      type: "l1.write.reserved",
      transfer: number,
      writer: WRITER.load,
      instance: 0n,
      adapter: holder.number + 1,
      requestId: request.requestId,
      match: `load:${number}`,
      layout,
      complete: true,
      temporary: options.prefetchPolicy === "default" && request.retain !== true,
      keys,
      slots: state.slots.numbers.peekMany(loading.length),
      offsets: offsets.map((offset) => offset / pool.identity.alignBytes),
    });
    const transfer = state.transfer(number);
    if (!this.#core.commit()) {
      const reason = "the journal cannot be written";
      this.#core.record({ type: "l1.write.abandoned", transfer: number, hold: false, reason });
      return null;
    }
    const requests = loading.map((want) => this.#sized(job, want));
    const beforeResident = (): void => {
      if (job.finished) return;
      for (const offset of offsets) {
        this.#core.space.pin(offset);
        job.pinned.push(offset);
      }
    };
    const batch = { holder, requests, transfer, keys, offsets, objectBytes, beforeResident };
    const load = runLoad(this.#core, batch);
    this.#rememberLoads(job, loading, load);
    return load.then((bits) => {
      const lost = loading.filter((_, i) => bits === null || !bits.has(i));
      this.failedLoads += lost.length;
      this.loadedObjects += loading.length - lost.length;
      this.loadedBytes += (loading.length - lost.length) * objectBytes;
      return lost;
    });
  }

  #rememberLoads(job: Job, wants: readonly Wanted[], load: Promise<Bitmap | null>): void {
    for (const [i, want] of wants.entries()) {
      const id = loadId(job, want);
      const arrived = load.then((bits) => {
        this.#loading.delete(id);
        return bits?.has(i) === true;
      });
      this.#loading.set(id, arrived);
    }
  }

  /** Numbers of the cells' keys; new ones are bound with one event a rank. */
  #keyNumbers(job: Job, wants: readonly Wanted[]): number[] {
    const { ranks, request } = job.cells;
    const numbers: number[] = [];
    for (const [rank, kvRank] of ranks.entries()) {
      const positions = wants.flatMap((want, i) => (want.cell % ranks.length === rank ? [i] : []));
      if (positions.length === 0) continue;
      const group = this.#core.ensureGroup(this.#core.groupFor(request.modelName, kvRank, request.cacheSalt));
      const chunks = positions.map((i) => (wants[i] as Wanted).chunk);
      const keys = this.#core.ensureKeys(group, request.hashes, chunks);
      for (const [at, i] of positions.entries()) numbers[i] = keys[at] as number;
    }
    return numbers;
  }

  /** Takes nothing more on; resolves when the jobs have ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const job of [...this.#queue, ...this.#running]) job.cancelled = true;
    for (const job of this.#queue.splice(0)) this.#finish(job);
    if (this.#running.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle.push(resolve);
    });
  }
}

import { type Bitmap, messageOf, type ObjectKey, objectKey, type SizedKey } from "@cache/contracts";
import type { Core } from "../core.ts";
import { WRITER } from "../events/definitions.ts";
import { groupNumbers, type LookupCells } from "../l1/lookups.ts";
import type { Room } from "../l1/room.ts";
import { L2 } from "../state/ledger.ts";
import type { Session } from "../state/records.ts";
import type { AttachedAdapter } from "./attached-adapter.ts";
import type { ObjectBuffers } from "./object-buffers.ts";

/** Objects of one load: small enough that the first ones are there early. */
const LOAD_BATCH_OBJECTS_MAX = 64;

interface Job {
  readonly cells: LookupCells;
  readonly session: Session;
  readonly done: (alive: boolean) => void;
  readonly tokens: ReadonlyMap<number, Uint8Array>;
  cancelled: boolean;
  finished: boolean;
}

/** A cell that L1 lacks. */
interface Wanted {
  readonly cell: number;
  readonly chunk: number;
  readonly key: ObjectKey;
  /** Adapters that have it and hold a lock for it, preferred first. */
  holders: AttachedAdapter[];
}

/** Loads what a lookup lacks from L2 into L1: the longest prefix that the adapters can give in time. */
export class PrefetchController {
  readonly #core: Core;
  readonly #room: Room;
  readonly #buffers: ObjectBuffers;
  readonly #adapters: () => readonly AttachedAdapter[];
  readonly #queue: Job[] = [];
  readonly #running = new Set<Job>();
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

  constructor(core: Core, room: Room, buffers: ObjectBuffers, adapters: () => readonly AttachedAdapter[]) {
    this.#core = core;
    this.#room = room;
    this.#buffers = buffers;
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
    const { options } = this.#core;
    // The message's buffers do not outlive the call.
    const request = { ...cells.request, hashes: Uint8Array.from(cells.request.hashes) };
    const kept: LookupCells = { ...cells, request };
    if (this.#queue.length >= options.prefetchQueueMax || this.#stopped) {
      this.queueFull++;
      setImmediate(() => done(kept, true));
      return;
    }
    const job: Job = {
      cells: kept,
      session,
      done: (alive) => done(kept, alive),
      tokens: this.#keepTokens(cells, session),
      cancelled: false,
      finished: false,
    };
    this.#queue.push(job);
    this.#pump();
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
    for (const job of [...this.#queue, ...this.#running]) if (job.session === session) job.cancelled = true;
  }

  #pump(): void {
    while (this.#queue.length > 0 && this.#running.size < this.#core.options.prefetchMaxInFlight) {
      const job = this.#queue.shift() as Job;
      if (job.cancelled || !job.session.pending) continue;
      this.#running.add(job);
      this.#run(job)
        .catch((error: unknown) => {
          this.#core.log.error("a prefetch ended unexpectedly", { error: messageOf(error) });
        })
        .finally(() => {
          this.#end(job);
          this.#pump();
        });
    }
  }

  #end(job: Job): void {
    this.#running.delete(job);
    if (!job.finished) {
      job.finished = true;
      job.done(!job.cancelled);
    }
    if (this.#running.size === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  async #run(job: Job): Promise<void> {
    const { options } = this.#core;
    const tokens = job.cells.chunks * options.chunkTokens;
    const limitMs = Math.min(
      options.prefetchMsMax,
      options.prefetchBaseMs + (tokens / 1_024) * options.prefetchMsPer1024Tokens,
    );
    let cancelTimer = (): void => {};
    const deadline = new Promise<void>((resolve) => {
      cancelTimer = this.#core.clock.after(limitMs, () => {
        this.overDeadline++;
        // Answers with what has arrived; what comes later stays in L1.
        if (!job.finished) {
          job.finished = true;
          job.done(!job.cancelled);
        }
        resolve();
      });
    });
    const work = this.#work(job);
    await Promise.race([work, deadline]);
    cancelTimer();
    // A job over its deadline gives its place to the next; its loads end by the adapters' own deadlines.
    void work.catch(() => {});
  }

  async #work(job: Job): Promise<void> {
    const wanted = this.#wanted(job);
    await this.#lookUp(job, wanted);
    const needed = this.#plan(job, wanted);
    const pinned: number[] = [];
    try {
      for (let rest = needed; rest.length > 0 && !job.cancelled && this.#core.healthy; ) {
        rest = await this.#loadRound(job, rest, pinned);
      }
    } finally {
      for (const want of wanted) {
        for (const holder of want.holders) holder.gate.unlock([want.key]);
      }
      if (!job.finished && !job.cancelled) {
        this.onLoaded(job.cells, job.tokens);
        job.finished = true;
        job.done(true);
      }
      for (const offset of pinned) this.#core.space.unpin(offset);
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
  async #lookUp(job: Job, wanted: readonly Wanted[]): Promise<void> {
    const adapters = this.#adapters().filter(({ gate }) => gate.canTry());
    const answered = new Map<AttachedAdapter, Wanted[]>();
    let over = false;
    await new Promise<void>((resolve) => {
      let open = adapters.length;
      if (open === 0) resolve();
      const groups = groupNumbers(this.#core, job.cells);
      for (const adapter of adapters) {
        const asked = wanted.filter((want) => this.#mayHold(adapter, job.cells, groups, want));
        const call = adapter.gate.lookupAndLock(asked.map((want) => this.#sized(job, want)));
        call.outcome
          .then((bits: Bitmap) => {
            const found = asked.filter((_, i) => bits.has(i));
            if (over) adapter.gate.unlock(found.map(({ key }) => key));
            else answered.set(adapter, found);
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

  /** False if our account says that the adapter holds another layout under this key. */
  #mayHold(adapter: AttachedAdapter, cells: LookupCells, groups: readonly number[], want: Wanted): boolean {
    const { state } = this.#core;
    const group = groups[want.cell % cells.ranks.length] as number;
    const key = group < 0 ? -1 : state.keys.find(group, want.key.chunkHash, 0);
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
  async #loadRound(job: Job, cells: readonly Wanted[], pinned: number[]): Promise<Wanted[]> {
    const byHolder = new Map<AttachedAdapter, Wanted[]>();
    for (const want of cells) {
      const holder = want.holders[0];
      if (holder === undefined) continue;
      const batch = byHolder.get(holder) ?? [];
      batch.push(want);
      byHolder.set(holder, batch);
    }
    const loads: Promise<Wanted[]>[] = [];
    for (const [holder, wants] of byHolder) {
      for (let at = 0; at < wants.length; at += LOAD_BATCH_OBJECTS_MAX) {
        const load = this.#startLoad(job, holder, wants.slice(at, at + LOAD_BATCH_OBJECTS_MAX), pinned);
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

  #startLoad(
    job: Job,
    holder: AttachedAdapter,
    wants: readonly Wanted[],
    pinned: number[],
  ): Promise<Wanted[]> | null {
    const { state, options, pool } = this.#core;
    const { layout, request } = job.cells;
    const { objectBytes } = state.layout(layout);
    const admitted = this.#room.admit(request.cacheSalt, objectBytes, wants.length);
    const offsets = this.#room.allocateMany(objectBytes, admitted);
    if (offsets.length < wants.length) this.outOfMemory += wants.length - offsets.length;
    if (offsets.length === 0) return null;
    const loading = wants.slice(0, offsets.length);
    const transfer = state.transferNumbers.peek();
    const keys = loading.map((want) => this.#keyNumber(job, want));
    this.#core.record({
      type: "l1.write.reserved",
      transfer,
      writer: WRITER.load,
      instance: 0n,
      adapter: holder.number + 1,
      requestId: request.requestId,
      match: `load:${transfer}`,
      layout,
      complete: true,
      temporary: options.prefetchPolicy === "default",
      keys,
      slots: state.slots.numbers.peekMany(loading.length),
      offsets: offsets.map((offset) => offset / pool.identity.alignBytes),
    });
    if (!this.#core.commit()) {
      this.#abandon(transfer, "the journal cannot be written");
      return null;
    }
    return this.#load(job, holder, loading, { transfer, keys, offsets, objectBytes }, pinned);
  }

  #keyNumber(job: Job, want: Wanted): number {
    const kvRank = job.cells.ranks[want.cell % job.cells.ranks.length] as number;
    const group = this.#core.ensureGroup(
      this.#core.groupFor(job.cells.request.modelName, kvRank, job.cells.request.cacheSalt),
    );
    return this.#core.ensureKeys(group, job.cells.request.hashes, [want.chunk])[0] as number;
  }

  #abandon(transfer: number, reason: string): void {
    if (!this.#core.state.transfers.has(transfer)) return;
    this.#core.record({ type: "l1.write.abandoned", transfer, hold: false, reason });
  }

  async #load(
    job: Job,
    holder: AttachedAdapter,
    wants: readonly Wanted[],
    staged: { transfer: number; keys: readonly number[]; offsets: readonly number[]; objectBytes: number },
    pinned: number[],
  ): Promise<Wanted[]> {
    const { space } = this.#core;
    const { transfer, offsets, objectBytes } = staged;
    for (const offset of offsets) space.pin(offset);
    const unpin = (): void => {
      for (const offset of offsets) space.unpin(offset);
    };
    const buffers = await this.#buffers.borrow(
      offsets.map((offset) => ({ offset, length: objectBytes })),
      false,
    );
    const call = holder.gate.load(
      wants.map((want) => this.#sized(job, want)),
      buffers.objects,
    );
    const arrived = async (bits: Bitmap): Promise<void> => {
      await buffers.bringIn(bits.positions());
      // Until the lookup has its locks, eviction must not take what was just loaded.
      if (!job.finished) {
        for (const offset of offsets) {
          space.pin(offset);
          pinned.push(offset);
        }
      }
      this.#arrived(holder, staged, bits);
    };
    const release = (): void => {
      buffers.giveBack();
      unpin();
    };
    try {
      const bits = await call.outcome;
      // Positions without an answer may still be written to: they end with the call.
      if (call.failures().size > 0) await call.settled;
      await arrived(bits);
      void call.settled.then(release);
      return wants.filter((_, i) => !bits.has(i));
    } catch (error) {
      this.failedLoads += wants.length;
      this.#core.log.debug("a load from L2 failed", { adapter: holder.id, error: messageOf(error) });
      void call.settled.then(async () => {
        const late = call.lateResult();
        if (late === null) this.#abandon(transfer, "the load failed");
        else await arrived(late);
        this.#core.commit();
        release();
      });
      return [...wants];
    }
  }

  #arrived(
    holder: AttachedAdapter,
    staged: { transfer: number; keys: readonly number[]; objectBytes: number },
    bits: Bitmap,
  ): void {
    const { state } = this.#core;
    const missing = staged.keys.flatMap((_, i) => (bits.has(i) ? [] : [i]));
    this.#core.record({ type: "l1.write.finished", transfer: staged.transfer, missing });
    const loaded = staged.keys.filter((_, i) => bits.has(i));
    const known = loaded.filter((key) => state.ledger(holder.number).state.get(key) === L2.stored);
    if (known.length > 0)
      this.#core.record({ type: "l2.keys.accessed", adapter: holder.number, keys: known });
    this.loadedObjects += loaded.length;
    this.loadedBytes += loaded.length * staged.objectBytes;
    this.failedLoads += missing.length;
  }

  /** Takes nothing more on; resolves when the jobs have ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const job of this.#queue.splice(0)) job.done(false);
    for (const job of this.#running) job.cancelled = true;
    if (this.#running.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle.push(resolve);
    });
  }
}

/** True if every cell is held by an adapter such that all preferred before it have answered. */
function coversAll(
  wanted: readonly Wanted[],
  adapters: readonly AttachedAdapter[],
  answered: ReadonlyMap<AttachedAdapter, readonly Wanted[]>,
): boolean {
  const covered = new Set<Wanted>();
  for (const adapter of adapters) {
    const found = answered.get(adapter);
    if (found === undefined) return false;
    for (const want of found) covered.add(want);
    if (covered.size === wanted.length) return true;
  }
  return false;
}

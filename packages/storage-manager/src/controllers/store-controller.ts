import {
  type Bitmap,
  type CacheError,
  hasCode,
  messageOf,
  type ObjectKey,
  objectKey,
} from "@cache/contracts";
import type { Core } from "../core.ts";
import { L2 } from "../state/ledger.ts";
import { SLOT } from "../state/slot-table.ts";
import type { Room } from "../l1/room.ts";
import type { AttachedAdapter } from "./attached-adapter.ts";
import type { ObjectBuffers } from "./object-buffers.ts";

/** Pause before the first retry of a store; doubles up to the last. */
const RETRY_FIRST_MS = 500;
const RETRY_LAST_MS = 15_000;
/** Failures that no retry mends. */
const HOPELESS = ["AMBIGUOUS_NAME", "INVALID_KEY", "UNSUPPORTED", "INVALID_ARGUMENT"] as const;

interface Attempts {
  count: number;
  readonly firstMs: number;
}

interface Batch {
  readonly layout: number;
  readonly keys: readonly number[];
  readonly slots: readonly number[];
}

/** Brings what was stored into L1 to one adapter: in order, in batches, with retries that end. */
export class StoreController {
  readonly #core: Core;
  readonly #adapter: AttachedAdapter;
  readonly #buffers: ObjectBuffers;
  readonly #room: Room;
  readonly #queue: number[] = [];
  #head = 0;
  readonly #attempts = new Map<number, Attempts>();
  #inFlight = 0;
  #pauseMs = 0;
  #paused = false;
  #scheduled = false;
  #stopped = false;
  #idle: (() => void)[] = [];
  storedObjects = 0;
  storedBytes = 0;
  failedObjects = 0;
  givenUp = 0;
  /** Called after each batch: the adapter may be full or nearly so. */
  onSettled: () => void = () => {};

  constructor(core: Core, adapter: AttachedAdapter, buffers: ObjectBuffers, room: Room) {
    this.#core = core;
    this.#adapter = adapter;
    this.#buffers = buffers;
    this.#room = room;
  }

  /** Objects that wait for this adapter. Bounded by what L1 holds. */
  get queued(): number {
    return this.#queue.length - this.#head;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  enqueue(key: number): void {
    this.#queue.push(key);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#paused || this.#stopped) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#pump();
    });
  }

  #pump(): void {
    const { storeInFlightMax } = this.#core.options;
    while (!this.#paused && !this.#stopped && this.#inFlight < storeInFlightMax && this.#core.healthy) {
      if (!this.#adapter.gate.canTry()) {
        if (this.queued > 0) this.#pause();
        return;
      }
      const batch = this.#nextBatch();
      if (batch === null) break;
      this.#inFlight++;
      this.#store(batch)
        .catch((error: unknown) => {
          this.#core.log.error("a store to L2 ended unexpectedly", {
            adapter: this.#adapter.id,
            error: messageOf(error),
          });
        })
        .finally(() => {
          this.#inFlight--;
          this.#schedule();
          this.#tellIdle();
        });
    }
    this.#tellIdle();
  }

  #pause(): void {
    this.#paused = true;
    this.#pauseMs = Math.min(RETRY_LAST_MS, this.#pauseMs === 0 ? RETRY_FIRST_MS : this.#pauseMs * 2);
    this.#core.clock.after(this.#pauseMs, () => {
      this.#paused = false;
      this.#giveUpOld();
      this.#schedule();
    });
  }

  /** While the breaker keeps everything back: what has failed for long enough is given up. */
  #giveUpOld(): void {
    const { options } = this.#core;
    if (this.#attempts.size === 0 || !this.#core.healthy) return;
    const now = this.#core.now();
    const keys: number[] = [];
    for (const [key, { count, firstMs }] of this.#attempts) {
      if (!this.#isAwaited(key)) this.#attempts.delete(key);
      else if (count >= options.storeAttemptsMax && now - firstMs >= options.storeGiveUpMs) keys.push(key);
      if (keys.length >= 1_024) break;
    }
    if (keys.length === 0) return;
    this.#giveUp(keys, "its stores kept failing");
    this.#core.commit();
  }

  #isAwaited(key: number): boolean {
    const { state } = this.#core;
    const slot = state.keys.resident.get(key) - 1;
    return slot >= 0 && (state.slots.awaiting.get(slot) & (1 << this.#adapter.number)) !== 0;
  }

  /** The next objects of one group and layout that still wait. */
  #nextBatch(): Batch | null {
    const { state, options } = this.#core;
    const ledger = state.ledger(this.#adapter.number);
    const bit = 1 << this.#adapter.number;
    const keys: number[] = [];
    const slots: number[] = [];
    let bytes = 0;
    let group = -1;
    let layout = -1;
    while (this.#head < this.#queue.length && keys.length < options.storeBatchKeysMax) {
      const key = this.#queue[this.#head] as number;
      const slot = state.keys.references.get(key) === 0 ? -1 : state.keys.resident.get(key) - 1;
      const wanted = slot >= 0 && (state.slots.awaiting.get(slot) & bit) !== 0 && !keys.includes(key);
      if (!wanted || ledger.state.get(key) === L2.storing) {
        this.#head++;
        if (!wanted) this.#attempts.delete(key);
        continue;
      }
      const keyGroup = state.keys.group.get(key);
      const keyLayout = state.slots.layout.get(slot);
      const size = state.slotBytes(slot);
      if (group >= 0 && (keyGroup !== group || keyLayout !== layout)) break;
      if (keys.length > 0 && bytes + size > options.storeBatchBytesMax) break;
      this.#head++;
      group = keyGroup;
      layout = keyLayout;
      bytes += size;
      keys.push(key);
      slots.push(slot);
    }
    if (this.#head > 4_096 && this.#head * 2 > this.#queue.length) {
      this.#queue.splice(0, this.#head);
      this.#head = 0;
    }
    return keys.length === 0 ? null : { layout, keys, slots };
  }

  #objectKey(key: number): ObjectKey {
    const { keys } = this.#core.state;
    return objectKey({ chunkHash: Uint8Array.from(keys.hash.get(key)), ...keys.groupOfKey(key) });
  }

  async #store(batch: Batch): Promise<void> {
    const { state, space } = this.#core;
    const { gate, number } = this.#adapter;
    const names = batch.keys.map((key) => this.#objectKey(key));
    const ranges = batch.slots.map((slot) => ({
      offset: state.slotOffset(slot),
      length: state.slotBytes(slot),
    }));
    for (const { offset } of ranges) space.pin(offset);
    const unpin = (): void => {
      for (const { offset } of ranges) space.unpin(offset);
    };
    if (!(await this.#clearOtherLayout(batch, names))) {
      unpin();
      return;
    }
    const task = state.nextTask;
    this.#core.record({
      type: "l2.store.submitted",
      adapter: number,
      task,
      layout: batch.layout,
      keys: batch.keys,
    });
    if (!this.#core.commit()) {
      this.#settle(task, batch, null, new Map(), "the journal cannot be written");
      unpin();
      return;
    }
    const buffers = await this.#buffers.borrow(ranges, true).catch((error: unknown) => {
      this.#settle(task, batch, null, new Map(), messageOf(error));
      unpin();
      return null;
    });
    if (buffers === null) return;
    const call = gate.store(names, buffers.objects);
    void call.settled.then(() => {
      unpin();
      buffers.giveBack();
    });
    try {
      const result = await call.outcome;
      const failed = new Map<number, CacheError>([...call.failures(), ...result.failed]);
      this.#settle(task, batch, result.stored, failed, failed.values().next().value?.message ?? "");
    } catch (error) {
      await call.settled;
      const late = call.lateResult();
      this.#settle(task, batch, late?.stored ?? null, call.failures(), messageOf(error));
    }
  }

  /**
   * An object under the same name in another layout must go first: equal keys and equal lengths would hide it.
   * False: this batch cannot be stored now.
   */
  async #clearOtherLayout(batch: Batch, names: readonly ObjectKey[]): Promise<boolean> {
    const { state } = this.#core;
    const { gate, number, adapter } = this.#adapter;
    const ledger = state.ledger(number);
    const positions = batch.keys.flatMap((key, i) =>
      ledger.state.get(key) === L2.stored && ![0, batch.layout].includes(ledger.layout.get(key)) ? [i] : [],
    );
    if (positions.length === 0) return true;
    const keys = positions.map((i) => batch.keys[i] as number);
    if (!adapter.capabilities.delete) {
      this.#giveUp(keys, "the adapter holds another layout under this key and cannot delete");
      this.#core.commit();
      this.#requeue(batch.keys);
      return false;
    }
    this.#core.record({ type: "l2.delete.submitted", adapter: number, keys, reason: "layout" });
    if (!this.#core.commit()) return false;
    const call = gate.delete(positions.map((i) => names[i] as ObjectKey));
    const gone = await call.outcome.catch(() => null);
    await call.settled;
    const result = gone ?? call.lateResult();
    const deleted = keys.filter((_, i) => result?.has(i) === true);
    const kept = keys.filter((_, i) => result?.has(i) !== true);
    if (deleted.length > 0) {
      this.#core.record({ type: "l2.keys.deleted", adapter: number, keys: deleted, reason: "layout" });
    }
    if (kept.length > 0) this.#core.record({ type: "l2.delete.refused", adapter: number, keys: kept });
    this.#core.commit();
    if (kept.length === 0) return true;
    this.#failed(kept, "the object of another layout could not be deleted");
    this.#requeue(batch.keys.filter((key) => !kept.includes(key)));
    return false;
  }

  #requeue(keys: readonly number[]): void {
    for (const key of keys) this.#queue.push(key);
  }

  #settle(
    task: number,
    batch: Batch,
    bits: Bitmap | null,
    failures: ReadonlyMap<number, CacheError>,
    reason: string,
  ): void {
    const stored = batch.keys.filter((_, i) => bits?.has(i) === true);
    const failed = batch.keys.filter((_, i) => bits?.has(i) !== true);
    this.#core.record({
      type: "l2.store.completed",
      adapter: this.#adapter.number,
      task,
      stored,
      failed,
      reason: failed.length > 0 ? reason.slice(0, 512) : "",
    });
    this.storedObjects += stored.length;
    this.storedBytes += stored.length * this.#core.state.layout(batch.layout).objectBytes;
    for (const key of stored) this.#attempts.delete(key);
    if (failed.length === 0) {
      this.#pauseMs = 0;
    } else {
      const hopeless = batch.keys.filter((_, i) => {
        const error = failures.get(i);
        return bits?.has(i) !== true && error !== undefined && HOPELESS.some((code) => hasCode(error, code));
      });
      if (hopeless.length > 0) this.#giveUp(hopeless, reason.slice(0, 512));
      this.#failed(
        failed.filter((key) => !hopeless.includes(key)),
        reason,
      );
    }
    if (stored.length > 0) this.#leaveL1(stored);
    this.#core.commit();
    this.#core.signalRoom();
    this.onSettled();
  }

  #failed(keys: readonly number[], reason: string): void {
    const { options } = this.#core;
    this.failedObjects += keys.length;
    const now = this.#core.now();
    const over: number[] = [];
    for (const key of keys) {
      const attempts = this.#attempts.get(key) ?? { count: 0, firstMs: now };
      attempts.count++;
      this.#attempts.set(key, attempts);
      if (attempts.count >= options.storeAttemptsMax && now - attempts.firstMs >= options.storeGiveUpMs)
        over.push(key);
      else this.#queue.push(key);
    }
    if (over.length > 0) this.#giveUp(over, reason.slice(0, 512));
    if (keys.length > 0 && !this.#paused) this.#pause();
  }

  #giveUp(keys: readonly number[], reason: string): void {
    this.givenUp += keys.length;
    for (const key of keys) this.#attempts.delete(key);
    this.#core.log.warn("objects will not be stored in L2 and may be dropped from L1", {
      adapter: this.#adapter.id,
      objects: keys.length,
      reason,
    });
    this.#core.record({ type: "l2.store.given_up", adapter: this.#adapter.number, keys, reason });
    this.#core.signalRoom();
  }

  /** Policy `skip_l1`: an object leaves L1 once every adapter has settled and one has it. */
  #leaveL1(keys: readonly number[]): void {
    const { state, options } = this.#core;
    if (options.storePolicy !== "skip_l1") return;
    const slots = keys
      .map((key) => state.keys.resident.get(key) - 1)
      .filter((slot) => {
        if (slot < 0 || state.slots.awaiting.get(slot) !== 0) return false;
        if (state.slots.locks.get(slot) > 0 || state.slots.handOuts.get(slot) > 0) return false;
        return state.slots.state.get(slot) === SLOT.resident;
      });
    if (slots.length === 0) return;
    const bytes = slots.reduce((sum, slot) => sum + state.occupied(slot), 0);
    this.#room.evictSlots(slots, bytes, "skip_l1");
  }

  #tellIdle(): void {
    if (this.#inFlight > 0) return;
    if (!this.#stopped && this.queued > 0 && !this.#paused) return;
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** Starts nothing more; resolves when nothing is in flight. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#inFlight === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle.push(resolve);
    });
  }
}

import { setImmediate as nextTurn } from "node:timers/promises";
import { type Bitmap, type CacheError, type CacheErrorCode, hasCode, messageOf } from "@cache/contracts";
import type { Core } from "../core.ts";
import type { GuardedCall } from "../l2-gate/index.ts";
import type { CacheEvent } from "../events/definitions.ts";
import type { Room } from "../l1/room.ts";
import { L2 } from "../state/ledger.ts";
import { SLOT } from "../state/slot-table.ts";
import type { AttachedAdapter } from "./attached-adapter.ts";
import { type Removal, removeFromL2 } from "./l2-removal.ts";
import { settledCall } from "./settled-call.ts";
import { kindOf, StoreQueue, type StoreItem } from "./store-queue.ts";

/** Pause before the first retry of a store; doubles up to the last. Retries are single objects: they may come often. */
const RETRY_FIRST_MS = 500;
const RETRY_LAST_MS = 2_000;
/** Pauses in a row after which the log says so. */
const PAUSES_TOLD = 3;
/** Failures after which nothing of the object is in the store. All others leave a doubt. */
const NOTHING_THERE = ["BREAKER_OPEN", "LIMIT_REACHED", "BACKEND_FULL"] as const;
/** Failures that no retry mends. */
const HOPELESS = ["AMBIGUOUS_NAME", "INVALID_KEY", "UNSUPPORTED", "INVALID_ARGUMENT"] as const;
/** Texts in events are cut here. */
const REASON_CHARS_MAX = 512;

/** Brings what was stored into L1 to one adapter: in order, in batches, with retries that end. */
export class StoreController {
  readonly #core: Core;
  readonly #adapter: AttachedAdapter;
  readonly #room: Room;
  readonly #queue: StoreQueue;
  #inFlight = 0;
  #pauseMs = 0;
  /** Pauses in a row, and since when: the adapter takes nothing. */
  #pauses = 0;
  #failingSinceMs = 0;
  #lastFailure = "";
  #paused = false;
  #isProbing = false;
  /** Kinds of objects of which the adapter took none lately. */
  readonly #refusedKinds = new Set<string>();
  #scheduled = false;
  #stopped = false;
  #idle: (() => void)[] = [];
  readonly #endObserving: () => void;
  storedObjects = 0;
  storedBytes = 0;
  failedObjects = 0;
  givenUp = 0;
  /** Called after each batch: the adapter may be full or nearly so. */
  onSettled: (storedBytes: number) => void = () => {};
  /** Called with keys of which nobody knows whether the adapter has them; a settling event follows. */
  onDoubt: (keys: readonly number[]) => void = () => {};

  constructor(core: Core, adapter: AttachedAdapter, room: Room) {
    this.#core = core;
    this.#adapter = adapter;
    this.#room = room;
    this.#queue = new StoreQueue(core, adapter.number);
    this.#endObserving = core.observe((event) => this.#observe(event));
  }

  /** Objects that wait for this adapter. Bounded by what L1 holds. */
  get queued(): number {
    return this.#queue.length;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  enqueue(key: number): void {
    this.#queue.push(key);
    this.wake();
  }

  /** Looks again whether something can be stored now. */
  wake(): void {
    if (this.#scheduled || this.#paused || this.#stopped) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#pump();
    });
  }

  /** What waited behind another store or delete of the same key may go on. */
  #observe(event: CacheEvent): void {
    if (event.type === "l2.store.completed" && event.adapter === this.#adapter.number) {
      this.#unblock(event.stored);
      this.#unblock(event.failed);
    } else if (
      (event.type === "l2.keys.deleted" || event.type === "l2.delete.refused") &&
      event.adapter === this.#adapter.number
    ) {
      this.#unblock(event.keys);
    }
  }

  #unblock(keys: readonly number[]): void {
    if (this.#queue.unblock(keys)) this.wake();
  }

  #pump(): void {
    const { storeInFlightMax } = this.#core.options;
    while (!this.#paused && !this.#stopped && this.#inFlight < storeInFlightMax && this.#core.healthy) {
      if (!this.#adapter.gate.canTry()) {
        if (this.queued > 0) this.#pause();
        break;
      }
      // In trouble one object tries for all. What was under way before may never end: it holds up nothing.
      const isProbe = this.#pauses > 0;
      if (isProbe && this.#isProbing) break;
      const batch = isProbe ? this.#queue.probe(this.#refusedKinds) : this.#queue.next();
      if (batch.length === 0) {
        // Only what waits behind a doubt is left: time must end that, too.
        if (this.queued > 0 && this.#inFlight === 0) this.#pause();
        break;
      }
      this.#inFlight++;
      if (isProbe) this.#isProbing = true;
      this.#store(batch)
        .catch((error: unknown) => {
          this.#core.log.error("a store to L2 ended unexpectedly", {
            adapter: this.#adapter.id,
            error: messageOf(error),
          });
        })
        .finally(() => {
          this.#inFlight--;
          if (isProbe) this.#isProbing = false;
          this.wake();
          this.#tellIdle();
        });
    }
    this.#tellIdle();
  }

  #pause(): void {
    this.#paused = true;
    if (this.#pauses++ === 0) this.#failingSinceMs = this.#core.now();
    if (this.#pauses === PAUSES_TOLD) {
      this.#core.log.warn("an L2 adapter takes no stores: they wait in L1 and are tried again", {
        adapter: this.#adapter.id,
        waiting: this.queued,
        error: this.#lastFailure,
      });
    }
    this.#pauseMs = Math.min(RETRY_LAST_MS, this.#pauseMs === 0 ? RETRY_FIRST_MS : this.#pauseMs * 2);
    this.#core.clock.after(this.#pauseMs, () => {
      this.#paused = false;
      this.#giveUpOverdue();
      this.wake();
    });
  }

  #endPauses(): void {
    if (this.#pauses >= PAUSES_TOLD) {
      const seconds = Math.round((this.#core.now() - this.#failingSinceMs) / 1000);
      this.#core.log.info("an L2 adapter takes stores again", { adapter: this.#adapter.id, seconds });
    }
    this.#pauses = 0;
  }

  /** An adapter that has taken nothing for so long must not keep L1 full of what waits for it. */
  #giveUpOverdue(): void {
    // The number may be that of the same adapter, added again: what waits for that one is not ours to give up.
    if (this.#stopped) return;
    const { options } = this.#core;
    const forMs = this.#core.now() - this.#failingSinceMs;
    if (this.#pauses < options.storeAttemptsMax || forMs < options.storeGiveUpMs || !this.#core.healthy)
      return;
    const over = this.#queue.overdue();
    if (over.length === 0) return;
    this.#giveUp(over, "its stores keep failing: the adapter has taken nothing for too long");
    this.#core.commit();
    setImmediate(() => this.#giveUpOverdue());
  }

  /** The adapter works again. */
  #resetPause(): void {
    this.#endPauses();
    this.#pauseMs = 0;
    this.#refusedKinds.clear();
  }

  async #store(items: readonly StoreItem[]): Promise<void> {
    const { state, space } = this.#core;
    for (const { offset } of items) space.pin(offset);
    const unpin = (of: readonly StoreItem[]): void => {
      for (const { offset } of of) space.unpin(offset);
    };
    let batch = items;
    try {
      batch = await this.#withoutOtherLayouts(items);
    } catch (error) {
      unpin(items);
      this.#queue.pushAll(items);
      throw error;
    }
    batch = this.#queue.ready(batch);
    unpin(items.filter((item) => !batch.includes(item)));
    const [first] = batch;
    if (first === undefined) return;
    const task = state.nextTask;
    const keys = batch.map(({ key }) => key);
    const { number, gate } = this.#adapter;
    this.#core.record({ type: "l2.store.submitted", adapter: number, task, layout: first.layout, keys });
    const names = keys.map((key) => this.#core.nameOf(key));
    if (!this.#core.commit()) {
      this.#settle(task, batch, null, new Map(), "the journal cannot be written", true);
      unpin(batch);
      return;
    }
    const ranges = batch.map(({ offset, length }) => ({ offset, length }));
    const buffers = await this.#adapter.buffers.borrow(ranges, true).catch((error: unknown) => {
      this.#settle(task, batch, null, new Map(), messageOf(error), true);
      unpin(batch);
      return null;
    });
    if (buffers === null) return;
    const call = gate.store(names, buffers.objects);
    let answered = false;
    // Later than its deadline, the store is still in doubt: it settles when the adapter does, not before.
    const settled = settledCall(call).then(({ result, errorOf, error }) => {
      unpin(batch);
      buffers.giveBack();
      if (answered) return;
      answered = true;
      const failures = new Map<number, CacheError>();
      for (let i = 0; i < batch.length; i++) {
        const failure = result?.failed.get(i) ?? errorOf(i);
        if (failure !== null) failures.set(i, failure);
      }
      this.#settle(task, batch, result?.stored ?? null, failures, error?.message ?? firstMessage(failures));
    });
    settled.catch((error: unknown) => {
      this.#core.log.warn("a late store could not be settled", {
        adapter: this.#adapter.id,
        error: messageOf(error),
      });
    });
    try {
      const result = await call.outcome;
      if (call.failures().size > 0) return;
      answered = true;
      this.#settle(task, batch, result.stored, result.failed, firstMessage(result.failed));
    } catch (error) {
      this.#core.log.debug("a store to L2 failed", { adapter: this.#adapter.id, error: messageOf(error) });
      // It may never settle: its objects wait with all the others for the time that ends their waiting.
      if (answered) return;
      this.#queue.block(keys);
      if (!this.#paused) this.#pause();
    }
  }

  /**
   * An object under the same name in another layout must go first: equal keys and equal lengths would hide it.
   * Answers the items that can be stored now.
   */
  async #withoutOtherLayouts(items: readonly StoreItem[]): Promise<readonly StoreItem[]> {
    const { number, adapter, gate } = this.#adapter;
    const ledger = this.#core.state.ledger(number);
    const inTheWay = items.filter(
      ({ key, layout }) =>
        ledger.state.get(key) === L2.stored &&
        ledger.layout.get(key) !== 0 &&
        ledger.layout.get(key) !== layout,
    );
    if (inTheWay.length === 0) return items;
    const rest = items.filter((item) => !inTheWay.includes(item));
    const keys = inTheWay.map(({ key }) => key);
    if (!adapter.capabilities.delete) {
      this.#giveUp(keys, "the adapter holds another layout under this key and cannot delete");
      return rest;
    }
    let call: GuardedCall<Bitmap> | null = null;
    const removal = removeFromL2(this.#core, this.#adapter, keys, "layout", (names) => {
      call = gate.delete(names);
      return call;
    }).then((removed) => {
      // What left the adapter may have lost its last reference: the caller looks at each item again.
      const { kept, doubtful } = removed;
      if (kept.length > 0) this.#failed(kept, "the object of another layout could not be deleted", false);
      if (doubtful.length > 0) this.#leaveInDoubt(doubtful);
      return removed;
    });
    const left = await inTime(removal, call);
    // A delete that does not end holds up its own keys alone; the event of its end lets them go on.
    if (left === null) this.#queue.block(keys);
    const gone = left?.deleted ?? [];
    return items.filter((item) => rest.includes(item) || gone.includes(item.key));
  }

  #settle(
    task: number,
    batch: readonly StoreItem[],
    bits: Bitmap | null,
    failures: ReadonlyMap<number, CacheError>,
    reason: string,
    untried = false,
  ): void {
    const stored: number[] = [];
    const failed: number[] = [];
    const hopeless: number[] = [];
    const doubtful: number[] = [];
    for (const [i, { key }] of batch.entries()) {
      const error = failures.get(i);
      if (bits?.has(i) === true) stored.push(key);
      else if (isHopeless(error)) hopeless.push(key);
      else if (untried || hasOneOf(error, NOTHING_THERE)) failed.push(key);
      else doubtful.push(key);
    }
    const text = (reason || "the adapter did not store it").slice(0, REASON_CHARS_MAX);
    if (failed.length + doubtful.length > 0) this.#lastFailure = text;
    this.#core.record({
      type: "l2.store.completed",
      adapter: this.#adapter.number,
      task,
      stored,
      failed: [...failed, ...hopeless],
      reason: failed.length + hopeless.length > 0 ? text : "",
    });
    const bytes = stored.length * (batch[0]?.length ?? 0);
    this.storedObjects += stored.length;
    this.storedBytes += bytes;
    this.#queue.forget(stored);
    const [first] = batch;
    if (first !== undefined && stored.length === 0 && failed.length + doubtful.length > 0) {
      this.#refusedKinds.add(kindOf(first));
    }
    if (failed.length + doubtful.length === 0) this.#resetPause();
    else if (stored.length > 0) this.#endPauses();
    if (hopeless.length > 0) this.#giveUp(hopeless, text);
    if (failed.length > 0) this.#failed(failed, text, stored.length > 0);
    if (doubtful.length > 0) this.#leaveInDoubt(doubtful);
    // Of an adapter that was removed meanwhile the keys may be another's by now.
    if (stored.length > 0 && !this.#stopped) this.#leaveL1(stored);
    this.#core.commit();
    this.#core.signalRoom();
    this.onSettled(bytes);
  }

  /** The keys wait until somebody has asked the adapter for them. */
  #leaveInDoubt(keys: readonly number[]): void {
    this.failedObjects += keys.length;
    this.#queue.failed(keys);
    this.#queue.block(keys);
    if (!this.#paused) this.#pause();
    this.onDoubt(keys);
  }

  /** Tries again later: the keys alone where others of the batch went well, else nothing goes for a while. */
  #failed(keys: readonly number[], reason: string, othersWentWell: boolean): void {
    this.failedObjects += keys.length;
    const over = this.#queue.failed(keys);
    if (over.length > 0) this.#giveUp(over, reason);
    const again = keys.filter((key) => !over.includes(key));
    if (again.length === 0) return;
    if (othersWentWell) {
      this.#core.clock.after(RETRY_FIRST_MS, () => {
        for (const key of again) this.enqueue(key);
      });
      return;
    }
    for (const key of again) this.#queue.push(key);
    if (!this.#paused) this.#pause();
  }

  #giveUp(keys: readonly number[], reason: string): void {
    const awaited = keys.filter((key) => this.#queue.isAwaited(key));
    this.#queue.forget(keys);
    if (awaited.length === 0) return;
    this.givenUp += awaited.length;
    this.#core.log.warn("objects will not be stored in L2 and may be dropped from L1", {
      adapter: this.#adapter.id,
      objects: awaited.length,
      reason,
    });
    this.#core.record({ type: "l2.store.given_up", adapter: this.#adapter.number, keys: awaited, reason });
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
    if (this.#inFlight === 0 && this.#stopped) for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** Starts nothing more; resolves when nothing is in flight. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#endObserving();
    if (this.#inFlight === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle.push(resolve);
    });
  }
}

function hasOneOf(error: CacheError | undefined, codes: readonly CacheErrorCode[]): boolean {
  return error !== undefined && codes.some((code) => hasCode(error, code));
}

/** What a removal came to; null if the adapter has not settled when the call's own time is up. */
async function inTime(removal: Promise<Removal>, call: GuardedCall<Bitmap> | null): Promise<Removal | null> {
  const isOver = call?.outcome.then(
    () => nextTurn(),
    () => nextTurn(),
  );
  return isOver === undefined ? removal : Promise.race([removal, isOver.then(() => null)]);
}

/** An object of another length may be another node's: only who deletes it makes room. */
function isHopeless(error: CacheError | undefined): boolean {
  if (hasOneOf(error, HOPELESS)) return true;
  return hasOneOf(error, ["CONFLICT"]) && error?.details["reason"] === "other-length";
}

function firstMessage(failures: ReadonlyMap<number, CacheError>): string {
  return failures.values().next().value?.message ?? "";
}

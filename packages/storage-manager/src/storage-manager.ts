import { messageOf } from "@cache/contracts";
import type { AdapterSetup, AttachedAdapter } from "./controllers/attached-adapter.ts";
import { AdapterChanges } from "./controllers/adapter-changes.ts";
import { type AdapterUnit, L2Tier, type TierPorts } from "./controllers/l2-tier.ts";
import { PrefetchController } from "./controllers/prefetch-controller.ts";
import type { Core } from "./core.ts";
import type { CacheEvent } from "./events/definitions.ts";
import { Clients, type RegistrationRequest } from "./l1/clients.ts";
import { HandOuts } from "./l1/hand-outs.ts";
import { LockClock } from "./l1/lock-clock.ts";
import { Lookups } from "./l1/lookups.ts";
import { type PreparedRetrieve, Reads } from "./l1/reads.ts";
import type { ChunkRequest } from "./l1/requests.ts";
import { Room } from "./l1/room.ts";
import { type InlineChunk, type PreparedStoreAnswer, Writes } from "./l1/writes.ts";
import { endDeadTransfers, type RecoveryReport } from "./recovery.ts";
import { Housekeeping } from "./housekeeping.ts";
import { KvEvents } from "./kv-events/kv-events.ts";
import { Operator } from "./operator.ts";
import type { AdapterPlan } from "./state/adapter-changes.ts";
import { SLOT } from "./state/slot-table.ts";
import { statusOf, type StorageStatus } from "./status.ts";

const CLEAR_SLICE = 1_024;
const SWEEP_EVERY_MS = 1_000;
/** An orderly stop waits this long for work in flight. */
const STOP_MS_MAX = 30_000;

/**
 * The engine's heart: L1, its index and locks, the controllers that move objects between L1 and L2. All changes
 * are events of the journal; the caller ends each turn with `commit` before any answer leaves.
 */
export class StorageManager {
  readonly core: Core;
  readonly clients: Clients;
  readonly handOuts: HandOuts;
  readonly room: Room;
  readonly reads: Reads;
  readonly writes: Writes;
  readonly lookups: Lookups;
  readonly prefetch: PrefetchController;
  readonly kvEvents: KvEvents;
  readonly operator: Operator;
  readonly recoveryReport: RecoveryReport;
  readonly tier: L2Tier;
  /** Adapters come and go through it. */
  readonly changes: AdapterChanges;
  readonly #locks: LockClock;
  readonly #housekeeping: Housekeeping;
  #cancelSweep = (): void => {};
  #stopped = false;
  #stoppedInOrder = false;

  constructor(core: Core, report: RecoveryReport) {
    this.core = core;
    this.recoveryReport = report;
    this.room = new Room(core);
    this.tier = new L2Tier(core, this.room);
    this.clients = new Clients(core);
    this.handOuts = new HandOuts(core, this.clients);
    this.#locks = new LockClock(core);
    this.prefetch = new PrefetchController(core, this.room, () => this.tier.readers);
    this.changes = new AdapterChanges(core, this.tier, this.prefetch);
    this.lookups = new Lookups(core, this.#locks, this.prefetch);
    this.writes = new Writes(core, this.clients, this.handOuts, this.room);
    this.reads = new Reads(core, this.clients, this.handOuts);
    this.operator = new Operator({
      core,
      room: this.room,
      lookups: this.lookups,
      units: () => this.tier.units,
    });
    this.#housekeeping = new Housekeeping(core);
    this.kvEvents = new KvEvents(core);
    core.state.listener = {
      slotFreed: (offset, length) => core.space.freed(offset, length),
      tokenRecordDead: (segment, offset) => core.journal.side.markDead({ segment, offset }),
      storeAwaited: (key, mask) => this.tier.enqueueStores(key, mask),
      tokensBound: (key) => this.kvEvents.tokensBound(key),
      becameResident: (key) => this.kvEvents.becameResident(key),
      leftL1: (key) => this.kvEvents.leftL1(key),
    };
    this.prefetch.onLoaded = (cells, tokens) => this.writes.recordLoadedTokens(cells, tokens);
  }

  get adapters(): readonly AttachedAdapter[] {
    return this.tier.adapters;
  }

  /** The adapters with what works for them, in the same order. */
  get units(): readonly AdapterUnit[] {
    return this.tier.units;
  }

  /** Binds the adapters to the journal, opens them and takes up what was under way. */
  async attach(setups: readonly AdapterSetup[], ports: TierPorts, plan: AdapterPlan): Promise<void> {
    await this.tier.open(setups, ports, () => this.#endChanges(plan));
    endDeadTransfers(this.core, (number) => this.tier.writesOnlyFromEngine(number));
    this.tier.employ();
    this.#takeUp();
    this.lookups.recover();
    this.core.commit();
    this.tier.start();
    this.#scheduleSweep();
  }

  /** Changes that the command line has overtaken, and removals that the last process did not live to finish. */
  #endChanges({ dropped, unfinished }: AdapterPlan): void {
    const { state } = this.core;
    for (const { id, reason } of dropped) {
      this.core.log.warn("what was changed about an adapter while an engine ran counts no more", {
        adapter: id,
        reason,
      });
      this.core.record({ type: "adapter.change.dropped", id, reason });
    }
    for (const id of unfinished) {
      const ledger = state.ledgers.find((one) => one.id === id);
      if (ledger === undefined) continue;
      const forget = state.adapterChanges.get(id)?.forget ?? false;
      const reason = "the engine ended while it was being removed";
      this.core.log.info("an adapter was being removed: that is finished now", { adapter: id });
      this.core.record({ type: "adapter.removed", adapter: ledger.number, forget, reason });
    }
  }

  /** After a restart: stores that never settled, token records that are alive, locks whose time begins anew. */
  #takeUp(): void {
    const { state, journal } = this.core;
    const active = this.tier.openMask;
    const orphaned = new Map<number, number[]>();
    const refs: { segment: number; offset: number }[] = [];
    for (let slot = 0; slot < state.slots.numbers.bound; slot++) {
      if (state.slots.state.get(slot) === SLOT.free) continue;
      if (state.slots.locks.get(slot) > 0) this.#locks.startedAt(slot);
      if (state.slots.state.get(slot) !== SLOT.resident) continue;
      const key = state.slots.key.get(slot);
      const segment = state.keys.tokenSegment.get(key);
      if (segment !== 0) refs.push({ segment: segment - 1, offset: state.keys.tokenOffset.get(key) });
      const awaiting = state.slots.awaiting.get(slot);
      if (awaiting === 0) continue;
      this.tier.enqueueStores(key, awaiting & active);
      for (let adapter = 0; adapter < state.ledgers.length; adapter++) {
        if ((awaiting & ~active & (1 << adapter)) === 0) continue;
        const keys = orphaned.get(adapter) ?? [];
        keys.push(key);
        orphaned.set(adapter, keys);
      }
    }
    journal.side.setAlive(refs);
    for (const [adapter, keys] of orphaned) {
      this.core.record({
        type: "l2.store.given_up",
        adapter,
        keys,
        reason: "the adapter is not configured any more",
      });
    }
    this.handOuts.takeUp();
    for (const instance of state.clients.keys()) this.clients.liveness(instance);
  }

  /** True if answers wait for `fsync`: then end turns with `commitTurn`. */
  get repliesWaitForSync(): boolean {
    return this.core.journal.status().fsync === "always";
  }

  /** Ends a turn: true once its events are in the file and answers may leave. */
  async commitTurn(): Promise<boolean> {
    if (!this.core.commit()) return false;
    await this.core.journal.durable();
    return true;
  }

  /** The same where the journal's policy makes no answer wait. */
  commit(): boolean {
    return this.core.commit();
  }

  /** Registers an instance; false if the pool's name does not lead to our pool any more. */
  register(request: RegistrationRequest): { shmName: string; poolSize: number } {
    const { pool } = this.core;
    const offered = pool.shmName !== "" && pool.nameIsOurs();
    this.clients.register(request, offered);
    if (!offered) return { shmName: "", poolSize: 0 };
    return { shmName: pool.shmName, poolSize: pool.sizeBytes };
  }

  prepareStore(request: ChunkRequest, instance: bigint): PreparedStoreAnswer | Promise<PreparedStoreAnswer> {
    return this.writes.prepare(request, instance);
  }

  commitStore(
    request: ChunkRequest,
    instance: bigint,
    inline: readonly InlineChunk[] | null,
  ): boolean | Promise<boolean> {
    return inline === null
      ? this.writes.commit(request, instance)
      : this.writes.commitInline(request, instance, inline);
  }

  prepareRetrieve(request: ChunkRequest, instance: bigint): PreparedRetrieve | Promise<PreparedRetrieve> {
    return this.reads.prepare(request, instance);
  }

  commitRetrieve(request: ChunkRequest, instance: bigint): boolean {
    return this.reads.commit(request, instance);
  }

  /** Empties L1: what is locked or handed out stays unless `force`; what is handed out keeps its bytes in any case. */
  async clear(force: boolean): Promise<number> {
    const { state } = this.core;
    let cleared = 0;
    const bound = state.slots.numbers.bound;
    for (let from = 0; from < bound; from += CLEAR_SLICE) {
      const slots: number[] = [];
      let bytes = 0;
      for (let slot = from; slot < Math.min(bound, from + CLEAR_SLICE); slot++) {
        if (state.slots.state.get(slot) !== SLOT.resident) continue;
        if (!force && (state.slots.locks.get(slot) > 0 || state.slots.handOuts.get(slot) > 0)) continue;
        slots.push(slot);
        bytes += state.occupied(slot);
      }
      if (slots.length > 0) this.room.evictSlots(slots, bytes, "clear");
      cleared += slots.length;
      if (from + CLEAR_SLICE >= bound) break;
      this.core.commit();
      await new Promise((resolve) => setImmediate(resolve));
    }
    return cleared;
  }

  setQuota(cacheSalt: string, limitBytes: number): void {
    this.core.record({ type: "quota.set", cacheSalt, limitBytes });
    this.room.admit(cacheSalt, 1, 0);
    this.tier.checkCapacity();
  }

  removeQuota(cacheSalt: string): boolean {
    if (!this.core.state.quotas.has(cacheSalt)) return false;
    this.core.record({ type: "quota.removed", cacheSalt });
    return true;
  }

  #scheduleSweep(): void {
    this.#cancelSweep = this.core.clock.after(SWEEP_EVERY_MS, () => {
      if (this.#stopped) return;
      try {
        this.sweep();
      } catch (error) {
        this.core.log.error("a sweep failed", { error: messageOf(error) });
      }
      this.#scheduleSweep();
    });
  }

  /** Ends what time ends: locks, sessions, silent instances, hand-outs; watches the watermark. */
  sweep(): void {
    if (this.core.healthy) {
      this.#locks.sweep();
      this.lookups.sweep();
      this.clients.reap();
      this.handOuts.sweep();
      this.clients.forget((instance) => this.handOuts.isInUse(instance));
      this.room.keepWatermark();
      this.core.signalRoom();
      this.tier.wake();
    }
    this.core.commit();
    this.#housekeeping.tick();
  }

  status(): StorageStatus {
    return statusOf(this);
  }

  /** Healthy, or why not. */
  health(): { healthy: boolean; reason: string | null } {
    const { journal, pool } = this.core;
    if (journal.health.state !== "ok") return { healthy: false, reason: journal.health.cause.message };
    if (!pool.nameIsOurs()) {
      return {
        healthy: false,
        reason: `the name ${pool.path} does not lead to our pool any more; restart the engine`,
      };
    }
    const held = this.handOuts.held();
    if (held.tooMuch) {
      const instances = held.instances.map(({ instance }) => instance).join(", ");
      return {
        healthy: false,
        reason: `more than 10 % of L1 is held back for ${instances}; restart these workers`,
      };
    }
    return { healthy: true, reason: null };
  }

  onEvent(observe: (event: CacheEvent) => void): void {
    this.core.observe(observe);
  }

  async #withinStopTime(work: Promise<unknown>): Promise<void> {
    let cancel = (): void => {};
    const over = new Promise<void>((resolve) => {
      cancel = this.core.clock.after(STOP_MS_MAX, resolve);
    });
    await Promise.race([work, over]);
    cancel();
  }

  /** Stops in order: no new work, I/O in flight ends first, then the adapters close. The pool stays. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#cancelSweep();
    this.kvEvents.stop();
    this.writes.stop();
    // Closing an adapter ends what it does by a deadline of its own, so that nothing here waits for ever.
    const changed = this.changes.stop();
    const { closed, idle } = this.tier.stop();
    await Promise.all([closed, this.#withinStopTime(Promise.all([changed, this.prefetch.stop(), idle]))]);
    await this.#housekeeping.stop();
    if (!this.#stoppedInOrder) {
      this.#stoppedInOrder = true;
      if (this.core.healthy) this.core.record({ type: "engine.stopped", wallMs: Date.now() });
    }
    this.core.commit();
    this.core.end();
  }
}

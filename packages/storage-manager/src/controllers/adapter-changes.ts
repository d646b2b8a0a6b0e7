import { CacheError, hasCode, messageOf, objectKey, workerKvRank } from "@cache/contracts";
import type { Core } from "../core.ts";
import type { AttachedAdapter, AdapterSetup } from "./attached-adapter.ts";
import { type Copies, emptyAccount, giveUpStores, onlyCopiesOf } from "./account-slices.ts";
import type { AdapterUnit, L2Tier, RetiredAdapter } from "./l2-tier.ts";
import type { PrefetchController } from "./prefetch-controller.ts";

/** How often a drain looks whether it is over. */
const LOOK_EVERY_MS = 20;
/** Longest configuration of an added adapter, in bytes: the journal's texts end at 64 KiB. */
const CONFIG_BYTES_MAX = 32 * 1024;
/** Answers of a probe that say that the adapter cannot hold such a key: it is well all the same. */
const WELL_ALL_THE_SAME = ["AMBIGUOUS_NAME", "INVALID_KEY", "UNSUPPORTED", "INVALID_ARGUMENT"] as const;

/** What a drain came to. */
export interface DrainReport {
  /** Every store that waited was tried to its end; false: the time was up. */
  readonly drained: boolean;
  /** Objects that waited for this adapter and will not be stored there. */
  readonly givenUpStores: number;
  /** Objects that neither L1 nor another adapter has. */
  readonly onlyCopies: Copies;
}

/** What a removal came to. */
export interface RemovalReport extends DrainReport {
  /** Prefetches that were still using the adapter when the time was up: they went on without it. */
  readonly cutPrefetches: number;
  /** Operations that never settled: their buffers stay out of use until they do. */
  readonly stuckOperations: number;
}

/** The change that is under way. */
export interface ChangeUnderWay {
  readonly operation: "add" | "drain" | "remove";
  readonly id: string;
  readonly sinceMs: number;
}

/** How long, and what else. */
export interface RemovalOptions {
  /** Time for what is under way, in milliseconds; then it goes on without. */
  readonly timeoutMs: number;
  /** Drop the account, too: nothing is known of what the adapter holds if it comes back. */
  readonly forget: boolean;
}

/** Adds, drains and removes adapters while the engine serves: one change at a time, each an event of the journal. */
export class AdapterChanges {
  readonly #core: Core;
  readonly #tier: L2Tier;
  readonly #prefetch: PrefetchController;
  #underWay: ChangeUnderWay | null = null;
  #ended: Promise<unknown> = Promise.resolve();
  #stopped = false;
  /** Changes that were made, by operation. */
  readonly made = { add: 0, drain: 0, remove: 0 };
  /** Changes that failed. */
  failed = 0;

  constructor(core: Core, tier: L2Tier, prefetch: PrefetchController) {
    this.#core = core;
    this.#tier = tier;
    this.#prefetch = prefetch;
  }

  get underWay(): ChangeUnderWay | null {
    return this.#underWay;
  }

  /**
   * Adds an adapter: opened and probed, then asked and stored to like all others; it comes back at the next start.
   * If that fails, nothing of it stays, and nothing else comes to its place while its `open` still hangs.
   *
   * @param make makes the adapter; called once no other change is under way.
   * @param config its configuration as JSON, without secrets.
   * @throws CacheError `CONFLICT`, `LIMIT_REACHED`, `DEGRADED`, what `make` and the adapter throw.
   */
  add(id: string, make: () => Promise<AdapterSetup>, config: string): Promise<AdapterUnit> {
    return this.#exclusive("add", id, async () => {
      if (Buffer.byteLength(config) > CONFIG_BYTES_MAX) {
        throw new CacheError(
          "INVALID_CONFIG",
          `the configuration of '${id}' has more than ${CONFIG_BYTES_MAX} bytes; shorten it`,
        );
      }
      if (this.#find(id) !== undefined) {
        const text = `there is an adapter '${id}'; give the new one another id, or remove that one first`;
        throw new CacheError("CONFLICT", text);
      }
      const setup = { ...(await make()), added: true };
      const adapter = this.#prepare(setup);
      try {
        await this.#tier.openOne(adapter);
        await probe(adapter);
        if (this.#tier.beginsAnew(adapter))
          await emptyAccount(this.#core, adapter.number, "its account begins anew");
        this.#assertGoingOn();
      } catch (error) {
        await adapter.gate.close();
        this.#tier.retire({ adapter, store: null });
        throw error;
      }
      this.#core.record({ type: "adapter.added", id, base: setup.base ?? "", config });
      this.#tier.recordOpened(adapter);
      const unit = this.#tier.join(adapter);
      // It is there also if that cannot be written now.
      this.#tier.keep(unit);
      this.#commit(`adapter '${id}' is open`);
      this.#core.log.info("an adapter was added", { adapter: id, location: adapter.adapter.location });
      return unit;
    });
  }

  #prepare(setup: AdapterSetup): AttachedAdapter {
    const { location, capabilities } = setup.adapter;
    const sameData = ({ adapter: { adapter } }: RetiredAdapter): boolean =>
      capabilities.persistent && adapter.location === location;
    const holder = this.#tier.units.find(sameData);
    if (holder !== undefined) {
      const text = `adapter '${holder.adapter.id}' holds ${location} already; two on the same data would count it twice`;
      throw new CacheError("CONFLICT", text);
    }
    const { retired } = this.#tier;
    // Of one that never stored, only its state directory stands under the id.
    const sameId = ({ adapter, store }: RetiredAdapter): boolean =>
      adapter.id === setup.id && (store !== null || setup.stateDir !== null);
    const before = retired.find((unit) => sameId(unit) || sameData(unit));
    if (before !== undefined) {
      throw new CacheError(
        "CONFLICT",
        `operations of an adapter '${before.adapter.id}' that is gone have not settled: what they still do there would ` +
          "be taken for this one's; try again when GET /adapters does not list it, or restart the engine",
      );
    }
    const taken = new Set([...this.#tier.units, ...retired].map(({ adapter }) => adapter.number));
    return this.#tier.prepare(setup, this.#tier.numberFor(setup, taken));
  }

  /**
   * Ends storing to an adapter; what it holds is still loaded. What waits for it is stored or, once the time is up,
   * given up.
   *
   * @throws CacheError `INVALID_ARGUMENT` for an unknown id, `CONFLICT`, `DEGRADED`.
   */
  drain(id: string, timeoutMs: number): Promise<DrainReport> {
    return this.#exclusive("drain", id, async () => {
      const unit = this.#get(id);
      if (this.#core.state.adapterChanges.get(id)?.stage === "removing")
        throw new CacheError("CONFLICT", `adapter '${id}' is to be removed: remove it again`);
      return this.#drain(unit, this.#core.now() + timeoutMs, { removing: false, forget: false });
    });
  }

  async #drain(
    { adapter, store }: AdapterUnit,
    deadlineMs: number,
    kind: { readonly removing: boolean; readonly forget: boolean },
  ): Promise<DrainReport> {
    const { number, id, base } = adapter;
    this.#core.record({ type: "adapter.draining", adapter: number, base: base ?? "", ...kind });
    this.#commit(`adapter '${id}' takes no new stores`);
    const drained = await this.#until(deadlineMs, () => {
      store.wake();
      return store.queued === 0 && store.inFlight === 0;
    });
    const givenUpStores = await giveUpStores(this.#core, number, "the adapter takes no stores any more");
    const onlyCopies = await onlyCopiesOf(this.#core, number);
    this.#core.log.info("an adapter takes no new stores", {
      adapter: id,
      drained,
      givenUpStores,
      onlyCopies,
    });
    return { drained, givenUpStores, onlyCopies };
  }

  /**
   * Drains an adapter, waits for what is loaded from it, closes it. Its data stays where it is.
   *
   * @throws CacheError `INVALID_ARGUMENT` for an unknown id, `CONFLICT`, `DEGRADED`.
   */
  remove(id: string, { timeoutMs, forget }: RemovalOptions): Promise<RemovalReport> {
    return this.#exclusive("remove", id, async () => {
      const unit = this.#get(id);
      const { adapter, store, keeper } = unit;
      const deadlineMs = this.#core.now() + timeoutMs;
      // What does not outlive its adapter has left nothing to account for.
      const forgets = forget || !adapter.adapter.capabilities.persistent;
      const drain = await this.#drain(unit, deadlineMs, { removing: true, forget: forgets });
      this.#tier.endReading(adapter);
      await this.#until(deadlineMs, () => this.#prefetch.usersOf(adapter) === 0);
      const cutPrefetches = this.#prefetch.usersOf(adapter);
      keeper.stop();
      // In the background: a store that never settles must not hold up the removal.
      void store.stop();
      const { stuck, error } = await adapter.gate.close();
      if (error !== null)
        this.#core.log.warn("an adapter did not close in order", { adapter: id, error: error.message });
      if (forgets) await emptyAccount(this.#core, adapter.number, "the adapter was removed");
      const reason = "an operator removed it";
      this.#core.record({ type: "adapter.removed", adapter: adapter.number, forget: forgets, reason });
      this.#tier.leave(unit);
      this.#core.signalRoom();
      this.#commit(`adapter '${id}' is removed`);
      const report = { ...drain, cutPrefetches, stuckOperations: stuck.length };
      this.#core.log.info("an adapter was removed", { adapter: id, ...report });
      return report;
    });
  }

  #find(id: string): AdapterUnit | undefined {
    return this.#tier.units.find(({ adapter }) => adapter.id === id);
  }

  #get(id: string): AdapterUnit {
    const unit = this.#find(id);
    if (unit !== undefined) return unit;
    const ids = this.#tier.adapters.map((one) => `'${one.id}'`).join(", ") || "none";
    throw new CacheError("INVALID_ARGUMENT", `there is no adapter '${id}'; there are: ${ids}`);
  }

  async #exclusive<T>(
    operation: ChangeUnderWay["operation"],
    id: string,
    change: () => Promise<T>,
  ): Promise<T> {
    const before = this.#underWay;
    if (before !== null) {
      const seconds = Math.round((this.#core.now() - before.sinceMs) / 1_000);
      throw new CacheError(
        "CONFLICT",
        `another change is under way: ${before.operation} of '${before.id}', since ${seconds} s; one at a time`,
      );
    }
    this.#assertGoingOn();
    this.#underWay = { operation, id, sinceMs: this.#core.now() };
    const work = change();
    this.#ended = work.catch(() => {});
    try {
      const result = await work;
      this.made[operation]++;
      return result;
    } catch (error) {
      this.failed++;
      this.#core.log.warn("a change of the adapters failed", {
        operation,
        adapter: id,
        error: messageOf(error),
      });
      throw error;
    } finally {
      this.#underWay = null;
    }
  }

  /** @throws CacheError if the engine stops or cannot write its journal. */
  #assertGoingOn(): void {
    if (this.#stopped)
      throw new CacheError("ADAPTER_CLOSED", "the engine stops: adapters are not changed any more");
    this.#core.assertHealthy();
  }

  /** Writes what is recorded. It happened all the same if that fails, and is written once the file can be. */
  #commit(what: string): void {
    this.#core.commit();
    if (this.#core.healthy) return;
    throw new CacheError(
      "DEGRADED",
      `${what}, but the journal cannot be written: a restart before it can would not know of it; see GET /healthcheck`,
    );
  }

  /** Waits until something is so; false if the time is up first. */
  async #until(deadlineMs: number, isSo: () => boolean): Promise<boolean> {
    while (!isSo()) {
      this.#assertGoingOn();
      const leftMs = deadlineMs - this.#core.now();
      if (leftMs <= 0) return false;
      await new Promise<void>((resolve) => {
        this.#core.clock.after(Math.min(leftMs, LOOK_EVERY_MS), resolve);
      });
    }
    return true;
  }

  /** No change begins any more; resolves once the one under way has ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#ended;
  }
}

/** Asks an open adapter for an object that nobody stores: it must answer. */
async function probe({ id, adapter, gate }: AttachedAdapter): Promise<void> {
  const key = objectKey({
    chunkHash: new Uint8Array(32),
    modelName: "cache-engine-probe",
    kvRank: workerKvRank(1, 0),
    objectGroupId: 0,
    cacheSalt: "",
  });
  const call = gate.lookupAndLock([{ key, byteLength: 1 }]);
  try {
    const found = await call.outcome;
    if (found.has(0)) gate.unlock([key]);
  } catch (error) {
    if (!WELL_ALL_THE_SAME.some((code) => hasCode(error, code))) throw error;
  }
  if (adapter.status().isHealthy) return;
  const text = `adapter '${id}' opened and says that it is not well; see its status in the log, mend its backend`;
  throw new CacheError("BACKEND_UNAVAILABLE", text);
}

import { type AdapterLog, CacheError, messageOf } from "@cache/contracts";
import type { Core } from "../core.ts";
import type { Room } from "../l1/room.ts";
import { type GateOptions, guardAdapter } from "../l2-gate/index.ts";
import type { AdapterSetup, AttachedAdapter } from "./attached-adapter.ts";
import { L2Keeper } from "./l2-keeper.ts";
import { ObjectBuffers } from "./object-buffers.ts";
import { StoreController } from "./store-controller.ts";

/** Adapters that one journal may know: one bit each in a slot's store mask. */
const ADAPTERS_MAX = 32;

/** An open adapter and what works for it. */
export interface AdapterUnit {
  readonly adapter: AttachedAdapter;
  readonly store: StoreController;
  readonly keeper: L2Keeper;
}

/** How adapters are opened. */
export interface TierPorts {
  readonly gate: Partial<GateOptions>;
  readonly log: (id: string) => AdapterLog;
}

/** The adapters of an engine, in order of preference, each with its controllers. */
export class L2Tier {
  readonly #core: Core;
  readonly #room: Room;
  #units: readonly AdapterUnit[] = [];
  #adapters: readonly AttachedAdapter[] = [];

  constructor(core: Core, room: Room) {
    this.#core = core;
    this.#room = room;
  }

  /** Replaced, never changed: a list that somebody holds stays as it is. */
  get units(): readonly AdapterUnit[] {
    return this.#units;
  }

  get adapters(): readonly AttachedAdapter[] {
    return this.#adapters;
  }

  /** Numbers the adapters, opens them and records that: after it their accounts are those of the journal. */
  async open(setups: readonly AdapterSetup[], ports: TierPorts): Promise<void> {
    const adapters = this.#numbered(setups, ports);
    await openAll(adapters, ports);
    // Only what really opened changes an account: a mistyped path must not end the right one's.
    for (const adapter of adapters) this.#recordOpened(adapter);
    this.#adapters = adapters;
  }

  #numbered(setups: readonly AdapterSetup[], { gate }: TierPorts): AttachedAdapter[] {
    const { ledgers } = this.#core.state;
    let next = ledgers.length;
    const adapters = setups.map((setup) => {
      const number = ledgers.find(({ id }) => id === setup.id)?.number ?? next++;
      const buffers = new ObjectBuffers(this.#core);
      return { ...setup, number, gate: guardAdapter(setup.id, setup.adapter, gate), buffers };
    });
    if (next <= ADAPTERS_MAX) return adapters;
    throw new CacheError(
      "LIMIT_REACHED",
      `this state directory would know ${next} adapters, at most ${ADAPTERS_MAX}; start with a new one (--state-dir)`,
    );
  }

  #recordOpened({ id, number, adapter }: AttachedAdapter): void {
    const known = this.#core.state.ledgers[number];
    const { location } = adapter;
    const reset = known !== undefined && known.location !== location;
    if (reset) {
      this.#core.log.warn("an adapter has another location than before: its accounting begins anew", {
        adapter: id,
        before: known.location,
        now: location,
      });
    }
    this.#core.record({ type: "adapter.opened", adapter: number, id, location, reset });
  }

  /** Gives each adapter its controllers; what is stored from now on goes to them. */
  employ(): void {
    this.#units = this.#adapters.map((adapter) => this.#unitOf(adapter));
  }

  #unitOf(adapter: AttachedAdapter): AdapterUnit {
    const store = new StoreController(this.#core, adapter, this.#room);
    const keeper = new L2Keeper(this.#core, adapter);
    store.onSettled = (bytes) => keeper.noteStored(bytes);
    store.onDoubt = (keys) => keeper.doubt(keys);
    keeper.collectDoubt();
    return { adapter, store, keeper };
  }

  /** Begins what runs beside the clients' work: settling doubts and listing. */
  start(): void {
    for (const unit of this.#units) this.#keep(unit);
  }

  #keep({ adapter, keeper }: AdapterUnit): void {
    keeper.start().catch((error: unknown) => {
      this.#core.log.error("the account of an adapter is not kept any more", {
        adapter: adapter.id,
        error: messageOf(error),
      });
    });
  }

  /** An object waits for its store to the adapters of the mask. */
  enqueueStores(key: number, mask: number): void {
    for (const { adapter, store } of this.#units) {
      if ((mask & (1 << adapter.number)) !== 0) store.enqueue(key);
    }
  }

  /** The store masks of all open adapters together. */
  get openMask(): number {
    return this.#adapters.reduce((mask, { number }) => (mask | (1 << number)) >>> 0, 0);
  }

  /** Whether the open adapter of this number promises that only this process writes into buffers of loads. */
  writesOnlyFromEngine(number: number): boolean {
    const adapter = this.#adapters.find((one) => one.number === number)?.adapter;
    return adapter?.capabilities.writesOnlyFromEngineProcess ?? false;
  }

  /** Some adapter may take stores or hold more again: looks at all. */
  wake(): void {
    for (const { store } of this.#units) store.wake();
  }

  checkCapacity(): void {
    for (const { keeper } of this.#units) keeper.checkCapacity();
  }

  /** Starts nothing more and closes the adapters, each by a deadline of its own. `idle`: no store is in flight. */
  stop(): { readonly closed: Promise<void>; readonly idle: Promise<unknown> } {
    for (const { keeper } of this.#units) keeper.stop();
    const closed = Promise.all(this.#adapters.map(({ gate }) => gate.close())).then((reports) => {
      for (const report of reports) {
        if (report.stuck.length > 0)
          this.#core.log.error("operations of an adapter never ended", { ...report });
      }
    });
    return { closed, idle: Promise.all(this.#units.map(({ store }) => store.stop())) };
  }
}

/** Opens all adapters; if one cannot be opened, closes the others and says why. */
async function openAll(adapters: readonly AttachedAdapter[], { log }: TierPorts): Promise<void> {
  const opened = await Promise.allSettled(
    adapters.map(({ id, stateDir, gate }) => gate.open({ id, stateDir, log: log(id) })),
  );
  const failure = opened.find((result) => result.status === "rejected");
  if (failure === undefined) return;
  await Promise.all(adapters.map(({ gate }) => gate.close()));
  throw failure.reason;
}

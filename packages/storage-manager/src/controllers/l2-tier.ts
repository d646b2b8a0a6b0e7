import { type AdapterLog, CacheError, isCacheError, messageOf } from "@cache/contracts";
import type { Core } from "../core.ts";
import { WRITER } from "../events/definitions.ts";
import type { Room } from "../l1/room.ts";
import { type GateOptions, guardAdapter } from "../l2-gate/index.ts";
import type { Ledger } from "../state/ledger.ts";
import type { AdapterSetup, AttachedAdapter } from "./attached-adapter.ts";
import { L2Keeper } from "./l2-keeper.ts";
import { ObjectBuffers } from "./object-buffers.ts";
import { OutageLog } from "./outage-log.ts";
import { StoreController } from "./store-controller.ts";

/** Adapters that one journal may know: one bit each in a slot's store mask. */
const ADAPTERS_MAX = 32;

/** An open adapter and what works for it. */
export interface AdapterUnit {
  readonly adapter: AttachedAdapter;
  readonly store: StoreController;
  readonly keeper: L2Keeper;
}

/** An adapter that is no part of the tier any more, or never became one. */
export interface RetiredAdapter {
  readonly adapter: AttachedAdapter;
  /** Null if nothing was ever stored to it. */
  readonly store: StoreController | null;
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
  #ports: TierPorts | null = null;
  #units: readonly AdapterUnit[] = [];
  #adapters: readonly AttachedAdapter[] = [];
  #readers: readonly AttachedAdapter[] = [];
  /** Those that may not have settled: their numbers and locations are not given to others. */
  #retired: RetiredAdapter[] = [];

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

  /** Those that are asked for objects. */
  get readers(): readonly AttachedAdapter[] {
    return this.#readers;
  }

  /** Adapters that were removed, or could not be added, with operations that have not settled. */
  get retired(): readonly RetiredAdapter[] {
    this.#retired = this.#retired.filter(isUnsettled);
    return this.#retired;
  }

  /**
   * Numbers the adapters, opens them and records that: after it their accounts are those of the journal.
   *
   * @param whenOpen records what must stand before the openings.
   */
  async open(setups: readonly AdapterSetup[], ports: TierPorts, whenOpen: () => void): Promise<void> {
    this.#ports = ports;
    const taken = new Set<number>();
    // Those that have a number keep it: only then may others take what is left.
    const known = setups.filter(({ id }) => this.#ledgerOf(id) !== undefined);
    const numbers = new Map<AdapterSetup, number>();
    for (const setup of [...known, ...setups.filter((one) => !known.includes(one))]) {
      const number = this.numberFor(setup, taken);
      taken.add(number);
      numbers.set(setup, number);
    }
    assertApart(setups);
    const adapters = setups.map((setup) => this.prepare(setup, numbers.get(setup) as number));
    await openAll(adapters, ports);
    // Only what really opened changes an account: a mistyped path must not end the right one's.
    whenOpen();
    for (const adapter of adapters) this.recordOpened(adapter);
    this.#adapters = adapters;
    this.#readers = adapters;
  }

  #ledgerOf(id: string): Ledger | undefined {
    return this.#core.state.ledgers.find((ledger) => ledger.id === id);
  }

  /**
   * The number of an adapter in the journal: its own, that of the account of the same data, a new one, or that of
   * the smallest account without an adapter.
   *
   * @param taken numbers that are not free.
   * @throws CacheError `LIMIT_REACHED`.
   */
  numberFor({ id, adapter }: AdapterSetup, taken: ReadonlySet<number>): number {
    const { ledgers } = this.#core.state;
    const own = this.#ledgerOf(id);
    if (own !== undefined) return own.number;
    const free = ledgers.filter((ledger) => !ledger.active && !taken.has(ledger.number));
    const { persistent } = adapter.capabilities;
    const same = free.find(({ location }) => persistent && location === adapter.location);
    if (same !== undefined) return same.number;
    const next = Math.max(ledgers.length, ...[...taken].map((number) => number + 1));
    if (next < ADAPTERS_MAX) return next;
    const [least] = free
      .filter(({ number }) => !this.#isInUse(number))
      .sort((a, b) => a.storedCount - b.storedCount);
    if (least !== undefined) return least.number;
    throw new CacheError(
      "LIMIT_REACHED",
      `there are ${ADAPTERS_MAX} adapters, and no number is free for '${id}'; remove one`,
    );
  }

  /** True if a load of an earlier process, or an operation of a removed adapter, may still be under way. */
  #isInUse(number: number): boolean {
    if (this.retired.some(({ adapter }) => adapter.number === number)) return true;
    for (const { writer, adapter } of this.#core.state.transfers.values())
      if (writer === WRITER.load && adapter === number + 1) return true;
    return false;
  }

  /** An adapter behind its gate, not yet open. */
  prepare(setup: AdapterSetup, number: number): AttachedAdapter {
    const outage = new OutageLog(this.#core, setup.id, setup.adapter.location);
    const gate = guardAdapter(setup.id, setup.adapter, {
      ...this.#ports?.gate,
      onTrouble: (lastError) => outage.began(lastError),
      onRecovered: () => outage.seemsOver(),
    });
    return { ...setup, number, gate, buffers: new ObjectBuffers(this.#core) };
  }

  openOne({ id, stateDir, gate }: AttachedAdapter): Promise<void> {
    return gate.open({ id, stateDir, log: (this.#ports as TierPorts).log(id) });
  }

  /** True if the account under this number is of other data than the adapter's. */
  beginsAnew({ id, number, adapter }: AttachedAdapter): boolean {
    const known = this.#core.state.ledgers[number];
    if (known === undefined) return false;
    if (known.location !== adapter.location) return true;
    return known.id !== id && !adapter.capabilities.persistent;
  }

  recordOpened(attached: AttachedAdapter): void {
    const { id, number, adapter } = attached;
    const reset = this.beginsAnew(attached);
    const known = this.#core.state.ledgers[number];
    if (reset && known?.id === id) {
      this.#core.log.warn("an adapter has another location than before: its accounting begins anew", {
        adapter: id,
        before: known.location,
        now: adapter.location,
      });
    }
    this.#core.record({ type: "adapter.opened", adapter: number, id, location: adapter.location, reset });
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

  /** Takes in an adapter whose opening is recorded: it is asked and stored to from now on. */
  join(adapter: AttachedAdapter): AdapterUnit {
    const unit = this.#unitOf(adapter);
    this.#units = [...this.#units, unit];
    this.#adapters = [...this.#adapters, adapter];
    this.#readers = [...this.#readers, adapter];
    return unit;
  }

  /** From now on no lookup asks this adapter. */
  endReading(adapter: AttachedAdapter): void {
    this.#readers = this.#readers.filter((one) => one !== adapter);
  }

  /** Lets an adapter go that is closed, and whose removal is recorded. */
  leave(unit: AdapterUnit): void {
    this.endReading(unit.adapter);
    this.#units = this.#units.filter((one) => one !== unit);
    this.#adapters = this.#adapters.filter((one) => one !== unit.adapter);
    this.retire(unit);
  }

  /** Remembers an adapter that was closed for as long as something of it is under way. */
  retire(retired: RetiredAdapter): void {
    if (isUnsettled(retired)) this.#retired = [...this.#retired, retired];
  }

  /** Begins what runs beside the clients' work: settling doubts and listing. */
  start(): void {
    for (const unit of this.#units) this.keep(unit);
  }

  keep({ adapter, keeper }: AdapterUnit): void {
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

/** True while an operation of the adapter may touch memory or tell what it stored, or its open or close may write. */
function isUnsettled({ adapter, store }: RetiredAdapter): boolean {
  if (adapter.gate.isClosing) return true;
  const { stuck, inFlight } = adapter.gate.status();
  if (store !== null && store.inFlight > 0) return true;
  return stuck.operations > 0 || Object.values(inFlight).some((count) => count > 0);
}

/** @throws CacheError `INVALID_CONFIG` if two adapters are on the same data, which would count it twice. */
function assertApart(setups: readonly AdapterSetup[]): void {
  const byLocation = new Map<string, string>();
  for (const { id, adapter } of setups) {
    if (!adapter.capabilities.persistent) continue;
    const other = byLocation.get(adapter.location);
    if (other !== undefined) {
      throw new CacheError(
        "INVALID_CONFIG",
        `adapters '${other}' and '${id}' are both on ${adapter.location}, and would count the same data twice; leave one out`,
      );
    }
    byLocation.set(adapter.location, id);
  }
}

/** Opens all adapters; if one cannot be opened, closes the others and says why. */
async function openAll(adapters: readonly AttachedAdapter[], { log }: TierPorts): Promise<void> {
  const opened = await Promise.allSettled(
    adapters.map(({ id, stateDir, gate }) => gate.open({ id, stateDir, log: log(id) })),
  );
  const failed = opened.findIndex((result) => result.status === "rejected");
  if (failed < 0) return;
  await Promise.all(adapters.map(({ gate }) => gate.close()));
  const { reason } = opened[failed] as PromiseRejectedResult;
  throw adapters[failed]?.added === true ? ofAdded(adapters[failed].id, reason) : reason;
}

/** The error of an adapter that no command line names: it says how to start without it. */
export function ofAdded(id: string, error: unknown): CacheError {
  const text =
    `adapter '${id}' was added while an engine ran on this state and cannot be opened: ${messageOf(error)}; ` +
    "mend that, or start once with --runtime-adapters forget: the command line's adapters alone";
  return new CacheError(codeOf(error), text, { cause: error });
}

function codeOf(error: unknown): CacheError["code"] {
  return isCacheError(error) ? error.code : "BACKEND_UNAVAILABLE";
}

import { createHash } from "node:crypto";
import { type AdapterLog, type L1MemoryDesc, messageOf } from "@cache/contracts";
import type { Journal, JournalRecovery } from "@cache/journal";
import { createL1Allocator } from "@cache/l1-memory";
import type { AdapterSetup } from "./controllers/attached-adapter.ts";
import { ofAdded } from "./controllers/l2-tier.ts";
import { Core, type CoreLog } from "./core.ts";
import { L1Space } from "./l1/space.ts";
import type { GateOptions } from "./l2-gate/index.ts";
import { type Clock, DEFAULT_OPTIONS, type StorageManagerOptions, systemClock } from "./options.ts";
import { foldJournal, type OpenPool, openPoolFor, rangesInUse } from "./recovery.ts";
import { type AdapterPlan, planAdapters } from "./state/adapter-changes.ts";
import type { CacheState } from "./state/cache-state.ts";
import { StorageManager } from "./storage-manager.ts";

/** Views of one mapping end here on Node 20; no object crosses it. */
const VIEW_BYTES = 4 * 1024 * 1024 * 1024;

/** What {@link openStorageManager} needs. */
export interface StorageManagerSetup {
  readonly journal: Journal;
  readonly recovery: JournalRecovery;
  readonly openPool: OpenPool;
  /** Makes the configured adapters, in order of preference; does no I/O. */
  readonly makeAdapters: (l1: L1MemoryDesc) => readonly AdapterSetup[];
  /** Makes an adapter that was added while an earlier engine ran, from its configuration (JSON). */
  readonly makeAdded?: (id: string, config: string, l1: L1MemoryDesc) => Promise<AdapterSetup>;
  /** What operators changed about the adapters of earlier engines on this state: default `keep`. */
  readonly adapterChanges?: "keep" | "forget";
  readonly options?: Partial<StorageManagerOptions>;
  readonly gate?: Partial<GateOptions>;
  readonly clock?: Clock;
  readonly log: CoreLog;
  /**
   * Called at once if the state cannot be trusted any more. The process must end then and there, without an orderly
   * stop that would write the broken batch; its restart folds the journal.
   */
  readonly onBroken?: (error: Error) => void;
  readonly adapterLog: (id: string) => AdapterLog;
}

/** 16 hex digits that a cache identity adds to the model name at rest; "" for none. */
export function identitySuffix(cacheIdentity: string): string {
  if (cacheIdentity === "") return "";
  return `+${createHash("sha256").update(cacheIdentity).digest("hex").slice(0, 16)}`;
}

/**
 * Folds the journal, opens the pool, opens the adapters: after it the engine can answer.
 *
 * @throws CacheError `JOURNAL_DAMAGED`, what `openPool` and the adapters' `open` throw, `LIMIT_REACHED`.
 */
export async function openStorageManager(setup: StorageManagerSetup): Promise<StorageManager> {
  const { journal, recovery, log } = setup;
  const wanted = { ...DEFAULT_OPTIONS, ...setup.options };
  const options = { ...wanted, tokenRecords: wanted.tokenRecords && wanted.kvEventLogSize > 0 };
  const { state, records } = foldJournal(recovery);
  const cleanStop = state.cleanStop;
  const { pool, emptyBecause } = await openPoolFor(state, recovery, setup.openPool);
  const { identity } = pool;
  const space = new L1Space(
    createL1Allocator({ capacityBytes: 0, alignBytes: identity.alignBytes, viewBytes: VIEW_BYTES }),
  );
  const core = new Core({
    state,
    journal,
    pool,
    space,
    options,
    identitySuffix: identitySuffix(options.cacheIdentity),
    clock: setup.clock ?? systemClock,
    log,
    onBroken: setup.onBroken ?? (() => {}),
  });
  if (emptyBecause !== null) recordNewPool(core, emptyBecause);
  core.record({ type: "engine.started", wallMs: Date.now(), bootId: identity.bootId, cleanStop });
  const reserving = reservePages(core);
  // An old pool has its pages; objects in it need them all before anything is handed out.
  if (emptyBecause === null) {
    await reserving;
    if (pool.reservedBytes > space.capacityBytes) space.allocator.grow(pool.reservedBytes);
    space.allocator.rebuild(rangesInUse(state));
  }
  const manager = new StorageManager(core, {
    objects: state.l1.residentCount,
    reattached: emptyBecause === null,
    emptyBecause,
    replayedRecords: records,
    tornBytes: recovery.tornBytes,
    damage: recovery.damage === null ? null : `${recovery.damage.segment} at byte ${recovery.damage.offset}`,
    cleanStop,
  });
  const configured = setup.makeAdapters(pool.desc);
  const plan = planOf(setup, configured, state);
  const added = await makeAdded(setup, plan, configured, pool.desc);
  const setups = [...configured.filter(({ id }) => !plan.without.has(id)), ...added];
  await manager.attach(setups, { gate: setup.gate ?? {}, log: setup.adapterLog }, plan);
  return manager;
}

/** Which adapters to open: the command line's and the changes that earlier engines took. */
function planOf(
  { adapterChanges }: StorageManagerSetup,
  configured: readonly AdapterSetup[],
  state: CacheState,
): AdapterPlan {
  const changes = [...state.adapterChanges.values()];
  if (adapterChanges === "forget") {
    const dropped = changes.map(({ id }) => ({ id, reason: "--runtime-adapters forget" }));
    return { without: new Set(), added: [], unfinished: [], dropped };
  }
  return planAdapters(
    configured.map(({ id, base }) => ({ id, base: base ?? "" })),
    changes,
  );
}

async function makeAdded(
  setup: StorageManagerSetup,
  plan: AdapterPlan,
  configured: readonly AdapterSetup[],
  l1: L1MemoryDesc,
): Promise<AdapterSetup[]> {
  const setups: AdapterSetup[] = [];
  for (const { id, config } of plan.added) {
    try {
      if (setup.makeAdded === undefined) throw new TypeError("nobody here makes adapters that were added");
      const base = configured.find((one) => one.id === id)?.base ?? "";
      setups.push({ ...(await setup.makeAdded(id, config, l1)), base, added: true });
    } catch (error) {
      throw ofAdded(id, error);
    }
  }
  return setups;
}

function recordNewPool(core: Core, reason: string): void {
  const { poolId, bootId, device, inode, sizeBytes, alignBytes } = core.pool.identity;
  core.record({ type: "l1.pool.created", poolId, bootId, device, inode, sizeBytes, alignBytes, reason });
}

/** Reserves the pool's pages in the background; what is reserved may be handed out. Never rejects. */
async function reservePages(core: Core): Promise<void> {
  const { pool, space, log } = core;
  try {
    await pool.reserve((reservedBytes) => {
      if (reservedBytes > space.capacityBytes) space.allocator.grow(reservedBytes);
      core.signalRoom();
    });
  } catch (error) {
    log.error("the pool's pages could not all be reserved", { error: messageOf(error) });
  }
}

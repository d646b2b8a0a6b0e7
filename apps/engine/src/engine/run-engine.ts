import { mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type AdapterLog, CacheError, hasCode, type L1MemoryDesc } from "@cache/contracts";
import { type Journal, openJournal } from "@cache/journal";
import { bulkCopy } from "@cache/libc";
import { type L1Pool, openL1Pool } from "@cache/l1-memory";
import { type RpcServer, startRpcServer } from "@cache/lmcache-wire";
import {
  type AdapterSetup,
  type OpenPool,
  openStorageManager,
  type StorageManager,
} from "@cache/storage-manager";
import type { ResolvedAdapter } from "../adapters/resolve-adapters.ts";
import type { EngineConfig } from "../config/engine-config.ts";
import type { EngineContext, EngineView, RunEngine, RunningEngine } from "../engine-seam.ts";
import { CacheCounters } from "../metrics/cache-counters.ts";
import { engineHandlers } from "./handlers.ts";
import { gateOptions, managerOptions } from "./manager-options.ts";
import { journalDirectory, stateIsTaken } from "./state-lock.ts";
import { POOL_NAME_FILE } from "../config/state-directory.ts";
import { engineView } from "./engine-view.ts";

/** Exit status of an engine that found its own state wrong; a supervisor starts it again. */
const BROKEN_STATE_EXIT = 70;

/** Composes journal, pool, storage manager and RPC server into a running engine; takes all down if one fails. */
export const runEngine: RunEngine = async (config, context) => {
  try {
    return await compose(config, context, null);
  } catch (error) {
    if (!hasCode(error, "JOURNAL_DAMAGED") || config.state.directory === null) throw error;
    // The records are whole and do not fit together: keep them for a look, start without them.
    const keptAs = `${journalDirectory(config.state.directory)}.damaged-${Date.now()}`;
    await rename(journalDirectory(config.state.directory), keptAs);
    context.log.error("the journal could not be used and is kept aside; L1 starts empty, L2 is listed anew", {
      keptAs,
      cause: error.message,
    });
    return await compose(config, context, `the journal did not fit together and is kept as ${keptAs}`);
  }
};

async function compose(
  config: EngineConfig,
  context: EngineContext,
  setAside: string | null,
): Promise<RunningEngine> {
  const directory = config.state.directory === null ? null : journalDirectory(config.state.directory);
  context.onPhase?.("reading the journal");
  const { journal, recovery } = await openJournal({
    directory,
    fsync: config.journalFsync,
    onHealth: (health) => {
      if (health.state === "ok") context.log.info("the journal can be written again");
      else {
        const cause = health.cause.message;
        context.log.error("the journal cannot be written: nothing new is handed out", { cause });
      }
    },
  }).catch((error: unknown) => {
    throw hasCode(error, "LOCKED_BY_OTHER_PROCESS") ? stateIsTaken(config, error) : error;
  });
  let pool: L1Pool | null = null;
  let manager: StorageManager | null = null;
  try {
    const openPool: OpenPool = async (expected, checkPosition) => {
      pool = await openL1Pool({ ...poolOptions(config, journal.id), expected, checkPosition });
      return pool;
    };
    context.onPhase?.("taking up state, pool and adapters");
    const stateDirs = await adapterDirectories(config, context.adapters);
    manager = await openStorageManager({
      journal,
      recovery,
      openPool,
      makeAdapters: (l1) => makeAdapters(context.adapters, l1, stateDirs),
      options: managerOptions(config),
      gate: gateOptions(config),
      log: context.log,
      adapterLog: (id) => withId(context.log, id),
      onBroken: () => process.exit(BROKEN_STATE_EXIT),
    });
    await notePoolName(config);
    // Before any client comes: the counters begin with the engine.
    const counters = new CacheCounters(manager, config.http.metricsSaltLabel);
    const rpc = await startRpcServer({
      host: config.rpc.host,
      port: config.rpc.port,
      handlers: engineHandlers(manager, config.chunkSize),
      chunkSize: config.chunkSize,
      poolSizeBytes: config.l1.sizeBytes,
      limits: { sessionsMax: config.rpc.sessionsMax, sessionTtlSeconds: config.rpc.sessionTtlMs / 1_000 },
      copy: bulkCopy(),
      log: context.log,
    });
    const view = engineView({ config, context, manager, rpc, counters });
    return running(config, view, journal, manager, rpc, setAside);
  } catch (error) {
    await manager?.stop();
    // A pool that this start made holds nothing yet.
    const opened = pool as L1Pool | null;
    await opened?.close({ keep: opened.reattached && config.state.directory !== null });
    await journal.close();
    throw error;
  }
}

/** For `purge`: which pool belongs to this state directory. */
async function notePoolName(config: EngineConfig): Promise<void> {
  if (config.state.directory === null) return;
  await writeFile(join(config.state.directory, POOL_NAME_FILE), `${config.l1.shmName}\n`, { mode: 0o600 });
}

function poolOptions(config: EngineConfig, journalId: string) {
  return {
    shmName: config.l1.shmName,
    sizeBytes: config.l1.sizeBytes,
    alignBytes: config.l1.alignBytes,
    mode: config.l1.shmMode,
    ...(config.l1.shmGroup === null ? {} : { group: config.l1.shmGroup }),
    journalId,
  };
}

/** A directory for each adapter that keeps files of its own. */
async function adapterDirectories(
  config: EngineConfig,
  adapters: readonly ResolvedAdapter[],
): Promise<ReadonlyMap<string, string>> {
  const directories = new Map<string, string>();
  if (config.state.directory === null) return directories;
  for (const { spec } of adapters)
    directories.set(spec.id, join(config.state.directory, "adapters", spec.id));
  // Whether an adapter needs its directory is known only once it is made; an empty one does no harm.
  for (const directory of directories.values()) await mkdir(directory, { recursive: true, mode: 0o700 });
  return directories;
}

function makeAdapters(
  adapters: readonly ResolvedAdapter[],
  l1: L1MemoryDesc,
  stateDirs: ReadonlyMap<string, string>,
): AdapterSetup[] {
  return adapters.map(({ spec, registration }, index) => {
    const adapter = registration.create(spec.own, l1);
    const { capabilities } = adapter;
    const where = `--l2-adapter #${index + 1} ('${spec.id}')`;
    if (capabilities.l1Registration === "required" && l1.ptr === null) {
      throw new CacheError(
        "UNSUPPORTED",
        `${where} needs a mapped L1 and this engine has none; install koffi and keep shared memory on`,
      );
    }
    const stateDir = capabilities.needsStateDir ? (stateDirs.get(spec.id) ?? null) : null;
    if (capabilities.needsStateDir && stateDir === null) {
      throw new CacheError(
        "INVALID_CONFIG",
        `${where} keeps files of its own; give the engine a --state-dir`,
      );
    }
    const { eviction, shared } = spec.common;
    if (eviction?.policy === "LRU" && !capabilities.globalEviction) {
      throw new CacheError(
        "INVALID_CONFIG",
        `${where}: eviction has no capacity to go by; give the adapter one (fs: max_capacity_gb), or leave eviction out`,
      );
    }
    return {
      id: spec.id,
      adapter,
      stateDir,
      shared,
      eviction:
        eviction === null
          ? null
          : {
              policy: eviction.policy,
              triggerWatermark: eviction.triggerWatermark,
              evictionRatio: eviction.ratio,
            },
    };
  });
}

function withId(log: AdapterLog, adapter: string): AdapterLog {
  return {
    debug: (message, fields) => log.debug(message, { adapter, ...fields }),
    info: (message, fields) => log.info(message, { adapter, ...fields }),
    warn: (message, fields) => log.warn(message, { adapter, ...fields }),
    error: (message, fields) => log.error(message, { adapter, ...fields }),
  };
}

function running(
  config: EngineConfig,
  view: EngineView,
  journal: Journal,
  manager: StorageManager,
  rpc: RpcServer,
  setAside: string | null,
): RunningEngine {
  const { pool } = manager.core;
  let stopping: Promise<{ poolKept: boolean }> | null = null;
  const stop = async (): Promise<{ poolKept: boolean }> => {
    await rpc.close();
    await manager.stop();
    const poolKept = pool.path !== null && config.state.directory !== null && !config.l1.freePoolOnExit;
    await journal.close();
    await pool.close({ keep: poolKept });
    return { poolKept };
  };
  return {
    view,
    rpcAddress: rpc.address,
    poolPath: pool.path,
    notes: [...(setAside === null ? [] : [setAside]), ...notesOf(manager)],
    stop: () => {
      stopping ??= stop();
      return stopping;
    },
  };
}

function notesOf(manager: StorageManager): string[] {
  const { recoveryReport: report } = manager;
  const notes: string[] = [];
  if (report.reattached) notes.push(`pool re-attached with ${report.objects} objects`);
  else notes.push(`L1 starts empty: ${report.emptyBecause}`);
  if (report.damage !== null)
    notes.push(`the journal was damaged at ${report.damage}; the rest is kept beside it`);
  if (report.tornBytes > 0)
    notes.push(`${report.tornBytes} bytes of an unfinished journal record were cut off`);
  if (manager.core.pool.access === "file")
    notes.push("koffi is absent: the pool is reached through its file");
  return notes;
}

import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type AdapterLog, hasCode } from "@cache/contracts";
import { type Journal, openJournal } from "@cache/journal";
import { bulkCopy } from "@cache/libc";
import { type L1Pool, openL1Pool } from "@cache/l1-memory";
import { type RpcServer, startRpcServer } from "@cache/lmcache-wire";
import { type OpenPool, openStorageManager, type StorageManager } from "@cache/storage-manager";
import type { EngineConfig } from "../config/engine-config.ts";
import type { EngineContext, EngineView, RunEngine, RunningEngine } from "../engine-seam.ts";
import { CacheCounters } from "../metrics/cache-counters.ts";
import { adapterDirectory, makeSetup } from "./adapter-setup.ts";
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
    const directories = await Promise.all(context.adapters.map(({ spec }) => adapterDirectory(config, spec)));
    manager = await openStorageManager({
      journal,
      recovery,
      openPool,
      makeAdapters: (l1) =>
        context.adapters.map((adapter, i) => makeSetup(adapter, l1, directories[i] ?? null)),
      makeAdded: async (id, added, l1) => {
        // Few engines have one: what looks for its package is loaded for them alone.
        const { rememberedAdapter } = await import("../adapters/adapter-request.ts");
        const adapter = await rememberedAdapter(id, added, config.discovery);
        return makeSetup(adapter, l1, await adapterDirectory(config, adapter.spec));
      },
      adapterChanges: config.l2.runtimeAdapters,
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
  notes.push(...changeNotes(manager));
  if (manager.core.pool.access === "file")
    notes.push("koffi is absent: the pool is reached through its file");
  return notes;
}

/** Adapters that are otherwise than the command line says. */
function changeNotes({ core }: StorageManager): string[] {
  const changes = [...core.state.adapterChanges.values()];
  if (changes.length === 0) return [];
  const texts = changes.map(({ id, stage, config }) => {
    if (stage === "removed") return `'${id}' is removed`;
    return `${config === null ? "" : "added "}'${id}'${stage === "active" ? "" : ` is ${stage}`}`;
  });
  return [`adapters were changed while an engine ran, and that holds: ${texts.join(", ")}`];
}

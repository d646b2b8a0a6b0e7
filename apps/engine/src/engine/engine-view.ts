import type { RpcServer } from "@cache/lmcache-wire";
import type { StorageManager } from "@cache/storage-manager";
import type { EngineConfig } from "../config/engine-config.ts";
import type { EngineContext, EngineView, PrefetchRequest } from "../engine-seam.ts";
import type { CacheCounters } from "../metrics/cache-counters.ts";
import type { Metrics } from "../metrics/metrics.ts";
import { configView } from "./engine-view-config.ts";
import { RuntimeAdapters } from "./runtime-adapters.ts";
import { engineStatus } from "./engine-status.ts";

/** What the view looks at. */
export interface ViewSources {
  readonly config: EngineConfig;
  readonly context: Pick<EngineContext, "version" | "http">;
  readonly manager: StorageManager;
  readonly rpc: Pick<RpcServer, "status">;
  readonly counters: CacheCounters;
}

/** The engine as the HTTP server sees it. */
export function engineView(sources: ViewSources): EngineView {
  const { config, context, manager, rpc, counters } = sources;
  const { operator, core } = manager;
  const { version, http } = context;
  const runtime = new RuntimeAdapters(config, manager);
  let metrics: Metrics | null = null;
  // Its text is made of modules that nothing else needs: they are loaded at the first scrape.
  const loadMetrics = async (): Promise<Metrics> => {
    const { Metrics } = await import("../metrics/metrics.ts");
    metrics ??= new Metrics({ manager, rpc: () => rpc.status(), http, counters, version });
    return metrics;
  };
  const changing = <T>(change: () => T): T => {
    core.assertHealthy();
    const result = change();
    manager.commit();
    core.assertHealthy();
    return result;
  };
  return {
    version,
    health: () => {
      const { healthy, reason } = manager.health();
      return reason === null ? { healthy } : { healthy, reason };
    },
    status: () => engineStatus(config, context, manager, rpc),
    config: () => configView(config),
    adapters: () =>
      manager.adapters.map(({ id, adapter, shared }) => ({
        id,
        type: adapter.status().type,
        shared,
        lists: adapter.capabilities.listKeys,
      })),
    adapterSet: () => runtime.list(),
    addAdapter: (raw) => runtime.add(raw),
    drainAdapter: (id, timeoutMs) => runtime.drain(id, timeoutMs),
    removeAdapter: (id, timeoutMs, forget) => runtime.remove(id, timeoutMs, forget),
    clear: async ({ force }) => {
      await manager.clear(force);
      manager.commit();
    },
    listObjects: (index, page) => operator.listObjects(index, page),
    deleteFromL1: (names, force) => changing(() => operator.deleteFromL1(names, force)),
    deleteFromL2: (index, names) => operator.deleteFromL2(index, names),
    prefetch: (request) => prefetch(sources, request),
    prefetchStatus: (id) => operator.prefetchStatus(id),
    quota: (cacheSalt) => operator.quota(cacheSalt),
    quotas: () => operator.quotas(),
    setQuota: (cacheSalt, limitBytes) => changing(() => manager.setQuota(cacheSalt, limitBytes)),
    removeQuota: (cacheSalt) => changing(() => manager.removeQuota(cacheSalt)),
    metrics: async () => (await loadMetrics()).text(),
    resetMetrics: async () => (await loadMetrics()).reset(),
  };
}

async function prefetch(
  { config, manager }: ViewSources,
  { modelName, worldSize, tokenIds, cacheSalt }: PrefetchRequest,
): ReturnType<EngineView["prefetch"]> {
  const { operator } = manager;
  if (!operator.isRegistered(modelName, worldSize)) return "unknown model";
  const chunks = Math.floor(tokenIds.length / config.chunkSize);
  if (chunks === 0) return "nothing";
  const tokens = Buffer.alloc(chunks * config.chunkSize * 4);
  for (let i = 0; i < chunks * config.chunkSize; i++) tokens.writeUInt32BE(tokenIds[i] as number, i * 4);
  const { chunkHashes, TokenHasher } = await import("@cache/lmcache-wire");
  const hashes = chunkHashes(await TokenHasher.load(config.chunkSize), tokens);
  manager.core.assertHealthy();
  return { id: operator.startPrefetch({ modelName, worldSize, cacheSalt, hashes, tokens }), chunks };
}

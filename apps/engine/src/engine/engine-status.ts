import type { RpcServer } from "@cache/lmcache-wire";
import type { StorageManager } from "@cache/storage-manager";
import type { EngineConfig } from "../config/engine-config.ts";
import type { EngineContext } from "../engine-seam.ts";

/** Instances listed with their layout. */
const LISTED_CLIENTS_MAX = 256;

/** `GET /status`: the fields that `lmcache describe kvcache` reads, and ours. */
export function engineStatus(
  config: EngineConfig,
  context: Pick<EngineContext, "version" | "http">,
  manager: StorageManager,
  rpc: Pick<RpcServer, "status">,
): Readonly<Record<string, unknown>> {
  const { state } = manager.core;
  const health = manager.health();
  const clients = [...state.clients.values()].slice(0, LISTED_CLIENTS_MAX);
  const contexts: Record<string, unknown> = {};
  const plain: Record<string, unknown> = {};
  for (const client of clients) {
    const layout = state.layout(client.layout);
    contexts[String(client.instance)] = {
      model_name: client.modelName,
      world_size: client.worldSize,
      kv_cache_layout: {
        num_layers: layout.shape.at(-3) ?? 0,
        cache_size_per_token: Math.floor(layout.objectBytes / config.chunkSize),
        kernel_groups: [],
      },
    };
    plain[String(client.instance)] = {
      model_name: client.modelName,
      world_size: client.worldSize,
      block_size: layout.blockSize,
      use_mla: layout.shape.length === 3,
      dtype: layout.dtype,
      shape: layout.shape,
      silent_seconds: Math.round(manager.clients.silentForMs(client.instance) / 1_000),
    };
  }
  return {
    is_healthy: health.healthy,
    unhealthy_reason: health.reason,
    engine_type: "MPCacheServer",
    version: context.version,
    pid: process.pid,
    uptime_seconds: Math.round(process.uptime()),
    chunk_size: config.chunkSize,
    hash_algorithm: "blake3",
    active_sessions: state.sessions.size,
    active_prefetch_jobs: manager.prefetch.running,
    active_p2p_lookup_jobs: 0,
    p2p_enabled: false,
    p2p_state: "unregistered",
    p2p_peer_count: 0,
    p2p_peers: [],
    worker_liveness: {
      enabled: config.rpc.workerReapTimeoutMs > 0,
      reap_timeout_seconds: config.rpc.workerReapTimeoutMs / 1_000,
      registration_grace_seconds: config.rpc.workerRegistrationGraceMs / 1_000,
      tracked_instances: state.clients.size,
    },
    registered_gpu_ids: [],
    registered_non_cuda_instance_ids: clients.map(({ instance }) => String(instance)),
    non_cuda_context_meta: plain,
    cache_context_meta: contexts,
    kv_events: manager.kvEvents.status(),
    inline_despite_pool: manager.clients.inlineDespitePool,
    storage_manager: manager.status(),
    rpc: rpc.status(),
    http: context.http(),
  };
}

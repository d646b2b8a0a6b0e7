import type { EngineConfig, EvictionSpec } from "../config/engine-config.ts";
import { maskSecrets } from "../config/mask.ts";

/** The configuration as `GET /config` shows it: LMCache's sections and names, `engine` for ours. No secrets. */
export function configView(config: EngineConfig): Readonly<Record<string, unknown>> {
  const { rpc, http, l1, l2 } = config;
  const shown = {
    mp: {
      transport: "zmq",
      host: rpc.host,
      port: rpc.port,
      chunk_size: config.chunkSize,
      hash_algorithm: "blake3",
      engine_type: "default",
      supported_transfer_mode: "engine_driven",
      shm_name: l1.shmName,
      instance_id: config.instance,
      worker_reap_timeout_seconds: rpc.workerReapTimeoutMs / 1_000,
      worker_registration_grace_seconds: rpc.workerRegistrationGraceMs / 1_000,
      session_ttl_seconds: rpc.sessionTtlMs / 1_000,
      run_script_api_enabled: false,
    },
    storage_manager: {
      l1_manager_config: {
        memory_config: { size_in_bytes: l1.sizeBytes, align_bytes: l1.alignBytes, shm_name: l1.shmName },
        write_ttl_seconds: l1.writeTtlMs / 1_000,
        read_ttl_seconds: l1.readTtlMs / 1_000,
        eviction: evictionView(l1.eviction),
      },
      eviction_config: evictionView(l1.eviction),
      l2_adapter_config: {
        adapters: l2.adapters.map(({ id, type, common, own }) => ({
          ...own,
          id,
          type,
          affinity_tag: common.affinityTag,
          shared: common.shared,
          persist_enabled: common.persistEnabled,
          eviction_config: common.eviction === null ? null : evictionView(common.eviction),
        })),
      },
      store_policy: l2.storePolicy,
      prefetch_policy: l2.prefetchPolicy,
      prefetch_max_in_flight: l2.prefetchMaxInFlight,
    },
    observability: {
      metrics_enabled: true,
      tracing_enabled: false,
      metrics_salt_label: http.metricsSaltLabel,
      log_level: config.logLevel,
    },
    http: {
      http_host: http.host,
      http_port: http.port,
      allowed_hosts: http.allowedHosts,
      token_file: http.tokenFile,
    },
    coordinator: {},
    engine: {
      state_directory: config.state.directory,
      journal_fsync: config.journalFsync,
      cache_identity: config.cacheIdentity,
      max_sessions: rpc.sessionsMax,
      client_grace_seconds: rpc.clientGraceMs / 1_000,
      store_wait_ms: l1.storeWaitMs,
      free_pool_on_exit: l1.freePoolOnExit,
      l2_deadlines_ms: l2.deadlines,
      l2_breaker: l2.breaker,
      l2_store_retries: l2.storeRetries,
      adapter_roots: config.discovery.roots,
      adapter_allow: config.discovery.allow,
      adapter_path_roots: config.discovery.pathRoots,
      adapter_drain_timeout_seconds: l2.drainTimeoutMs / 1_000,
      runtime_adapters: l2.runtimeAdapters,
    },
  };
  return maskSecrets(shown) as Readonly<Record<string, unknown>>;
}

function evictionView({ policy, triggerWatermark, ratio }: EvictionSpec): Readonly<Record<string, unknown>> {
  return { eviction_policy: policy, trigger_watermark: triggerWatermark, eviction_ratio: ratio };
}

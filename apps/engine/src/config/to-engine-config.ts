import { CacheError } from "@cache/contracts";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { adapterSpecs } from "./adapter-spec.ts";
import { defaultL1SizeBytes, memoryFacts } from "./default-l1-size.ts";
import type { AdapterSpec, EngineConfig } from "./engine-config.ts";
import type { EngineOptions } from "./options.ts";
import { stateDirectory } from "./state-directory.ts";

const GIB = 2 ** 30;

/**
 * Turns checked options into the engine's configuration: units, derived names, rules across options.
 *
 * @param adapterPlace where the list of adapters was given, for errors.
 */
export function toEngineConfig(
  options: EngineOptions,
  environment: Readonly<Record<string, string | undefined>>,
  warnings: string[],
  adapterPlace?: string,
): EngineConfig {
  checkAcross(options);
  const instance = options.instance_id ?? String(options.port);
  const directory = stateDirectory({ configured: options.state_dir, instance, environment });
  return deepFreeze({
    instance,
    rpc: {
      host: bindAddress(options.host),
      port: options.port,
      sessionTtlMs: options.session_ttl_seconds * 1000,
      sessionsMax: options.max_sessions,
      workerReapTimeoutMs: options.worker_reap_timeout_seconds * 1000,
      workerRegistrationGraceMs: options.worker_registration_grace_seconds * 1000,
      clientGraceMs: options.client_grace_seconds * 1000,
      kvEventLogSize: options.kv_event_log_size,
    },
    http: {
      host: bindAddress(options.http_host),
      port: options.http_port,
      allowedHosts: options.http_allowed_host,
      tokenFile: options.http_token_file ?? null,
      metricsSaltLabel: options.metrics_salt_label,
    },
    chunkSize: options.chunk_size,
    l1: l1Config(options, instance),
    l2: l2Config(options, adapters(options, directory, warnings, adapterPlace)),
    cacheIdentity: options.cache_identity ?? null,
    state: { directory },
    journalFsync: options.journal_fsync,
    discovery: {
      roots: options.adapter_root,
      allow: options.adapter_allow,
      pathRoots: options.adapter_path_root,
    },
    logLevel: options.log_level,
  });
}

function checkAcross(options: EngineOptions): void {
  const { worker_reap_timeout_seconds: reap, worker_registration_grace_seconds: grace } = options;
  if (grace < reap) {
    throw new CacheError(
      "INVALID_CONFIG",
      `--worker-registration-grace-seconds ${grace} must be at least --worker-reap-timeout-seconds ${reap}`,
    );
  }
  if (options.port === options.http_port && bindAddress(options.host) === bindAddress(options.http_host)) {
    throw new CacheError(
      "INVALID_CONFIG",
      `--port and --http-port are both ${options.port}; choose two ports`,
    );
  }
  if (options.l2_breaker_probe_max_ms < options.l2_breaker_probe_min_ms) {
    throw new CacheError(
      "INVALID_CONFIG",
      "--l2-breaker-probe-max-ms must be at least --l2-breaker-probe-min-ms",
    );
  }
}

/** ZMQ binds addresses, not names. */
function bindAddress(host: string): string {
  if (host === "localhost") return "127.0.0.1";
  return host === "*" ? "0.0.0.0" : host;
}

function l1Config(options: EngineOptions, instance: string): EngineConfig["l1"] {
  const align = options.l1_align_bytes;
  const wanted =
    options.l1_size_gb === undefined ? defaultL1SizeBytes(memoryFacts()) : options.l1_size_gb * GIB;
  const sizeBytes = Math.floor(wanted / align) * align;
  if (sizeBytes < align) {
    throw new CacheError(
      "INVALID_CONFIG",
      `--l1-size-gb ${options.l1_size_gb} is less than one object of --l1-align-bytes ${align}; enlarge it`,
    );
  }
  return {
    sizeBytes,
    sizeOrigin: options.l1_size_gb === undefined ? "default" : "configured",
    alignBytes: align,
    shmName: (options.shm_name ?? `cache_engine_${instance}`).replace(/^\//, ""),
    shmMode: Number.parseInt(options.shm_mode, 8),
    shmGroup: options.shm_group === undefined ? null : groupId(options.shm_group),
    writeTtlMs: options.l1_write_ttl_seconds * 1000,
    readTtlMs: options.l1_read_ttl_seconds * 1000,
    storeWaitMs: options.store_wait_ms,
    freePoolOnExit: options.free_pool_on_exit,
    eviction: {
      policy: options.eviction_policy,
      triggerWatermark: options.eviction_trigger_watermark,
      ratio: options.eviction_ratio,
    },
  };
}

function l2Config(options: EngineOptions, specs: readonly AdapterSpec[]): EngineConfig["l2"] {
  return {
    adapters: specs,
    storePolicy: options.l2_store_policy,
    prefetchPolicy: options.l2_prefetch_policy,
    prefetchMaxInFlight: options.l2_prefetch_max_in_flight,
    prefetchDeadline: {
      baseMs: options.l2_prefetch_timeout_ms,
      perThousandTokensMs: options.l2_prefetch_timeout_ms_per_1k_tokens,
      maxMs: options.l2_prefetch_timeout_max_ms,
    },
    deadlines: {
      lookupMs: options.l2_lookup_timeout_ms,
      transferBaseMs: options.l2_transfer_timeout_ms,
      transferBytesPerSecond: Math.round(options.l2_transfer_mb_per_second * 1_000_000),
      deleteMs: options.l2_delete_timeout_ms,
    },
    breaker: {
      failures: options.l2_breaker_failures,
      windowMs: options.l2_breaker_window_ms,
      probeMinMs: options.l2_breaker_probe_min_ms,
      probeMaxMs: options.l2_breaker_probe_max_ms,
    },
    storeRetries: options.l2_store_retries,
    drainTimeoutMs: options.adapter_drain_timeout_seconds * 1000,
    runtimeAdapters: options.runtime_adapters,
  };
}

function adapters(
  options: EngineOptions,
  directory: string | null,
  warnings: string[],
  place: string | undefined,
): AdapterSpec[] {
  if (options.l2_adapter.length > 0 || options.default_l2_size_gb === 0)
    return adapterSpecs(options.l2_adapter, place);
  if (directory === null) {
    warnings.push("--default-l2-size-gb has no effect: there is no state directory to keep the data in");
    return [];
  }
  return adapterSpecs([
    {
      type: "fs",
      base_path: join(directory, "l2-fs"),
      max_capacity_gb: options.default_l2_size_gb,
      eviction: { eviction_policy: "LRU" },
    },
  ]);
}

function groupId(group: string): number {
  if (/^\d{1,9}$/.test(group)) return Number(group);
  let lines: string[] = [];
  try {
    lines = readFileSync("/etc/group", "utf8").split("\n");
  } catch {
    // Without the file no name can be known: the error below says what to do.
  }
  const id = lines.map((line) => line.split(":")).find((fields) => fields[0] === group)?.[2];
  if (id !== undefined) return Number(id);
  throw new CacheError(
    "INVALID_CONFIG",
    `--shm-group: there is no group '${group}' in /etc/group; give its number`,
  );
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) deepFreeze(inner);
  }
  return value;
}

/** A flag of `lmcache server` that this engine knows by name and does not use. */
export interface ForeignFlag {
  /** Key as in a file, e.g. `prometheus_port`. */
  readonly key: string;
  /** How many values follow the flag; `switch` ones have a `--no-` form if LMCache's has. */
  readonly values: "none" | "one" | "many";
  readonly negatable: boolean;
  /** Shown as a warning (`ignored`) or as the error (`refused`). */
  readonly reason: string;
  /** `accepted`: no warning. `ignored`: a warning. `refused`: an error, unless the value is `harmless`. */
  readonly action: "accepted" | "ignored" | "refused";
  /** Values that ask for nothing that we do not do. */
  readonly harmless: readonly string[];
}

const NO_THREADS = "this engine has one event loop and sizes its workers itself";
const METRICS = "metrics of this engine are not configured by this flag";
const BLEND = "CacheBlend is not served here";
const COORDINATOR = "this engine does not join a coordinator yet";
const P2P = "peer-to-peer transfer is not served here; share an L2 between the nodes instead";
const LAZY = "pages are always reserved in the background after the start";
const DAX = "L1 is shared memory; the tiers DEVDAX and GDS are not served here";
const PYTHON = "it would run Python inside the server; this engine runs none";
const GC = "it watches CPython's garbage collector, which is not here";
const LOOKUP_LOG = "lookups are not logged to files here";

type Row = [name: string, values: ForeignFlag["values"], reason: string, harmless?: string[]];

const ACCEPTED: Row[] = [
  ["l1_use_lazy", "none", LAZY],
  ["l1_init_size_gb", "one", LAZY],
];

const IGNORED: Row[] = [
  ["max_workers", "one", NO_THREADS],
  ["max_gpu_workers", "one", NO_THREADS],
  ["max_cpu_workers", "one", NO_THREADS],
  ["grpc_server_workers", "one", "there is no gRPC server here"],
  ["null_block_id", "one", "block ids matter to LMCache-driven transfer only"],
  [
    "isolated_ipc",
    "none",
    'clients that cannot map the pool send inline by themselves; --shm-name "" says so to all',
  ],
  ["separate_object_groups", "none", "engine-driven clients have one object group"],
  ["script_allowed_imports", "many", "there is no /run_script here"],
  ["enable", "many", "LMCache's experimental modules are not here"],
  ["enable_segmented_prefix", "none", BLEND],
  ["enable_dedup_content", "none", BLEND],
  ["enable_blend_reorder", "none", BLEND],
  ["l1_use_hugepages", "none", "the pool is shared memory of ordinary pages"],
  ["gds_l1_use_direct_io", "none", DAX],
  ["gds_l1_backend", "one", DAX],
  ["periodic_notifier_interval_ms", "one", "nothing is polled here"],
  ["p2p_lookup_timeout", "one", P2P],
  ["p2p_load_timeout", "one", P2P],
  ["p2p_transfer_engine", "one", P2P],
  ["disable_observability", "none", METRICS],
  ["disable_metrics", "none", METRICS],
  ["disable_grpc_metrics", "none", METRICS],
  ["disable_logging", "none", "use --log-level silent"],
  ["enable_tracing", "none", METRICS],
  ["otlp_endpoint", "one", METRICS],
  ["event_bus_queue_size", "one", "events go to the journal, not to a queue"],
  ["prometheus_port", "one", "everything over HTTP is on --http-port"],
  ["metrics_sample_rate", "one", METRICS],
  ["lookup_hash_log_dir", "one", LOOKUP_LOG],
  ["lookup_hash_log_rotation_interval", "one", LOOKUP_LOG],
  ["lookup_hash_log_rotation_max_size", "one", LOOKUP_LOG],
  ["lookup_hash_log_max_files", "one", LOOKUP_LOG],
  ["enable_gc_monitor", "none", GC],
  ["gc_monitor_min_pause_ms", "one", GC],
  ["gc_monitor_top_objects", "one", GC],
  ["enable_extra_logging", "none", "see GET /status"],
  ["extra_logging_interval", "one", "see GET /status"],
  ["format", "one", "logs are JSON lines"],
  ["output", "one", "see GET /status"],
  ["coordinator_advertise_ip", "one", COORDINATOR],
  ["coordinator_heartbeat_interval", "one", COORDINATOR],
  ["coordinator_event_flush_interval", "one", COORDINATOR],
  ["coordinator_event_transport", "one", COORDINATOR],
  ["coordinator_kafka_bootstrap_servers", "one", COORDINATOR],
  ["coordinator_kafka_topic", "one", COORDINATOR],
  ["coordinator_kafka_delivery_timeout", "one", COORDINATOR],
  ["coordinator_blend_timeout", "one", COORDINATOR],
  ["coordinator_blend_match_concurrency", "one", COORDINATOR],
];

const REFUSED: Row[] = [
  ["transport", "one", "clients reach this engine by ZMQ; use --transport zmq", ["zmq"]],
  ["engine_type", "one", `${BLEND}; use --engine-type default`, ["default"]],
  ["l1_manager", "one", "there is one L1 here; use --l1-size-gb, --l1-align-bytes and --shm-name"],
  ["l1_devdax_path", "one", DAX],
  ["gds_l1_path", "one", DAX],
  ["runtime_plugin_locations", "many", PYTHON],
  ["runtime_plugin_config", "one", PYTHON],
  ["run_script_api_enabled", "none", PYTHON],
  ["server_module", "one", PYTHON],
  ["p2p_advertise_url", "one", P2P],
  ["p2p_listen_url", "one", P2P],
  ["coordinator_url", "one", COORDINATOR],
  ["coordinator_event_reporting", "none", COORDINATOR],
  ["trace_level", "one", "operations are not recorded to LMCache's trace files here"],
  ["trace_output", "one", "operations are not recorded to LMCache's trace files here"],
];

/** Switches that have a `--no-` form in `lmcache server`. */
const NEGATABLE = new Set([
  "l1_use_lazy",
  "l1_use_hugepages",
  "gds_l1_use_direct_io",
  "isolated_ipc",
  "run_script_api_enabled",
  "separate_object_groups",
]);

const rows = (action: ForeignFlag["action"], list: Row[]): ForeignFlag[] =>
  list.map(([key, values, reason, harmless = []]) => ({
    key,
    values,
    reason,
    action,
    harmless,
    negatable: NEGATABLE.has(key),
  }));

/** Every flag of `lmcache server` that has no effect here, so that its command lines are understood as they are. */
export const FOREIGN_FLAGS: readonly ForeignFlag[] = [
  ...rows("accepted", ACCEPTED),
  ...rows("ignored", IGNORED),
  ...rows("refused", REFUSED),
];

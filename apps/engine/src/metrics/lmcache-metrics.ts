import type { StorageManager } from "@cache/storage-manager";
import { counter, gauge, histogram, one } from "./build.ts";
import type { CacheCounters } from "./cache-counters.ts";
import type { Metric } from "./exposition.ts";
import type { Sample } from "./series.ts";

const TAG = "l1_tag";
const NAME = "l2_name";
const SALT = "cache_salt";
const MODEL = "model_name";
const L1_LABELS = { l1_tag: "_default", backend: "dram" };
const LOOKUP_LABELS = [MODEL, SALT];

/** LMCache's names that we do not expose, and why. Names without `lmcache_mp_`. */
export const NOT_EXPOSED: Readonly<Record<string, string>> = {
  event_bus_dropped_events_total: "there is no event bus: events are folded in the call that records them",
  event_bus_subscriber_exceptions_total: "there is no event bus",
  event_bus_queue_depth: "there is no event bus",
  event_bus_drain_lag_seconds: "there is no event bus",
  real_reuse_gap_seconds:
    "every request's hashes would be kept for hours; `l1_chunk_reuse_gap_seconds` and " +
    "`l1_chunk_evict_reuse_gap_seconds` say the same of what was cached",
  active_p2p_lookup_jobs: "nodes do not ask each other: they share an L2",
  real_reuse_gap_objects: "as `real_reuse_gap_seconds`",
};

/** The metrics that LMCache's server exposes, under its names and units. */
export function lmcacheMetrics(manager: StorageManager, counters: CacheCounters): Metric[] {
  return [
    ...l1Metrics(manager, counters),
    ...storeMetrics(manager, counters),
    ...prefetchMetrics(manager, counters),
    ...lookupMetrics(counters),
  ].map((metric) => ({ ...metric, name: `lmcache_mp_${metric.name}` }));
}

function l1Metrics(manager: StorageManager, c: CacheCounters): Metric[] {
  const { room, writes, reads, prefetch, core } = manager;
  const { space, state } = core;
  const used = space.usedBytes;
  const l1 = (value: number): Sample[] => [{ labels: L1_LABELS, value }];
  const failures = [
    { labels: { during: "l1_store" }, value: writes.refusedChunks },
    { labels: { during: "l2_prefetch" }, value: prefetch.outOfMemory },
  ];
  const missed = { labels: { during: "l1_retrieve", reason: "not_found" }, value: reads.missedChunks };
  return [
    counter("l1_write_chunks_total", "Objects that became resident in L1.", [TAG, SALT], c.l1Write.samples()),
    counter("l1_read_chunks_total", "Objects that clients read out of L1.", [TAG, SALT], c.l1Read.samples()),
    counter("l1_evicted_chunks_total", "Objects that left L1.", [TAG, SALT], c.l1Evicted.samples()),
    counter(
      "l1_eviction_loop_ticks_total",
      "Looks at the eviction watermark.",
      [],
      one(room.watermarkChecks),
    ),
    counter(
      "l1_eviction_loop_triggered_total",
      "Looks that found the watermark passed.",
      [],
      one(room.watermarkPassed),
    ),
    counter(
      "l1_allocation_failure_chunks_total",
      "Objects that found no room in L1; `during` is `l1_store` or `l2_prefetch`.",
      ["during"],
      failures,
    ),
    counter(
      "l1_read_failure_chunks_total",
      "Objects of retrieves that were answered as a miss after their lookup.",
      ["during", "reason"],
      [missed],
    ),
    gauge("l1_memory_usage_bytes", "Bytes of L1 in use.", [TAG, "backend"], l1(used)),
    gauge(
      "l1_usage_ratio",
      "Share of L1 in use, 0 to 1.",
      [TAG, "backend"],
      l1(space.capacityBytes === 0 ? 0 : used / space.capacityBytes),
    ),
    gauge(
      "l1_staging_bytes",
      "Bytes handed out for writing and not yet committed.",
      [TAG, "backend"],
      l1(state.l1.stagedBytes),
    ),
    histogram(
      "l1_chunk_lifetime_seconds",
      "From an object's store to its eviction.",
      [TAG],
      [c.ages.lifetime.sample({ l1_tag: "_default" })],
    ),
    histogram(
      "l1_chunk_idle_before_evict_seconds",
      "From an object's last read to its eviction.",
      [TAG],
      [c.ages.idleBeforeEviction.sample({ l1_tag: "_default" })],
    ),
    histogram(
      "l1_chunk_reuse_gap_seconds",
      "Between two reads of an object.",
      [TAG],
      [c.ages.reuseGap.sample({ l1_tag: "_default" })],
    ),
    histogram(
      "l1_chunk_evict_reuse_gap_seconds",
      "From an object's eviction to its next store or load, at most 300; one object in 100 is watched.",
      [TAG],
      [c.ages.returnAfterEviction.sample({ l1_tag: "_default" })],
    ),
  ];
}

function storeMetrics(manager: StorageManager, c: CacheCounters): Metric[] {
  const inFlight = manager.units.map(({ adapter, store }, index) => ({
    labels: { l2_name: adapter.id, adapter_index: String(index) },
    value: store.inFlight,
  }));
  const usage = manager.units.map(({ adapter, keeper }) => ({
    labels: { l2_name: adapter.id },
    value: keeper.usedBytes(),
  }));
  return [
    counter(
      "l2_store_submitted_requests_total",
      "Stores given to an adapter.",
      [NAME],
      c.storeSubmitted.samples(),
    ),
    counter(
      "l2_store_submitted_objects_chunks_total",
      "Objects of these stores.",
      [NAME, SALT],
      c.storeSubmittedObjects.samples(),
    ),
    counter(
      "l2_store_completed_requests_total",
      "Stores that ended, failed ones too.",
      [NAME],
      c.storeCompleted.samples(),
    ),
    counter(
      "l2_store_completed_objects_chunks_total",
      "Objects that an adapter has stored.",
      [NAME],
      c.storeCompletedObjects.samples(),
    ),
    counter(
      "l2_evicted_objects_chunks_total",
      "Objects evicted from an adapter.",
      [NAME],
      c.l2Evicted.samples(),
    ),
    histogram(
      "l2_store_throughput_GB_per_second",
      "10^9 bytes a second of each store, from submission to completion.",
      [NAME],
      c.storeThroughput.samples(),
    ),
    gauge(
      "l2_usage_bytes",
      "Bytes that an adapter holds: by our account, or all that a listing found if that is more.",
      [NAME],
      usage,
    ),
    gauge("num_inflight_l2_stores", "Stores in flight.", [NAME, "adapter_index"], inFlight),
    gauge(
      "l2_store_adapters",
      "Adapters that take stores; `state` is `active`, or `open` where the circuit breaker keeps calls back.",
      [TAG, "state"],
      adapterStates(manager).map(({ labels, value }) => ({
        labels: { l1_tag: "_default", ...labels },
        value,
      })),
    ),
  ];
}

function adapterStates(manager: StorageManager): Sample[] {
  const active = manager.adapters.filter(({ gate }) => gate.canTry()).length;
  return [
    { labels: { state: "active" }, value: active },
    { labels: { state: "open" }, value: manager.adapters.length - active },
  ];
}

function prefetchMetrics(manager: StorageManager, c: CacheCounters): Metric[] {
  const { prefetch, adapters } = manager;
  const gates = adapters.map(({ id, gate }, index) => ({ id, index, status: gate.status() }));
  const aborted = gates.reduce((sum, { status }) => sum + (status.errors.ABORTED ?? 0), 0);
  const failures = [
    { labels: { reason: "l1_oom" }, value: prefetch.outOfMemory },
    { labels: { reason: "not_loaded" }, value: prefetch.failedLoads },
  ];
  return [
    counter(
      "l2_prefetch_lookup_requests_total",
      "Lookups for which L2 was asked.",
      [],
      one(c.l2LookupRequests),
    ),
    counter(
      "l2_prefetch_lookup_objects_chunks_total",
      "Objects for which L2 was asked.",
      [],
      one(c.l2LookupObjects),
    ),
    counter(
      "l2_prefetch_load_submitted_requests_total",
      "Loads given to an adapter.",
      [NAME],
      c.loadSubmitted.samples(),
    ),
    counter(
      "l2_prefetch_load_submitted_objects_chunks_total",
      "Objects of these loads.",
      [NAME],
      c.loadSubmittedObjects.samples(),
    ),
    counter(
      "l2_prefetch_load_completed_chunks_total",
      "Objects that arrived in L1.",
      [NAME],
      c.loadCompletedObjects.samples(),
    ),
    counter(
      "l2_load_completed_requests_total",
      "Loads that ended, failed ones too.",
      [NAME],
      c.loadCompleted.samples(),
    ),
    counter(
      "l2_prefetch_failure_chunks_total",
      "Objects found in L2 that did not arrive; `reason` is `l1_oom` (no room) or `not_loaded`.",
      ["reason"],
      failures,
    ),
    counter(
      "timeouts_total",
      "Deadlines that passed; `exception_type` is `prefetch_deadline` or `l2_deadline`.",
      ["exception_type"],
      [
        { labels: { exception_type: "prefetch_deadline" }, value: prefetch.overDeadline },
        { labels: { exception_type: "l2_deadline" }, value: aborted },
      ],
    ),
    histogram(
      "l2_load_throughput_GB_per_second",
      "10^9 bytes a second of each load, from submission to completion.",
      [NAME],
      c.loadThroughput.samples(),
    ),
    gauge(
      "num_inflight_l2_loads",
      "Loads in flight.",
      [NAME, "adapter_index"],
      gates.map(({ id, index, status }) => ({
        labels: { l2_name: id, adapter_index: String(index) },
        value: status.inFlight.load,
      })),
    ),
    gauge(
      "inflight_load_memory_usage_bytes",
      "Bytes of L1 that loads in flight will fill.",
      [NAME, "adapter_index"],
      gates.map(({ id, index }) => ({
        labels: { l2_name: id, adapter_index: String(index) },
        value: c.loadingBytes.get(id) ?? 0,
      })),
    ),
    gauge("l2_prefetch_adapters", "As `l2_store_adapters`, for loads.", ["state"], adapterStates(manager)),
    gauge("active_prefetch_jobs", "Lookups that load from L2 now.", [], one(prefetch.running)),
    gauge(
      "kv_events_log_depth",
      "KV events that are kept for subscribers.",
      [],
      one(manager.kvEvents.ring?.depth ?? 0),
    ),
  ];
}

function lookupMetrics(c: CacheCounters): Metric[] {
  const lookup = (name: string, help: string, samples: readonly Sample[]): Metric =>
    counter(name, help, LOOKUP_LABELS, samples);
  return [
    lookup("lookups_requests_total", "Lookups.", c.lookups.samples()),
    lookup(
      "lookup_requested_tokens_total",
      "Tokens of whole chunks looked for.",
      c.requestedTokens.samples(),
    ),
    lookup("lookup_hit_tokens_total", "Tokens found, in L1 or L2.", c.hitTokens.samples()),
    lookup("lookup_hit_l1_tokens_total", "Tokens found in L1.", c.hitL1Tokens.samples()),
    lookup("lookup_hit_l2_tokens_total", "Tokens that came from L2.", c.hitL2Tokens.samples()),
    lookup("lookup_hit_l1_keys_total", "Objects found in L1.", c.hitL1Keys.samples()),
    lookup("lookup_hit_l2_keys_total", "Objects that came from L2.", c.hitL2Keys.samples()),
    counter(
      "lookup_early_exit_requests_total",
      "Lookups that looked for nothing; `reason` is `unknown_model`, `unhealthy` or `limit`.",
      ["reason"],
      c.earlyExits.samples(),
    ),
    counter("num_chunks_loaded_total", "Objects that clients read.", [], one(c.chunksLoaded)),
  ];
}

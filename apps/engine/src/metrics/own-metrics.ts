import type { RpcServerStatus } from "@cache/lmcache-wire";
import type { StorageManager } from "@cache/storage-manager";
import type { HttpFigures } from "../http/http-counts.ts";
import type { CacheCounters } from "./cache-counters.ts";
import { counter, each, gauge, one } from "./build.ts";
import type { Metric } from "./exposition.ts";
import type { Sample } from "./series.ts";

const NAME = "l2_name";

/** What the figures are taken from. */
export interface OwnFigures {
  readonly manager: StorageManager;
  readonly rpc: RpcServerStatus;
  readonly http: HttpFigures;
  readonly counters: CacheCounters;
  readonly version: string;
}

/** What LMCache has no name for: journal, what is held back, refusals, waiters, bounds. */
export function ownMetrics({ manager, rpc, http, counters, version }: OwnFigures): Metric[] {
  return [
    ...processMetrics(manager, version),
    ...journalMetrics(manager),
    ...waiterMetrics(manager),
    ...evictionMetrics(counters),
    ...kvEventMetrics(manager),
    ...rpcMetrics(rpc),
    ...httpMetrics(http),
    ...adapterMetrics(manager),
  ].map((metric) => ({ ...metric, name: `cache_engine_${metric.name}` }));
}

function processMetrics(manager: StorageManager, version: string): Metric[] {
  const { state } = manager.core;
  return [
    gauge("info", "1; the version is a label.", ["version"], [{ labels: { version }, value: 1 }]),
    gauge("healthy", "1 if the healthcheck answers 200.", [], one(manager.health().healthy)),
    gauge("uptime_seconds", "Since the process started.", [], one(process.uptime())),
    gauge(
      "resident_memory_bytes",
      "Resident memory of the process; touched pages of a mapped pool count.",
      [],
      one(process.memoryUsage.rss()),
    ),
    gauge("clients", "Registered instances.", [], one(state.clients.size)),
    gauge("sessions", "Requests whose lookup is open.", [], one(state.sessions.size)),
    gauge("l1_objects", "Objects resident in L1.", [], one(state.l1.residentCount)),
    gauge("l1_locked_objects", "Objects of these that lookups have locked.", [], one(state.l1.lockedCount)),
    gauge(
      "l1_capacity_bytes",
      "Bytes of L1 that are reserved and usable.",
      [],
      one(manager.core.space.capacityBytes),
    ),
    gauge("tenants", "Tenants (cache_salt) with objects in L1.", [], one(state.tenants.size)),
    gauge("quotas", "Tenants with a limit.", [], one(state.quotas.size)),
  ];
}

function journalMetrics(manager: StorageManager): Metric[] {
  const status = manager.core.journal.status();
  return [
    gauge("journal_healthy", "1 if the journal can be written.", [], one(status.health.state === "ok")),
    counter("journal_records_total", "Position of the last record.", [], one(Number(status.position))),
    gauge("journal_segments", "Segment files.", [], one(status.segments)),
    gauge("journal_bytes", "Bytes of the segments.", [], one(status.bytes)),
    gauge("journal_side_bytes", "Bytes of the token records beside it.", [], one(status.sideBytes)),
    gauge(
      "journal_bytes_since_snapshot",
      "Bytes that a restart replays.",
      [],
      one(manager.core.journal.bytesSinceSnapshot),
    ),
  ];
}

function waiterMetrics(manager: StorageManager): Metric[] {
  const { writes, lookups, prefetch, clients, core, handOuts } = manager;
  const held = handOuts.held();
  const transfers = held.instances.reduce((sum, instance) => sum + instance.transfers, 0);
  return [
    gauge(
      "open_hand_outs",
      "Ranges of L1 handed out and not given back.",
      [],
      one(core.state.transfers.size),
    ),
    gauge("held_back_bytes", "Bytes that wait until nobody can touch them.", [], one(held.bytes)),
    gauge("held_back_hand_outs", "Hand-outs of these bytes.", [], one(transfers)),
    gauge("store_waiters", "prepare_store calls that wait for room now.", [], one(writes.waiting)),
    counter("store_waited_total", "prepare_store calls that had to wait.", [], one(writes.waited)),
    counter("store_refused_total", "Stores that found no room at all.", [], one(writes.refusedForRoom)),
    counter("store_partial_total", "Stores that found room for a part.", [], one(writes.partial)),
    counter(
      "store_over_quota_total",
      "Stores of these that their tenant's limit held back.",
      [],
      one(writes.overQuota),
    ),
    counter(
      "sessions_ended_for_room_total",
      "Sessions that ended because there were --max-sessions of them.",
      [],
      one(lookups.endedForRoom),
    ),
    gauge("prefetch_waiters", "Lookups that wait for a place to load from L2.", [], one(prefetch.queued)),
    counter(
      "prefetch_queue_full_total",
      "Lookups answered with what L1 had: too many waited.",
      [],
      one(prefetch.queueFull),
    ),
    counter(
      "inline_despite_pool_total",
      "Instances that were offered the pool and sent their data inline.",
      [],
      one(clients.inlineDespitePool),
    ),
  ];
}

function evictionMetrics(counters: CacheCounters): Metric[] {
  const tenants = [...(counters.tenants() ?? [])];
  const labelled = (cache_salt: string, value: number): Sample => ({ labels: { cache_salt }, value });
  return [
    counter(
      "l1_evictions_total",
      "Objects evicted from L1: `demand` (room for a store), `watermark`, `quota`, `clear`, `deleted`, `layout` (replaced by another dtype or shape), `skip_l1`.",
      ["reason"],
      counters.l1EvictedFor.samples(),
    ),
    counter(
      "l2_deletes_total",
      "Objects that an adapter was told to delete, by reason.",
      [NAME, "reason"],
      counters.l2DeletedFor.samples(),
    ),
    gauge(
      "tenant_l1_bytes",
      "Bytes of L1 that a tenant's objects take; with --metrics-salt-label.",
      ["cache_salt"],
      tenants.map(([salt, { l1Bytes }]) => labelled(salt, l1Bytes)),
    ),
    gauge(
      "tenant_limit_bytes",
      "A tenant's limit in each tier; with --metrics-salt-label.",
      ["cache_salt"],
      tenants.flatMap(([salt, { limitBytes }]) => (limitBytes === null ? [] : [labelled(salt, limitBytes)])),
    ),
  ];
}

function kvEventMetrics({ kvEvents }: StorageManager): Metric[] {
  return [
    counter(
      "kv_events_lost_total",
      "Batches that told a subscriber that it missed changes.",
      [],
      one(kvEvents.lostMarkers),
    ),
    counter(
      "kv_events_unreadable_total",
      "Chunks not announced: their token record could not be read.",
      [],
      one(kvEvents.unreadable),
    ),
  ];
}

function httpMetrics(http: HttpFigures): Metric[] {
  return [
    counter("http_answers_total", "HTTP answers.", ["status"], each("status", http.answers)),
    counter(
      "http_refusals_total",
      "HTTP requests that no route saw: `host`, `origin`, `content_type`, `not_loopback`, `token`, `body`, `malformed`, `timeout`, `connections`.",
      ["reason"],
      each("reason", http.refusals),
    ),
    gauge("http_connections", "Open HTTP connections.", [], one(http.connections)),
  ];
}

function rpcMetrics(rpc: RpcServerStatus): Metric[] {
  return [
    counter("rpc_requests_total", "RPC requests.", ["operation"], each("operation", rpc.requests)),
    counter("rpc_refusals_total", "RPC requests refused.", ["reason"], each("reason", rpc.refusals)),
    counter("rpc_malformed_total", "Messages without a usable uid, dropped.", [], one(rpc.malformed)),
    counter("rpc_oversized_total", "Messages beyond a bound of ours.", [], one(rpc.oversized)),
    counter(
      "rpc_connections_cut_off_total",
      "Connections closed and opened again at once, as when a message exceeds the bound.",
      [],
      one(rpc.connections.cutOff),
    ),
    counter(
      "rpc_handshakes_failed_total",
      "Peers that spoke another protocol.",
      [],
      one(rpc.connections.handshakeFailed),
    ),
    gauge(
      "rpc_connections",
      "Open connections.",
      [],
      one(Math.max(0, rpc.connections.accepted - rpc.connections.closed)),
    ),
    counter(
      "rpc_unsendable_replies_total",
      "Replies that could not be sent.",
      [],
      one(rpc.unsendableReplies),
    ),
    counter(
      "rpc_degraded_replies_total",
      "Replies with degraded values: the journal could not be written.",
      [],
      one(rpc.degradedReplies),
    ),
    gauge("rpc_message_bytes_max", "Bound of one message, in bytes.", [], one(rpc.maxMessageSize)),
    gauge("rpc_calls_in_flight", "Calls that are not answered.", [], one(rpc.callsInFlight)),
    gauge("rpc_bytes_in_flight", "Bytes of their requests.", [], one(rpc.bytesInFlight)),
    gauge("rpc_replies_waiting", "Replies that wait to be sent.", [], one(rpc.repliesWaiting)),
    gauge("rpc_streams", "Open subscriptions to KV events.", [], one(rpc.streams)),
    counter("rpc_stream_batches_total", "Batches of KV events sent.", [], one(rpc.streamBatches)),
    counter("rpc_streams_dropped_total", "Subscriptions ended by the engine.", [], one(rpc.streamsDropped)),
    gauge("rpc_hash_sessions", "Requests whose hash chain is kept.", [], one(rpc.sessions)),
    counter("rpc_hashed_chunks_total", "Chunks hashed.", [], one(rpc.hashedChunks)),
    counter("rpc_reused_chunks_total", "Chunks whose hash was known.", [], one(rpc.reusedChunks)),
  ];
}

function adapterMetrics(manager: StorageManager): Metric[] {
  const { adapters, units } = manager;
  const statuses = adapters.map(({ id, gate }) => ({ id, gate: gate.status() }));
  const per = (value: (unit: StorageManager["units"][number]) => number): Sample[] =>
    units.map((unit) => ({ labels: { l2_name: unit.adapter.id }, value: value(unit) }));
  const errors = statuses.flatMap(({ id, gate }) =>
    Object.entries(gate.errors).map(([code, value]) => ({ labels: { l2_name: id, code }, value })),
  );
  const otherLength = adapters.map(({ id, adapter }) => {
    const { length_mismatches: value } = adapter.status();
    return { labels: { l2_name: id }, value: typeof value === "number" ? value : 0 };
  });
  return [
    gauge(
      "l2_breaker_open",
      "1 while the circuit breaker keeps calls back.",
      [NAME],
      statuses.map(({ id, gate }) => ({
        labels: { l2_name: id },
        value: Number(gate.breaker.state !== "closed"),
      })),
    ),
    gauge(
      "l2_draining",
      "1 while an adapter takes no new stores.",
      [NAME],
      per(({ adapter }) => Number(manager.core.state.ledger(adapter.number).draining)),
    ),
    counter(
      "l2_adapter_changes_total",
      "Adapters added, drained and removed while the engine runs.",
      ["operation"],
      Object.entries(manager.changes.made).map(([operation, value]) => ({ labels: { operation }, value })),
    ),
    counter("l2_adapter_changes_failed_total", "Such changes that failed.", [], one(manager.changes.failed)),
    counter("l2_errors_total", "Failed calls of an adapter.", [NAME, "code"], errors),
    gauge(
      "l2_stuck_operations",
      "Operations past their deadline that still may touch their buffers.",
      [NAME],
      statuses.map(({ id, gate }) => ({ labels: { l2_name: id }, value: gate.stuck.operations })),
    ),
    gauge(
      "l2_objects",
      "Objects of an adapter by our account.",
      [NAME],
      per(({ adapter }) => manager.core.state.ledger(adapter.number).storedCount),
    ),
    gauge(
      "l2_queued_stores",
      "Objects that wait for an adapter.",
      [NAME],
      per(({ store }) => store.queued),
    ),
    gauge(
      "l2_waiting_operations",
      "Calls of an adapter that wait until fewer are in flight.",
      [NAME],
      statuses.map(({ id, gate }) => ({
        labels: { l2_name: id },
        value: Object.values(gate.queued).reduce((sum, queued) => sum + queued, 0),
      })),
    ),
    counter(
      "l2_failed_stores_total",
      "Failed stores of objects; they are tried again.",
      [NAME],
      per(({ store }) => store.failedObjects),
    ),
    counter(
      "l2_given_up_stores_total",
      "Objects that an adapter will not get.",
      [NAME],
      per(({ store }) => store.givenUp),
    ),
    counter(
      "l2_missing_objects_total",
      "Objects of the account that a listing did not find.",
      [NAME],
      per(({ keeper }) => keeper.reconcile.missing),
    ),
    gauge(
      "l2_foreign_objects",
      "Objects in the last listing that no key of ours names.",
      [NAME],
      per(({ keeper }) => keeper.reconcile.foreignObjects),
    ),
    counter(
      "l2_length_mismatches_total",
      "Entries of another length than asked for: misses that stay where they are.",
      [NAME],
      otherLength,
    ),
  ];
}

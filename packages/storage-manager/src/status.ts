import type { AdapterUnit } from "./controllers/l2-tier.ts";
import type { AdapterStage } from "./state/adapter-changes.ts";
import type { StorageManager } from "./storage-manager.ts";

/** The storage part of `GET /status`: LMCache's names where it has them, plain JSON. */
export type StorageStatus = Readonly<Record<string, unknown>>;

const GIB = 1024 ** 3;

/** Collects what an operator wants to see; constant work but for the lists of adapters, tenants and instances. */
export function statusOf(manager: StorageManager): StorageStatus {
  const { core } = manager;
  const { state, pool, space, options, journal } = core;
  const health = manager.health();
  return {
    is_healthy: health.healthy,
    unhealthy_reason: health.reason,
    l1_manager: l1Status(manager),
    eviction_controller: {
      eviction_policy: options.evictionPolicy,
      trigger_watermark: options.evictionWatermark,
      eviction_ratio: options.evictionRatio,
      evicted_objects: manager.room.evictedObjects,
      evicted_bytes: manager.room.evictedBytes,
      evictable_objects: state.slots.orderEnds.count,
    },
    prefetch_controller: {
      policy: options.prefetchPolicy,
      in_flight: manager.prefetch.running,
      queued: manager.prefetch.queued,
      queue_full: manager.prefetch.queueFull,
      loaded_objects: manager.prefetch.loadedObjects,
      loaded_bytes: manager.prefetch.loadedBytes,
      failed_loads: manager.prefetch.failedLoads,
      out_of_memory: manager.prefetch.outOfMemory,
      over_deadline: manager.prefetch.overDeadline,
    },
    sessions: {
      open: manager.core.state.sessions.size,
      max: options.sessionsMax,
      ended_for_room: manager.lookups.endedForRoom,
    },
    store_controller: {
      policy: options.storePolicy,
      waiting_for_room: manager.writes.waiting,
      waited: manager.writes.waited,
      refused_for_room: manager.writes.refusedForRoom,
      partial: manager.writes.partial,
      over_quota: manager.writes.overQuota,
    },
    l2_adapters: manager.units.map((unit) => adapterStatus(manager, unit)),
    l2_adapter_change: changeStatus(manager),
    l2_adapters_unsettled: manager.tier.retired.map(({ adapter }) => ({
      id: adapter.id,
      ...adapter.gate.status().stuck,
    })),
    tenants: tenantStatus(manager),
    held_back: manager.handOuts.held(),
    bounce_buffer_bytes: manager.adapters.reduce((sum, { buffers }) => sum + buffers.bounceBytes, 0),
    journal: journalStatus(manager),
    recovery: manager.recoveryReport,
    pool: {
      path: pool.path,
      shm_name: pool.shmName,
      access: pool.access,
      reserved_bytes: pool.reservedBytes,
      reserve_error: pool.reserveError?.message ?? null,
      pinned_ranges: space.pinnedRanges,
      name_is_ours: pool.nameIsOurs(),
    },
    journal_position: String(journal.position),
  };
}

function l1Status(manager: StorageManager): StorageStatus {
  const { state, pool, space, options } = manager.core;
  const { residentCount, residentBytes, stagedCount, stagedBytes, detachedBytes, lockedCount } = state.l1;
  return {
    is_healthy: manager.core.healthy,
    memory_total_bytes: space.capacityBytes,
    memory_configured_bytes: pool.sizeBytes,
    memory_used_bytes: space.usedBytes,
    memory_usage_ratio: space.capacityBytes === 0 ? 0 : space.usedBytes / space.capacityBytes,
    total_object_count: residentCount,
    resident_bytes: residentBytes,
    staging_object_count: stagedCount,
    staging_bytes: stagedBytes,
    detached_bytes: detachedBytes,
    write_locked_count: stagedCount,
    read_locked_count: lockedCount,
    open_hand_outs: state.transfers.size,
    write_ttl_seconds: options.writeTtlMs / 1_000,
    read_ttl_seconds: options.readTtlMs / 1_000,
    capacity_bytes_by_backend: { dram: space.capacityBytes },
  };
}

function adapterStatus(manager: StorageManager, { adapter, store, keeper }: AdapterUnit): StorageStatus {
  const ledger = manager.core.state.ledger(adapter.number);
  const own = adapter.adapter.status();
  const { capacityBytes } = adapter.adapter.usage();
  return {
    ...own,
    id: adapter.id,
    location: adapter.adapter.location,
    stage: stageOf(manager, adapter.id),
    added: adapter.added ?? false,
    is_healthy: own.isHealthy && adapter.gate.canTry(),
    backend: own.type,
    stored_object_count: ledger.storedCount,
    current_size_bytes: ledger.storedBytes,
    own_size_bytes: ledger.ownBytes,
    tier_size_bytes: keeper.usedBytes(),
    max_capacity_bytes: typeof capacityBytes === "number" ? capacityBytes : 0,
    in_doubt: ledger.inDoubt,
    queued_stores: store.queued,
    stores_in_flight: store.inFlight,
    stored_objects: store.storedObjects,
    failed_stores: store.failedObjects,
    given_up_stores: store.givenUp,
    evicted_objects: keeper.evictedObjects,
    evicted_bytes: keeper.evictedBytes,
    reconcile: keeper.reconcile,
    gate: adapter.gate.status(),
  };
}

/** Where an adapter of the engine stands. */
export function stageOf({ core }: StorageManager, id: string): AdapterStage {
  return core.state.adapterChanges.get(id)?.stage ?? "active";
}

function changeStatus({ changes, core }: StorageManager): StorageStatus | null {
  const { underWay } = changes;
  if (underWay === null) return null;
  const { operation, id, sinceMs } = underWay;
  return { operation, id, seconds: Math.round((core.now() - sinceMs) / 1_000) };
}

function tenantStatus(manager: StorageManager): StorageStatus {
  const { state } = manager.core;
  const salts = new Set([...state.quotas.keys(), ...state.tenants.keys()]);
  const tenants: Record<string, unknown> = {};
  for (const salt of salts) {
    const limit = state.quotas.get(salt);
    const usage = state.tenants.get(salt);
    let l2Bytes = 0;
    for (const ledger of state.ledgers)
      if (ledger.active) l2Bytes = Math.max(l2Bytes, ledger.bytesBySalt.get(salt) ?? 0);
    tenants[salt === "" ? "_default" : salt] = {
      limit_gb: limit === undefined ? null : limit / GIB,
      l1_bytes: usage?.bytes ?? 0,
      l1_objects: usage?.objects ?? 0,
      l2_bytes: l2Bytes,
    };
    if (Object.keys(tenants).length >= 1_000) break;
  }
  return tenants;
}

function journalStatus(manager: StorageManager): StorageStatus {
  const status = manager.core.journal.status();
  return {
    ...status,
    health: status.health.state,
    unhealthy_reason: status.health.state === "ok" ? null : status.health.cause.message,
    position: String(status.position),
    snapshotPosition: status.snapshotPosition === null ? null : String(status.snapshotPosition),
  };
}

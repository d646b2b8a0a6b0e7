import type { GateOptions, StorageManagerOptions } from "@cache/storage-manager";
import type { EngineConfig } from "../config/engine-config.ts";

/** The storage manager's options out of the configuration; what is left out keeps its default. */
export function managerOptions(config: EngineConfig): Partial<StorageManagerOptions> {
  const { l1, l2, rpc } = config;
  return {
    cacheIdentity: config.cacheIdentity ?? "",
    evictionPolicy: l1.eviction.policy,
    evictionWatermark: l1.eviction.triggerWatermark,
    evictionRatio: l1.eviction.ratio,
    storePolicy: l2.storePolicy,
    prefetchPolicy: l2.prefetchPolicy,
    prefetchMaxInFlight: l2.prefetchMaxInFlight,
    prefetchBaseMs: l2.prefetchDeadline.baseMs,
    prefetchMsPer1024Tokens: l2.prefetchDeadline.perThousandTokensMs,
    prefetchMsMax: l2.prefetchDeadline.maxMs,
    storeWaitMs: l1.storeWaitMs,
    readTtlMs: l1.readTtlMs,
    writeTtlMs: l1.writeTtlMs,
    clientGraceMs: rpc.clientGraceMs,
    reapMs: rpc.workerReapTimeoutMs,
    reapUnpingedMs: rpc.workerRegistrationGraceMs,
    sessionTtlMs: rpc.sessionTtlMs,
    sessionsMax: rpc.sessionsMax,
    kvEventLogSize: rpc.kvEventLogSize,
    storeAttemptsMax: l2.storeRetries + 1,
    chunkTokens: config.chunkSize,
  };
}

/** Deadlines and breaker of all adapters. */
export function gateOptions(config: EngineConfig): Partial<GateOptions> {
  const { deadlines, breaker } = config.l2;
  return {
    lookupDeadlineMs: deadlines.lookupMs,
    transferBaseMs: deadlines.transferBaseMs,
    transferBytesPerSecond: deadlines.transferBytesPerSecond,
    deleteDeadlineMs: deadlines.deleteMs,
    deadlineHints: {
      lookup: "raise --l2-lookup-timeout-ms",
      transfer: "raise --l2-transfer-timeout-ms or lower --l2-transfer-mb-per-second",
      delete: "raise --l2-delete-timeout-ms",
      list: null,
      open: null,
      close: null,
    },
    breakerFailures: breaker.failures,
    breakerWindowMs: breaker.windowMs,
    probeDelaysMs: probeDelays(breaker.probeMinMs, breaker.probeMaxMs),
  };
}

/** Doubling pauses from the first to the last. */
function probeDelays(firstMs: number, lastMs: number): number[] {
  const delays: number[] = [];
  for (let delay = firstMs; delay < lastMs; delay *= 2) delays.push(delay);
  delays.push(lastMs);
  return delays;
}

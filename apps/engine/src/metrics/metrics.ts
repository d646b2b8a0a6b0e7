import type { RpcServerStatus } from "@cache/lmcache-wire";
import type { StorageManager } from "@cache/storage-manager";
import type { HttpFigures } from "../http/http-counts.ts";
import type { CacheCounters } from "./cache-counters.ts";
import { type Baseline, baselineOf, type Metric, metricsText } from "./exposition.ts";
import { lmcacheMetrics } from "./lmcache-metrics.ts";
import { ownMetrics } from "./own-metrics.ts";

/** Where the figures come from. */
export interface MetricSources {
  readonly manager: StorageManager;
  readonly rpc: () => RpcServerStatus;
  readonly http: () => HttpFigures;
  readonly counters: CacheCounters;
  readonly version: string;
}

/** All metrics of the engine, collected when they are asked for. */
export class Metrics {
  readonly #sources: MetricSources;
  #baseline: Baseline = new Map();

  constructor(sources: MetricSources) {
    this.#sources = sources;
  }

  collect(): Metric[] {
    const { manager, rpc, http, counters, version } = this.#sources;
    return [
      ...lmcacheMetrics(manager, counters),
      ...ownMetrics({ manager, rpc: rpc(), http: http(), counters, version }),
    ];
  }

  /** Prometheus text. */
  text(): string {
    return metricsText(this.collect(), this.#baseline);
  }

  /** Counters and histograms begin at zero again; what the engine itself counts goes on. */
  reset(): void {
    this.#baseline = baselineOf(this.collect());
  }
}

import type { AdapterLog } from "@cache/contracts";
import type { ResolvedAdapter } from "./adapters/resolve-adapters.ts";
import type { EngineConfig } from "./config/engine-config.ts";

/** What the HTTP server asks of a running engine. */
export interface EngineView {
  /** Cheap: called for every healthcheck. */
  health(): { readonly healthy: boolean; readonly reason?: string };
  /** Plain JSON without secrets; `is_healthy` and the other fields of LMCache's `/status`. */
  status(): Readonly<Record<string, unknown>>;
  /** Empties L1. Locked objects stay unless `force`. */
  clear(request: { readonly tier: "l1"; readonly force: boolean }): Promise<void>;
}

/** What `serve` gives to the engine beside its configuration. */
export interface EngineContext {
  readonly log: AdapterLog;
  /** Imported and checked, in the order of the configuration. */
  readonly adapters: readonly ResolvedAdapter[];
  /** Version of @cache/engine. */
  readonly version: string;
  /** Ends a start that is still under way. */
  readonly signal: AbortSignal;
}

/** A running engine. */
export interface RunningEngine {
  readonly view: EngineView;
  /** Where clients connect, e.g. `tcp://127.0.0.1:5555`. */
  readonly rpcAddress: string;
  /** Path of the pool file; null without shared memory. */
  readonly poolPath: string | null;
  /** Lines for the banner: what was found at the start (pool re-attached, journal recovered, …). */
  readonly notes: readonly string[];
  /** Stops taking calls, lets I/O settle, closes adapters, journal and pool. Idempotent. */
  stop(): Promise<{ readonly poolKept: boolean }>;
}

/** Starts the engine: `apps/engine/src/engine/run-engine.ts`. */
export type RunEngine = (config: EngineConfig, context: EngineContext) => Promise<RunningEngine>;

import type { AdapterLog, KeyListPage, ObjectKey, PageRequest } from "@cache/contracts";
import type {
  AdapterStage,
  DrainReport,
  QuotaFigures,
  RemovalReport,
  WarmStatus,
} from "@cache/storage-manager";
import type { ResolvedAdapter } from "./adapters/resolve-adapters.ts";
import type { EngineConfig } from "./config/engine-config.ts";
import type { HttpFigures } from "./http/http-counts.ts";

export type { QuotaFigures, WarmStatus };

/** One configured adapter as operators see it. */
export interface AdapterView {
  readonly id: string;
  readonly type: string;
  /** Other engines write to the same data. */
  readonly shared: boolean;
  /** It can list what it holds. */
  readonly lists: boolean;
}

/** The adapters of a running engine and what is changed about them. */
export interface AdapterSet {
  readonly adapters: readonly {
    readonly id: string;
    readonly type: string;
    readonly location: string;
    readonly stage: AdapterStage;
    /** It came while an engine ran: no command line names it so. */
    readonly added: boolean;
    readonly healthy: boolean;
    /** By our account. */
    readonly objects: number;
    readonly bytes: number;
    readonly queuedStores: number;
  }[];
  /** What is under way. */
  readonly change: { readonly operation: string; readonly id: string; readonly seconds: number } | null;
  /** Removed adapters with operations that have not settled. */
  readonly unsettled: readonly { readonly id: string; readonly operations: number }[];
}

/** An adapter that was added. */
export interface AddedAdapter {
  readonly id: string;
  readonly type: string;
  readonly location: string;
}

/** What draining an adapter came to. */
export interface DrainedAdapter extends DrainReport {
  readonly id: string;
}

/** What removing an adapter came to. */
export interface RemovedAdapter extends RemovalReport {
  readonly id: string;
}

/** An operator's prefetch. */
export interface PrefetchRequest {
  readonly modelName: string;
  readonly worldSize: number;
  /** Unsigned, 32 bits each. */
  readonly tokenIds: readonly number[];
  readonly cacheSalt: string;
}

/**
 * What the HTTP server asks of a running engine. Calls that change something throw `DEGRADED` while the journal
 * cannot be written.
 */
export interface EngineView {
  readonly version: string;
  /** Cheap: called for every healthcheck. */
  health(): { readonly healthy: boolean; readonly reason?: string };
  /** Plain JSON without secrets; `is_healthy` and the other fields of LMCache's `/status`. */
  status(): Readonly<Record<string, unknown>>;
  /** The configuration in force under LMCache's names, without secrets. */
  config(): Readonly<Record<string, unknown>>;
  /** In the order of the configuration. */
  adapters(): readonly AdapterView[];
  /** The adapters as they are now. */
  adapterSet(): AdapterSet;
  /** Adds an adapter from what `--l2-adapter` takes. Throws `CONFLICT`, `INVALID_CONFIG`, what its opening throws. */
  addAdapter(raw: Readonly<Record<string, unknown>>): Promise<AddedAdapter>;
  /** Ends storing to an adapter. `timeoutMs` null: the configured time. Throws `CONFLICT`, `INVALID_ARGUMENT`. */
  drainAdapter(id: string, timeoutMs: number | null): Promise<DrainedAdapter>;
  /** Drains and closes an adapter; `forget` drops its account. Throws as `drainAdapter`. */
  removeAdapter(id: string, timeoutMs: number | null, forget: boolean): Promise<RemovedAdapter>;
  /** Empties L1. Locked objects stay unless `force`. */
  clear(request: { readonly tier: "l1"; readonly force: boolean }): Promise<void>;
  /** A page of what the adapter at `index` holds. */
  listObjects(index: number, page: PageRequest): Promise<KeyListPage>;
  /** Drops objects from L1; those in use stay, and count as skipped, unless `force`. */
  deleteFromL1(
    names: readonly ObjectKey[],
    force: boolean,
  ): { readonly deleted: number; readonly skipped: number };
  /** Deletes objects from the adapter at `index`. Answers how many are not there any more. */
  deleteFromL2(index: number, names: readonly ObjectKey[]): Promise<number>;
  /** Starts to bring chunks from L2 into L1. `nothing`: the tokens make no whole chunk. */
  prefetch(
    request: PrefetchRequest,
  ): Promise<"unknown model" | "nothing" | { readonly id: string; readonly chunks: number }>;
  prefetchStatus(id: string): WarmStatus;
  quota(cacheSalt: string): QuotaFigures;
  quotas(): readonly QuotaFigures[];
  setQuota(cacheSalt: string, limitBytes: number): void;
  /** False: there was none. */
  removeQuota(cacheSalt: string): boolean;
  /** Prometheus text. */
  metrics(): Promise<string>;
  /** Counters and histograms of {@link metrics} begin at zero again. */
  resetMetrics(): Promise<void>;
}

/** What `serve` gives to the engine beside its configuration. */
export interface EngineContext {
  readonly log: AdapterLog;
  /** Imported and checked, in the order of the configuration. */
  readonly adapters: readonly ResolvedAdapter[];
  /** Version of @cache/engine. */
  readonly version: string;
  /** What the HTTP server has counted so far. */
  readonly http: () => HttpFigures;
  /** Told what the start does now, where that may take long. */
  readonly onPhase?: (text: string) => void;
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

import type { FsyncPolicy } from "@cache/journal";

/** When an adapter's objects are evicted: LMCache's `eviction` object. */
export interface EvictionSpec {
  readonly policy: "LRU" | "noop";
  /** Share of the capacity in use that starts an eviction, 0..1. */
  readonly triggerWatermark: number;
  /** Share of the capacity that one eviction frees, 0..1. */
  readonly ratio: number;
}

/** The keys that every adapter configuration may have; the engine takes them out. */
export interface CommonAdapterKeys {
  /** Other engines write to the same data. */
  readonly shared: boolean;
  /** Keep the data when the engine stops. */
  readonly persistEnabled: boolean;
  readonly affinityTag: string;
  /** Null: the engine never evicts from this adapter. */
  readonly eviction: EvictionSpec | null;
}

/** One configured adapter, in the order of the configuration. */
export interface AdapterSpec {
  /** How errors name where it was configured, e.g. `--l2-adapter #1`, `l2_adapter #1 in engine.yaml`, `adapter`. */
  readonly place: string;
  /** `{type}` or `{type}.{instance}`, unique. */
  readonly id: string;
  readonly type: string;
  readonly common: CommonAdapterKeys;
  /** The adapter's own keys, as written: its schema has not seen them yet. */
  readonly own: Readonly<Record<string, unknown>>;
}

/** Everything that `serve` was told: checked, plain, frozen. Units are in the names; a GiB is 2^30 bytes. */
export interface EngineConfig {
  /** Names this engine on its host: `--instance-id`, else the RPC port. */
  readonly instance: string;
  readonly rpc: {
    /** An IP address (`localhost` is 127.0.0.1, `*` is 0.0.0.0). */
    readonly host: string;
    readonly port: number;
    readonly sessionTtlMs: number;
    readonly sessionsMax: number;
    /** An instance that has pinged is dropped after this silence; 0: never. */
    readonly workerReapTimeoutMs: number;
    /** The same for one that never pinged. */
    readonly workerRegistrationGraceMs: number;
    readonly clientGraceMs: number;
    /** KV events kept for subscribers; 0: KV events are off and not advertised. */
    readonly kvEventLogSize: number;
  };
  readonly http: {
    readonly host: string;
    readonly port: number;
    /** `Host` values beside loopback that may change something. */
    readonly allowedHosts: readonly string[];
    /** File with the bearer token for changes; null: none. */
    readonly tokenFile: string | null;
    /** Metrics carry the tenant (`cache_salt`) as a label. */
    readonly metricsSaltLabel: boolean;
  };
  /** Tokens of a chunk. */
  readonly chunkSize: number;
  readonly l1: {
    readonly sizeBytes: number;
    /** How the size came about, for the banner. */
    readonly sizeOrigin: "configured" | "default";
    readonly alignBytes: number;
    /** `""`: no shared memory. */
    readonly shmName: string;
    /** Mode bits of the pool file. */
    readonly shmMode: number;
    /** Numeric group of the pool file; null: the process's. */
    readonly shmGroup: number | null;
    readonly writeTtlMs: number;
    readonly readTtlMs: number;
    readonly storeWaitMs: number;
    readonly freePoolOnExit: boolean;
    readonly eviction: EvictionSpec;
  };
  readonly l2: {
    readonly adapters: readonly AdapterSpec[];
    readonly storePolicy: "default" | "skip_l1";
    readonly prefetchPolicy: "default" | "retain";
    readonly prefetchMaxInFlight: number;
    readonly prefetchDeadline: {
      readonly baseMs: number;
      readonly perThousandTokensMs: number;
      readonly maxMs: number;
    };
    readonly deadlines: {
      readonly lookupMs: number;
      /** A load or store may take this long and as long as its bytes take at `bytesPerSecond`. */
      readonly transferBaseMs: number;
      readonly transferBytesPerSecond: number;
      readonly deleteMs: number;
    };
    readonly breaker: {
      readonly failures: number;
      readonly windowMs: number;
      readonly probeMinMs: number;
      readonly probeMaxMs: number;
    };
    readonly storeRetries: number;
    /** Time for what is under way when an adapter is drained or removed. */
    readonly drainTimeoutMs: number;
    /** What was changed about the adapters while an engine ran. */
    readonly runtimeAdapters: "keep" | "forget";
  };
  /** Names another namespace of keys; null: LMCache's. */
  readonly cacheIdentity: string | null;
  readonly state: {
    /** Absolute; null keeps everything in memory and nothing survives. */
    readonly directory: string | null;
  };
  readonly journalFsync: FsyncPolicy;
  readonly discovery: {
    /** Replace the usual roots; empty: the usual ones. */
    readonly roots: readonly string[];
    /** Empty: all packages. */
    readonly allow: readonly string[];
    /** Below which an adapter that is added over HTTP may have its paths; empty: it may have none. */
    readonly pathRoots: readonly string[];
  };
  readonly logLevel: "trace" | "debug" | "info" | "warn" | "error" | "fatal" | "silent";
}

/** Where a value came from. */
export type ConfigOrigin = "flag" | "environment" | "file" | "default";

import { type ObjectNames, WIRE_NAMES } from "@cache/contracts";
import type { SimpleStore } from "./store.ts";

/** What {@link createSimpleAdapter} must know beside the store. */
export interface SimpleAdapterOptions {
  /** The configured type, for the status. */
  readonly type: string;
  /** What identifies the data: server, bucket and prefix, directory. No secret in it. */
  readonly location: string;
  /** Objects are still there after `close` and a new `open` with the same configuration. */
  readonly persistent: boolean;
  /** Other processes may read and write the same data. */
  readonly shared: boolean;
  /** How keys are written. Default `WIRE_NAMES`, LMCache's form; `PERCENT_ENCODED_NAMES` is one safe path segment. */
  readonly names?: ObjectNames | undefined;
  /** Put before each name as it is, e.g. `"kv/"`. Default none. */
  readonly prefix?: string | undefined;
  /** Bytes that this engine may keep here. With it and `remove` the engine evicts; default no limit. */
  readonly capacityBytes?: number | undefined;
  /** Calls of the store under way at a time, over all operations. Default 16. */
  readonly concurrency?: number | undefined;
  /** A call that takes longer fails, in milliseconds. Default 30 000. */
  readonly callTimeoutMs?: number | undefined;
  /** Between two pings, in milliseconds; 0 for none after open. Default 10 000. */
  readonly pingIntervalMs?: number | undefined;
  /** Most keys in one operation of the adapter; the engine splits larger ones. Default 1024. */
  readonly maxBatchKeys?: number | undefined;
  /** Largest object in bytes. Default 1 GiB. */
  readonly maxObjectBytes?: number | undefined;
  /** Most keys in one call of a batched form. Default 100. */
  readonly batchKeys?: number | undefined;
  /** Most payload bytes in one call of a batched form, unless one object is larger. Default 64 MiB. */
  readonly batchBytes?: number | undefined;
  /** Objects larger than this are read in parts of this many bytes at a time, by `getInto`. Default: whole. */
  readonly rangeBytes?: number | undefined;
  /** `put` is given the engine's own memory, not a copy: see the rules of {@link SimpleStore}. Default false. */
  readonly zeroCopyPut?: boolean | undefined;
  /** False if another process writes into the memory that `getInto` is given. Default true. */
  readonly writesOnlyFromEngineProcess?: boolean | undefined;
  /** `open` is given a directory of the adapter's own. Default false. */
  readonly needsStateDir?: boolean | undefined;
  /** Values (passwords, tokens) that are struck out of the store's error messages. */
  readonly secrets?: readonly string[] | undefined;
  /** Further fields of the status: plain JSON, no secrets. */
  status?(): Readonly<Record<string, unknown>>;
}

/** The options with their defaults. */
export interface Settings {
  readonly type: string;
  readonly location: string;
  readonly persistent: boolean;
  readonly shared: boolean;
  readonly names: ObjectNames;
  readonly prefix: string;
  readonly capacityBytes: number | null;
  readonly concurrency: number;
  readonly callTimeoutMs: number;
  readonly pingIntervalMs: number;
  readonly maxBatchKeys: number;
  readonly maxObjectBytes: number;
  readonly batchKeys: number;
  readonly batchBytes: number;
  readonly rangeBytes: number | null;
  readonly zeroCopyPut: boolean;
  readonly writesOnlyFromEngineProcess: boolean;
  readonly needsStateDir: boolean;
  readonly secrets: readonly string[];
  readonly status: () => Readonly<Record<string, unknown>>;
}

const GIB = 1024 ** 3;
/** Node's longest timer. */
const TIMER_MS_MAX = 2 ** 31 - 1;

function count(name: string, value: number, least = 1, most = Number.MAX_SAFE_INTEGER): number {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
  throw new TypeError(`createSimpleAdapter: ${name} ${value} is not a whole number in ${least}..${most}`);
}

/** @throws TypeError for a value out of range: a mistake of the adapter's author. */
export function settingsOf(store: SimpleStore, options: SimpleAdapterOptions): Settings {
  const { type, location, persistent, shared, capacityBytes, rangeBytes } = options;
  if (location === "") throw new TypeError("createSimpleAdapter: location is empty");
  if (rangeBytes !== undefined && store.getInto === undefined) {
    throw new TypeError("createSimpleAdapter: rangeBytes needs a store with getInto");
  }
  return {
    type,
    location,
    persistent,
    shared,
    names: options.names ?? WIRE_NAMES,
    prefix: options.prefix ?? "",
    capacityBytes: capacityBytes === undefined ? null : count("capacityBytes", capacityBytes),
    concurrency: count("concurrency", options.concurrency ?? 16, 1, 1024),
    callTimeoutMs: count("callTimeoutMs", options.callTimeoutMs ?? 30_000, 1, TIMER_MS_MAX),
    pingIntervalMs: count("pingIntervalMs", options.pingIntervalMs ?? 10_000, 0, TIMER_MS_MAX),
    maxBatchKeys: count("maxBatchKeys", options.maxBatchKeys ?? 1024, 1, 65_536),
    maxObjectBytes: count("maxObjectBytes", options.maxObjectBytes ?? GIB, 1, 4 * GIB),
    batchKeys: count("batchKeys", options.batchKeys ?? 100),
    batchBytes: count("batchBytes", options.batchBytes ?? 64 * 1024 * 1024),
    rangeBytes: rangeBytes === undefined ? null : count("rangeBytes", rangeBytes),
    zeroCopyPut: options.zeroCopyPut ?? false,
    writesOnlyFromEngineProcess: options.writesOnlyFromEngineProcess ?? true,
    needsStateDir: options.needsStateDir ?? false,
    secrets: (options.secrets ?? []).filter((secret) => secret !== ""),
    status: () => options.status?.() ?? {},
  };
}

import {
  type AdapterStatus,
  type AdapterUsage,
  Bitmap,
  CacheError,
  decodeObjectKey,
  encodeObjectKey,
  isCacheError,
  type KeyListPage,
  keyString,
  type L1MemoryDesc,
  type L2Adapter,
  type L2Capabilities,
  type L2StoreResult,
  type MemoryObj,
  messageOf,
  type ObjectKey,
  type OpenContext,
  type PageRequest,
  type SizedKey,
} from "@cache/contracts";
import { type MockClock, systemClock } from "./clock.ts";
import type { MockConfig } from "./config.ts";
import { Faults, type MockOperation } from "./faults.ts";

const GIB = 1024 ** 3;
const MAX_BATCH_KEYS = 65_536;
const PAGE_SIZE_MAX = 5000;

/** Replaceable sources of time and chance. */
export interface MockPorts {
  /** Default: the machine's clock. */
  readonly clock?: MockClock;
  /** Uniform in [0, 1); decides the failure rates. Default `Math.random`. */
  readonly random?: () => number;
}

/** What a test does to the store behind the adapter's back. */
export interface MockControl extends Pick<Faults, "failNext" | "hang"> {
  /** Removes objects, locked or not, as if another process had. Usage goes down with them. */
  dropKeys(keys: readonly ObjectKey[]): void;
  /** Cuts an object, or lengthens it with zeros, to `byteLength`. */
  corruptLength(key: ObjectKey, byteLength: number): void;
  /** Flips one bit of an object's first byte. */
  corruptBytes(key: ObjectKey): void;
  /** Lock references held for a key. */
  lockCount(key: ObjectKey): number;
  /** How often each operation was called since creation. */
  callCount(operation: MockOperation): number;
  /** Operations that have not settled. */
  readonly inFlight: number;
}

/** The mock with its optional operations and its control handle. */
export type MockAdapter = L2Adapter &
  Required<Pick<L2Adapter, "delete" | "listKeys" | "quarantine">> & { readonly control: MockControl };

interface StoredObject {
  readonly key: ObjectKey;
  bytes: Uint8Array;
  locks: number;
}

type LifeState = "created" | "open" | "closed";

/** All in memory: nothing survives the object. Bandwidth and latency are timers that end early on abort. */
class MemoryStore implements MockAdapter {
  readonly capabilities: L2Capabilities;
  readonly location: string;
  readonly control: MockControl;
  readonly #config: MockConfig;
  readonly #capacityBytes: number;
  readonly #clock: MockClock;
  readonly #random: () => number;
  readonly #objects = new Map<string, StoredObject>();
  readonly #bytesBySalt = new Map<string, number>();
  readonly #quarantined = new Map<string, string>();
  readonly #faults = new Faults();
  readonly #calls = new Map<MockOperation, number>();
  readonly #inFlight = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();
  #state: LifeState = "created";
  #usedBytes = 0;
  #reservedBytes = 0;
  #pipeFreeAt = 0;

  constructor(config: MockConfig, ports: MockPorts) {
    this.#config = config;
    this.#capacityBytes = Math.floor(config.max_size_gb * GIB);
    this.#clock = ports.clock ?? systemClock;
    this.#random = ports.random ?? Math.random;
    this.location = "memory of this process";
    this.capabilities = Object.freeze({
      persistent: false,
      shared: false,
      delete: true,
      listKeys: true,
      quarantine: true,
      globalEviction: true,
      l1Registration: "none",
      needsStateDir: false,
      writesOnlyFromEngineProcess: true,
      maxBatchKeys: MAX_BATCH_KEYS,
      maxObjectBytes: Math.max(1, this.#capacityBytes),
    });
    this.control = this.#makeControl();
  }

  async open(context: OpenContext): Promise<void> {
    if (this.#state === "closed") throw closedError("open");
    this.#count("open");
    await this.#faults.before("open", context.signal);
    if (context.signal.aborted) throw abortedError("open");
    if (this.#state === "created") this.#state = "open";
  }

  store(
    keys: readonly ObjectKey[],
    objects: readonly MemoryObj[],
    signal: AbortSignal,
  ): Promise<L2StoreResult> {
    return this.#run("store", keys.length, signal, async (ended) => {
      if (keys.length !== objects.length) {
        throw new TypeError(`store: ${keys.length} keys and ${objects.length} objects`);
      }
      const stored = new Bitmap(keys.length);
      const failed = new Map<number, CacheError>();
      let bytesTransferred = 0;
      for (const [i, key] of keys.entries()) {
        try {
          bytesTransferred += await this.#storeOne(key, (objects[i] as MemoryObj).bytes, ended);
          stored.set(i);
        } catch (error) {
          if (!isCacheError(error)) throw error;
          failed.set(i, error);
        }
      }
      return { stored, failed, bytesTransferred };
    });
  }

  lookupAndLock(requests: readonly SizedKey[], signal: AbortSignal): Promise<Bitmap> {
    return this.#run("lookup", requests.length, signal, async () => {
      this.#failByChance("lookup", this.#config.lookup_failure_rate);
      const found = new Bitmap(requests.length);
      // Nothing waits from here on: an abort can no longer come between a lock and its answer.
      for (const [i, { key, byteLength }] of requests.entries()) {
        const object = this.#objects.get(keyString(key));
        if (object?.bytes.length !== byteLength) continue;
        object.locks++;
        found.set(i);
      }
      return found;
    });
  }

  unlock(keys: readonly ObjectKey[]): void {
    for (const key of keys) {
      const object = this.#objects.get(keyString(key));
      if (object !== undefined && object.locks > 0) object.locks--;
    }
  }

  load(requests: readonly SizedKey[], into: readonly MemoryObj[], signal: AbortSignal): Promise<Bitmap> {
    return this.#run("load", requests.length, signal, async (ended) => {
      if (requests.length !== into.length) {
        throw new TypeError(`load: ${requests.length} keys and ${into.length} buffers`);
      }
      this.#failByChance("load", this.#config.load_failure_rate);
      const loaded = new Bitmap(requests.length);
      for (const [i, { key, byteLength }] of requests.entries()) {
        const target = (into[i] as MemoryObj).bytes;
        const object = this.#objects.get(keyString(key));
        if (object?.bytes.length !== byteLength || target.length !== byteLength) continue;
        await this.#transfer(byteLength, "load", ended);
        target.set(object.bytes.subarray(0, target.length));
        // Cut meanwhile by a test: what was copied is not the whole object.
        if (object.bytes.length === byteLength) loaded.set(i);
      }
      return loaded;
    });
  }

  delete(keys: readonly ObjectKey[], signal: AbortSignal): Promise<Bitmap> {
    return this.#run("delete", keys.length, signal, async () => {
      const gone = new Bitmap(keys.length);
      for (const [i, key] of keys.entries()) {
        if ((this.#objects.get(keyString(key))?.locks ?? 0) > 0) continue;
        this.#remove(keyString(key));
        gone.set(i);
      }
      return gone;
    });
  }

  listKeys(page: PageRequest, signal: AbortSignal): Promise<KeyListPage> {
    return this.#run("listKeys", 1, signal, async () => {
      const { pageSize, pageToken, modelName } = page;
      if (!Number.isInteger(pageSize) || pageSize < 1 || pageSize > PAGE_SIZE_MAX) {
        throw new CacheError("INVALID_ARGUMENT", `page size ${pageSize} is not in 1..${PAGE_SIZE_MAX}`);
      }
      // A token is the last key of the page before, so that stores and deletes between pages shift nothing.
      const after = pageToken === undefined ? null : pageTokenKey(pageToken);
      const names = [...this.#objects]
        .filter(([name, { key }]) => {
          return (modelName === undefined || key.modelName === modelName) && (after === null || name > after);
        })
        .map(([name]) => name)
        .toSorted();
      const chosen = names.slice(0, pageSize).map((name) => this.#objects.get(name) as StoredObject);
      const last = chosen.at(-1);
      const more = names.length > pageSize && last !== undefined;
      return {
        entries: chosen.map(({ key, bytes }) => ({ key: encodeObjectKey(key), size_bytes: bytes.length })),
        nextPageToken: more
          ? Buffer.from(JSON.stringify(encodeObjectKey(last.key))).toString("base64url")
          : null,
      };
    });
  }

  quarantine(keys: readonly ObjectKey[], reason: string, signal: AbortSignal): Promise<void> {
    return this.#run("quarantine", keys.length, signal, async () => {
      for (const key of keys) {
        const name = keyString(key);
        if (this.#objects.has(name)) this.#quarantined.set(name, reason);
        this.#remove(name);
      }
    });
  }

  usage(): AdapterUsage {
    return {
      totalBytesUsed: this.#usedBytes,
      capacityBytes: this.#capacityBytes,
      bytesByCacheSalt: new Map(this.#bytesBySalt),
    };
  }

  status(): AdapterStatus {
    return {
      isHealthy: this.#state === "open",
      type: "mock",
      object_count: this.#objects.size,
      quarantined_count: this.#quarantined.size,
      in_flight: this.#inFlight.size,
      used_bytes: this.#usedBytes,
      capacity_bytes: this.#capacityBytes,
    };
  }

  async close(): Promise<void> {
    this.#state = "closed";
    this.#closing.abort();
    await Promise.allSettled(this.#inFlight);
  }

  /** What all waiting operations share: state, bounds, faults, latency, and being counted until they settle. */
  #run<T>(
    operation: MockOperation,
    keyCount: number,
    signal: AbortSignal,
    work: (ended: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const ended = AbortSignal.any([signal, this.#closing.signal]);
    const steps = async (): Promise<T> => {
      if (this.#state !== "open") throw closedError(operation);
      this.#count(operation);
      if (keyCount > MAX_BATCH_KEYS) {
        throw new CacheError(
          "INVALID_ARGUMENT",
          `${operation} of ${keyCount} keys: split it at ${MAX_BATCH_KEYS}`,
        );
      }
      await this.#faults.before(operation, ended);
      if (this.#config.latency_ms > 0) await this.#clock.sleep(this.#config.latency_ms, ended);
      this.#throwIfEnded(operation, ended);
      return work(ended);
    };
    const running = steps();
    this.#inFlight.add(running);
    const settled = (): void => void this.#inFlight.delete(running);
    running.then(settled, settled);
    return running;
  }

  /** Payload bytes written: 0 where an object of that length is there already. */
  async #storeOne(key: ObjectKey, bytes: Uint8Array, ended: AbortSignal): Promise<number> {
    const name = keyString(key);
    if (this.#objects.get(name)?.bytes.length === bytes.length) return 0;
    this.#throwIfEnded("store", ended);
    this.#failByChance("store", this.#config.store_failure_rate);
    if (this.#usedBytes + this.#reservedBytes + bytes.length > this.#capacityBytes) {
      throw new CacheError(
        "BACKEND_FULL",
        `mock: ${bytes.length} bytes do not fit into the ${this.#capacityBytes} of max_size_gb beside ${this.#usedBytes}; raise max_size_gb or evict`,
      );
    }
    this.#reservedBytes += bytes.length;
    try {
      await this.#transfer(bytes.length, "store", ended);
    } finally {
      this.#reservedBytes -= bytes.length;
    }
    const there = this.#objects.get(name);
    if (there?.bytes.length === bytes.length) return 0;
    if (there !== undefined && there.locks > 0) {
      throw new CacheError("CONFLICT", "mock: a locked object of another length is there; unlock it first");
    }
    this.#remove(name);
    this.#objects.set(name, { key, bytes: Uint8Array.from(bytes), locks: 0 });
    this.#account(key.cacheSalt, bytes.length);
    return bytes.length;
  }

  /** Waits for as long as the bytes take behind all transfers that were asked for before. */
  async #transfer(byteLength: number, operation: MockOperation, ended: AbortSignal): Promise<void> {
    const now = this.#clock.now();
    const seconds = byteLength / (this.#config.mock_bandwidth_gb * GIB);
    this.#pipeFreeAt = Math.max(this.#pipeFreeAt, now) + seconds * 1000;
    // Timers count whole milliseconds: shorter waits add up in #pipeFreeAt until they are worth one.
    const waitMs = this.#pipeFreeAt - now;
    if (waitMs >= 1) await this.#clock.sleep(waitMs, ended);
    this.#throwIfEnded(operation, ended);
  }

  #throwIfEnded(operation: MockOperation, ended: AbortSignal): void {
    if (this.#state !== "open") throw closedError(operation);
    if (ended.aborted) throw abortedError(operation);
  }

  #failByChance(operation: MockOperation, failureRate: number): void {
    if (failureRate > 0 && this.#random() < failureRate) {
      throw new CacheError(
        "BACKEND_UNAVAILABLE",
        `mock: ${operation} failed by chance; lower ${operation}_failure_rate (${failureRate})`,
      );
    }
  }

  #remove(name: string): void {
    const object = this.#objects.get(name);
    if (object === undefined) return;
    this.#objects.delete(name);
    this.#account(object.key.cacheSalt, -object.bytes.length);
  }

  #account(cacheSalt: string, bytes: number): void {
    this.#usedBytes += bytes;
    const held = (this.#bytesBySalt.get(cacheSalt) ?? 0) + bytes;
    if (held > 0) this.#bytesBySalt.set(cacheSalt, held);
    else this.#bytesBySalt.delete(cacheSalt);
  }

  #count(operation: MockOperation): void {
    this.#calls.set(operation, (this.#calls.get(operation) ?? 0) + 1);
  }

  #replaceBytes(key: ObjectKey, change: (bytes: Uint8Array) => Uint8Array): void {
    const object = this.#objects.get(keyString(key));
    if (object === undefined) throw new TypeError(`control: no object ${keyString(key)}`);
    const before = object.bytes.length;
    object.bytes = change(object.bytes);
    this.#account(key.cacheSalt, object.bytes.length - before);
  }

  #makeControl(): MockControl {
    const inFlight = (): number => this.#inFlight.size;
    return {
      failNext: (...planned) => this.#faults.failNext(...planned),
      hang: (...planned) => this.#faults.hang(...planned),
      dropKeys: (keys) => {
        for (const key of keys) this.#remove(keyString(key));
      },
      corruptLength: (key, byteLength) =>
        this.#replaceBytes(key, (bytes) => {
          const changed = new Uint8Array(byteLength);
          changed.set(bytes.subarray(0, byteLength));
          return changed;
        }),
      corruptBytes: (key) =>
        this.#replaceBytes(key, (bytes) => bytes.map((byte, i) => (i === 0 ? byte ^ 1 : byte))),
      lockCount: (key) => this.#objects.get(keyString(key))?.locks ?? 0,
      callCount: (operation) => this.#calls.get(operation) ?? 0,
      get inFlight() {
        return inFlight();
      },
    };
  }
}

function closedError(operation: string): CacheError {
  return new CacheError(
    "ADAPTER_CLOSED",
    `mock: ${operation} on an adapter that is not open; open a new one`,
  );
}

function abortedError(operation: string): CacheError {
  return new CacheError("ABORTED", `mock: ${operation} was aborted by its caller; try again or wait longer`);
}

/** The key that a page token names, in the form that orders the listing. */
function pageTokenKey(pageToken: string): string {
  try {
    const encoded: unknown = JSON.parse(Buffer.from(pageToken.slice(0, 8192), "base64url").toString("utf8"));
    return keyString(decodeObjectKey(encoded as Parameters<typeof decodeObjectKey>[0]));
  } catch (cause) {
    throw new CacheError(
      "INVALID_ARGUMENT",
      `page token ${JSON.stringify(pageToken.slice(0, 40))} is not one of ours (${messageOf(cause)}); start again without one`,
    );
  }
}

/**
 * Makes a store in memory.
 *
 * @param config capacity in GiB, bandwidth in GiB/s, latency and failure rates.
 * @param _l1 not needed: the mock copies to and from any buffer.
 * @param ports clock and chance, for tests.
 */
export function createMockAdapter(
  config: MockConfig,
  _l1?: L1MemoryDesc,
  ports: MockPorts = {},
): MockAdapter {
  return new MemoryStore(config, ports);
}

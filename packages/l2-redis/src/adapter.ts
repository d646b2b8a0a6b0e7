import {
  abortedError,
  assertBuffers,
  assertPairs,
  KeyGuard,
  Operations,
  orAborted,
} from "@cache/adapter-kit";
import {
  type AdapterStatus,
  type AdapterUsage,
  Bitmap,
  CacheError,
  isCacheError,
  type KeyListPage,
  type L1MemoryDesc,
  type L2Adapter,
  type L2Capabilities,
  type L2StoreResult,
  type MemoryObj,
  type ObjectKey,
  type OpenContext,
  type PageRequest,
  type SizedKey,
} from "@cache/contracts";
import { Accounting } from "./accounting.ts";
import { BulkClient } from "./bulk-client.ts";
import { BulkRequest } from "./bulk-request.ts";
import type { RedisConfig } from "./config.ts";
import { redactor } from "./errors.ts";
import { listPage } from "./listing.ts";
import { encodeWireKey } from "./names.ts";
import { OBJECT_BYTES_MAX, storeObjects, type WriterParts } from "./object-writer.ts";
import { type Place, placeOf, readCredentials } from "./settings.ts";
import { Topology } from "./topology.ts";
import { Watch } from "./watch.ts";

const BATCH_KEYS_MAX = 1024;

/** What exists from `open` on. */
interface Opened {
  readonly log: OpenContext["log"];
  readonly topology: Topology;
  readonly bulk: BulkClient;
  readonly watch: Watch;
}

/** Makes the adapter on Redis, a cluster, or what Sentinels watch. No I/O before `open`. */
export function createRedisAdapter(config: RedisConfig, _l1?: L1MemoryDesc): L2Adapter {
  return new RedisAdapter(config);
}

/** One Redis string an object, as LMCache's `resp` and `valkey` adapters write them. */
class RedisAdapter implements L2Adapter {
  readonly location: string;
  readonly capabilities: L2Capabilities;
  readonly #config: RedisConfig;
  readonly #place: Place;
  readonly #accounting: Accounting;
  readonly #operations = new Operations("redis");
  readonly #guard = new KeyGuard();
  readonly #counts = { length_mismatches: 0, bytes_read: 0, bytes_written: 0 };
  #opened: Opened | null = null;
  #opening: Promise<void> | null = null;
  #closing: Promise<void> | null = null;
  readonly #closed = new AbortController();

  constructor(config: RedisConfig) {
    this.#config = config;
    this.#place = placeOf(config);
    this.location = this.#place.location;
    this.#accounting = new Accounting(this.location, config);
    this.capabilities = Object.freeze({
      persistent: true,
      shared: true,
      delete: true,
      listKeys: true,
      quarantine: false,
      globalEviction: this.#accounting.limitBytes !== "unbounded",
      l1Registration: "none",
      needsStateDir: false,
      writesOnlyFromEngineProcess: true,
      maxBatchKeys: BATCH_KEYS_MAX,
      maxObjectBytes: OBJECT_BYTES_MAX,
    });
  }

  async open(context: OpenContext): Promise<void> {
    if (this.#closing !== null) this.#operations.assertOpen();
    this.#opening ??= this.#open(context).catch((error: unknown) => {
      this.#opening = null;
      throw error;
    });
    await orAborted(this.#opening, context.signal);
  }

  async #open({ log, signal }: OpenContext): Promise<void> {
    const config = this.#config;
    const place = this.#place;
    const ended = AbortSignal.any([signal, this.#closed.signal]);
    if (ended.aborted) throw abortedError();
    const credentials = await readCredentials(config, place);
    const redact = redactor([credentials.password, encodeURIComponent(credentials.password)]);
    const connectTimeoutMs = config.connection_timeout * 1000;
    const requestTimeoutMs = config.request_timeout * 1000;
    const topology = new Topology({ place, credentials, connectTimeoutMs, requestTimeoutMs, redact });
    const bulk = new BulkClient({
      topology,
      place,
      credentials,
      connectionsMax: config.num_workers,
      connectTimeoutMs,
      stallTimeoutMs: requestTimeoutMs,
      ttlSeconds: config.ttl_seconds,
      redact,
      transferred: (request) => this.#transferred(request),
    });
    try {
      await topology.open(ended);
      await bulk.probe(ended);
      await this.#assertTopology(topology, ended);
    } catch (error) {
      topology.close();
      await bulk.close();
      throw error;
    }
    const { key_prefix: keyPrefix } = config;
    const scanIntervalMs = config.scan_interval_seconds * 1000;
    const onNodes = (addresses: ReadonlySet<string>): void => bulk.retainNodes(addresses);
    const watch = new Watch({
      topology,
      accounting: this.#accounting,
      log,
      keyPrefix,
      scanIntervalMs,
      onNodes,
    });
    this.#opened = { log, topology, bulk, watch };
    this.#operations.begin();
    this.#sayWhatIsSpecial(log, credentials.password);
    watch.start();
  }

  /** A cluster that is taken for a single server would refuse most keys, one by one. */
  async #assertTopology(topology: Topology, signal: AbortSignal): Promise<void> {
    if (this.#place.mode === "cluster") return;
    const [node] = topology.nodes();
    const info = await orAborted(
      node?.call("INFO", "cluster").catch(() => "") ?? Promise.resolve(""),
      signal,
    );
    if (!/cluster_enabled:1/.test(String(info))) return;
    throw new CacheError("INVALID_CONFIG", `${this.location} is part of a cluster: set cluster_mode to true`);
  }

  #sayWhatIsSpecial(log: OpenContext["log"], password: string): void {
    const { key_prefix, ttl_seconds, max_capacity_gb } = this.#config;
    if (key_prefix !== "") {
      log.info("keys have a prefix: they are not shared with LMCache's resp adapter", { key_prefix });
    }
    if (ttl_seconds !== null) {
      log.info("objects expire: LMCache's resp adapter writes and expects them without", { ttl_seconds });
    }
    if (ttl_seconds !== null && max_capacity_gb > 0) {
      log.warn(
        "ttl_seconds and max_capacity_gb both limit the cache: what expires counts until it is noticed",
        {
          ttl_seconds,
          max_capacity_gb,
        },
      );
    }
    if (password !== "" && process.argv.some((word) => word.includes(password))) {
      log.warn("the password stands on the command line, where every user of this machine can read it", {
        remedy: "password_file",
      });
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#closed.abort();
    await this.#opening?.catch(() => undefined);
    const ended = this.#operations.end();
    await this.#opened?.bulk.close();
    await ended;
    await this.#opened?.watch.stop();
    this.#opened?.topology.close();
    this.#guard.clear();
  }

  #state(): Opened {
    if (this.#opened === null) throw new TypeError("an operation ran before open");
    return this.#opened;
  }

  #names(keys: readonly ObjectKey[]): string[] {
    return keys.map((key) => encodeWireKey(key, this.#config.key_prefix));
  }

  #transferred(request: BulkRequest): void {
    const { byteLength } = request.bytes;
    if (request.kind === "get") this.#counts.bytes_read += byteLength;
    else this.#counts.bytes_written += byteLength;
  }

  store(
    keys: readonly ObjectKey[],
    objects: readonly MemoryObj[],
    signal: AbortSignal,
  ): Promise<L2StoreResult> {
    return this.#operations.run(signal, async (ended) => {
      assertPairs("store", keys.length, objects.length);
      const names = this.#names(keys);
      const { topology, bulk } = this.#state();
      const parts: WriterParts = {
        location: this.location,
        ttlSeconds: this.#config.ttl_seconds,
        accounting: this.#accounting,
        topology,
        bulk,
        onMismatch: () => this.#counts.length_mismatches++,
      };
      const store = (): Promise<L2StoreResult> => storeObjects(parts, keys, names, objects, ended);
      const result = await this.#guard.exclusively("store", names, store);
      if (result.stored.count() > 0) this.#operations.countSuccess();
      for (const error of result.failed.values()) this.#operations.countError(error);
      return result;
    });
  }

  lookupAndLock(requests: readonly SizedKey[], signal: AbortSignal): Promise<Bitmap> {
    return this.#operations.run(signal, async (ended) => {
      const found = new Bitmap(requests.length);
      const names = this.#names(requests.map(({ key }) => key));
      await this.#guard.lockAll(names);
      const asOf = this.#accounting.own.now();
      try {
        const lengths = await this.#state().topology.run(
          names.map((name) => ["strlen", name]),
          ended,
        );
        const errors: CacheError[] = [];
        for (const [i, length] of lengths.entries()) {
          const { byteLength } = requests[i] as SizedKey;
          if (isCacheError(length)) {
            if (length.details["reply"] !== "WRONGTYPE") errors.push(length);
          } else if (length === 0) this.#accounting.missing(names[i] as string, asOf);
          else if (length === byteLength) found.set(i);
          else this.#counts.length_mismatches++;
        }
        // Throws only if nothing was found: no lock stays.
        this.#operations.settle(errors, lengths.length - errors.length, this.#state().log);
      } finally {
        names.forEach((name, i) => {
          if (!found.has(i)) this.#guard.unlock(name);
        });
      }
      return found;
    });
  }

  unlock(keys: readonly ObjectKey[]): void {
    for (const name of this.#names(keys)) this.#guard.unlock(name);
  }

  load(requests: readonly SizedKey[], into: readonly MemoryObj[], signal: AbortSignal): Promise<Bitmap> {
    return this.#operations.run(signal, async (ended) => {
      assertBuffers(requests, into);
      const loaded = new Bitmap(requests.length);
      const names = this.#names(requests.map(({ key }) => key));
      const asOf = this.#accounting.own.now();
      const gets = names.map((name, i) => new BulkRequest("get", name, (into[i] as MemoryObj).bytes));
      // An object of 0 bytes was never stored, and has no buffer to read into.
      const asked = gets.filter(({ bytes }) => bytes.byteLength > 0);
      await this.#state().bulk.run(asked, ended);
      const errors: CacheError[] = [];
      for (const [i, request] of gets.entries()) {
        if (request.outcome === "done") loaded.set(i);
        else if (request.outcome === "missing") this.#accounting.missing(request.name, asOf);
        else if (request.outcome === "other-length") this.#counts.length_mismatches++;
        else if (request.error !== null) errors.push(request.error);
      }
      this.#operations.settle(errors, asked.length - errors.length, this.#state().log);
      return loaded;
    });
  }

  delete(keys: readonly ObjectKey[], signal: AbortSignal): Promise<Bitmap> {
    return this.#operations.run(signal, async (ended) => {
      const gone = new Bitmap(keys.length);
      const names = this.#names(keys);
      await this.#guard.exclusively("delete", names, async () => {
        const chosen = names.flatMap((name, i) => (this.#guard.isLocked(name) ? [] : [i]));
        const commands = chosen.map((i) => ["del", names[i] as string] as const);
        const replies = await this.#state().topology.run(commands, ended);
        const errors: CacheError[] = [];
        for (const [n, i] of chosen.entries()) {
          const reply = replies[n];
          if (typeof reply !== "number") errors.push(reply as CacheError);
          else {
            gone.set(i);
            this.#accounting.missing(names[i] as string);
          }
        }
        this.#operations.settle(errors, chosen.length - errors.length, this.#state().log);
      });
      return gone;
    });
  }

  listKeys(page: PageRequest, signal: AbortSignal): Promise<KeyListPage> {
    return this.#operations.run(signal, async (ended) => {
      try {
        return await listPage(this.#state().topology, this.#config.key_prefix, page, ended);
      } catch (error) {
        throw isCacheError(error) ? this.#operations.countError(error) : error;
      }
    });
  }

  usage(): AdapterUsage {
    return this.#accounting.usage();
  }

  status(): AdapterStatus {
    const { watch, bulk } = this.#opened ?? {};
    const { own, tier, limitBytes } = this.#accounting;
    const { key_prefix, ttl_seconds } = this.#config;
    return {
      isHealthy: this.#operations.isHealthy && watch?.isReachable === true,
      type: "redis",
      location: this.location,
      mode: this.#place.mode,
      tls: this.#place.tls,
      key_prefix,
      ttl_seconds,
      shared_with_lmcache_resp: key_prefix === "" && ttl_seconds === null && this.#place.database === 0,
      stored_object_count: own.count,
      current_size_bytes: own.bytes,
      tier_object_count: tier.objects,
      tier_size_bytes: tier.bytes,
      max_capacity_bytes: limitBytes === "unbounded" ? null : limitBytes,
      operations_in_flight: this.#operations.inFlight,
      locked_keys: this.#guard.lockedCount,
      lost_connections: bulk?.lostConnections ?? 0,
      connections: bulk?.nodes ?? [],
      errors: this.#operations.errorCounts,
      ...this.#counts,
      ...(watch?.status() ?? { reachable: false, latency_ms: null, servers: {}, scan: null }),
    };
  }
}

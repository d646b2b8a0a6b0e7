import { abortedError, assertBuffers, assertPairs, Operations, OwnObjects } from "@cache/adapter-kit";
import {
  type AdapterLog,
  type AdapterStatus,
  type AdapterUsage,
  Bitmap,
  CacheError,
  isCacheError,
  type KeyListPage,
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
import { groupsOf, type Placed } from "./groups.ts";
import { Heartbeat } from "./heartbeat.ts";
import { KeyListing } from "./listing.ts";
import { type HoldKind, NameLocks } from "./name-locks.ts";
import { type Item, ObjectCalls, type ReadOutcome, type Scope } from "./object-calls.ts";
import { type Settings, settingsOf, type SimpleAdapterOptions } from "./options.ts";
import { lockedError, Room } from "./room.ts";
import type { SimpleStore } from "./store.ts";
import { StoreCalls } from "./store-calls.ts";
import { StoreErrors } from "./store-errors.ts";

/** How long close waits for calls that nobody waits for any more, and for the store's own close. */
const CLOSE_GRACE_MS = 5000;
const NOTHING = new Uint8Array(0);

/** Which items go where: those with a name, and what became of the others. */
interface Plan {
  readonly placed: Placed[];
  readonly nameless: ReadonlyMap<number, CacheError>;
}

/** What an operation found, and what failed on the way. */
interface Findings {
  readonly bits: Bitmap;
  readonly errors: CacheError[];
}

type GroupWork = (items: readonly Item[], group: readonly Placed[], scope: Scope) => Promise<void>;

/** The adapter that {@link createSimpleAdapter} makes. */
export class SimpleAdapter implements L2Adapter {
  readonly capabilities: L2Capabilities;
  readonly location: string;
  readonly delete?: NonNullable<L2Adapter["delete"]>;
  readonly listKeys?: NonNullable<L2Adapter["listKeys"]>;
  readonly #store: SimpleStore;
  readonly #settings: Settings;
  readonly #errors: StoreErrors;
  readonly #life: Operations;
  readonly #calls: StoreCalls;
  readonly #objects: ObjectCalls;
  readonly #listing: KeyListing;
  readonly #heartbeat: Heartbeat;
  readonly #names = new NameLocks();
  readonly #own = new OwnObjects();
  readonly #room: Room;
  readonly #counts = { length_mismatches: 0, unnameable_keys: 0, bytes_stored: 0, bytes_loaded: 0 };
  #log: AdapterLog | null = null;
  #opening: Promise<void> | null = null;
  #closing: Promise<void> | null = null;

  constructor(store: SimpleStore, options: SimpleAdapterOptions) {
    const settings = settingsOf(store, options);
    const errors = new StoreErrors(settings.location, settings.secrets);
    this.#store = store;
    this.#settings = settings;
    this.#errors = errors;
    this.location = settings.location;
    this.#room = new Room(settings, this.#own);
    this.#life = new Operations(settings.type);
    this.#calls = new StoreCalls(settings.concurrency, settings.callTimeoutMs, errors);
    this.#objects = new ObjectCalls({ store, settings, calls: this.#calls, errors, own: this.#own });
    this.#heartbeat = new Heartbeat(store, settings.prefix, settings.callTimeoutMs, errors);
    this.#listing = new KeyListing(store, settings, errors, (item, signal) =>
      this.#objects.lengths([item], { holds: [], signal }),
    );
    const removes = store.remove !== undefined || store.batchedRemove !== undefined;
    if (removes) this.delete = (keys, signal) => this.#delete(keys, signal);
    if (store.list !== undefined) this.listKeys = (page, signal) => this.#listKeys(page, signal);
    this.capabilities = Object.freeze({
      persistent: settings.persistent,
      shared: settings.shared,
      delete: removes,
      listKeys: store.list !== undefined,
      quarantine: false,
      globalEviction: removes && settings.capacityBytes !== null,
      l1Registration: "none",
      needsStateDir: settings.needsStateDir,
      writesOnlyFromEngineProcess: settings.writesOnlyFromEngineProcess,
      maxBatchKeys: settings.maxBatchKeys,
      maxObjectBytes: settings.maxObjectBytes,
    });
  }

  async open(context: OpenContext): Promise<void> {
    this.#life.assertOpen(true);
    if (this.#life.isOpen) return;
    this.#opening ??= this.#open(context).catch((error: unknown) => {
      this.#opening = null;
      throw error;
    });
    await this.#opening;
  }

  async #open(context: OpenContext): Promise<void> {
    this.#log = context.log;
    const controller = new AbortController();
    const end = (): void => controller.abort();
    context.signal.addEventListener("abort", end, { once: true });
    this.#life.closing.addEventListener("abort", end, { once: true });
    if (context.signal.aborted) end();
    const { signal } = controller;
    const call = { method: "open", holds: [], lendsMemory: false, signal };
    try {
      if (this.#store.open !== undefined) {
        await this.#calls.call({ ...call, run: async () => this.#store.open?.({ ...context, signal }) });
      }
      await this.#heartbeat.beat(signal);
    } finally {
      context.signal.removeEventListener("abort", end);
      this.#life.closing.removeEventListener("abort", end);
    }
    this.#life.begin();
    this.#heartbeat.start(this.#settings.pingIntervalMs, this.#life.closing);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const began = this.#opening !== null || this.#log !== null;
    await this.#life.end();
    await this.#opening?.catch(() => undefined);
    this.#listing.close();
    this.#names.clear();
    if (!began) return;
    const idle = await Promise.all([
      this.#calls.whenIdle(CLOSE_GRACE_MS),
      this.#heartbeat.whenIdle(CLOSE_GRACE_MS),
    ]);
    if (idle.includes(false)) {
      this.#log?.warn("closing a store while calls of it have not settled", { calls: this.#calls.running });
    }
    const closing = (async () => this.#store.close?.())().catch((error: unknown) => {
      this.#log?.warn("the store did not close cleanly", { error: this.#errors.redact(messageOf(error)) });
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, CLOSE_GRACE_MS)));
    await Promise.race([closing, late]);
    clearTimeout(timer);
  }

  #checkBatch(operation: string, keys: number, buffers: number): void {
    const most = this.#settings.maxBatchKeys;
    if (keys > most) {
      throw new CacheError("INVALID_ARGUMENT", `${operation} of ${keys} keys: split it at ${most}`);
    }
    assertPairs(operation, keys, buffers);
  }

  /** The key's name in the store, or why it has none. */
  #nameOf(key: ObjectKey): string | CacheError {
    try {
      return this.#settings.prefix + this.#settings.names.encode(key);
    } catch (error) {
      this.#counts.unnameable_keys++;
      return this.#errors.wrap(error, "name");
    }
  }

  #plan(keys: readonly ObjectKey[], bytesOf: (i: number) => Uint8Array): Plan {
    const placed: Placed[] = [];
    const nameless = new Map<number, CacheError>();
    keys.forEach((key, position) => {
      const name = this.#nameOf(key);
      if (typeof name !== "string") nameless.set(position, name);
      else placed.push({ position, item: { name, cacheSalt: key.cacheSalt, bytes: bytesOf(position) } });
    });
    return { placed, nameless };
  }

  /** Does `work` for groups of items whose names are held, so many groups at a time as calls are allowed. */
  async #forGroups(
    groups: readonly (readonly Placed[])[],
    kind: HoldKind,
    ended: AbortSignal,
    work: GroupWork,
  ): Promise<void> {
    let next = 0;
    const lane = async (): Promise<void> => {
      while (!ended.aborted) {
        const group = groups[next++];
        if (group === undefined) return;
        const items = group.map(({ item }) => item);
        const names = items.map(({ name }) => name);
        const holds = await this.#names.acquireAll(names, kind, ended);
        if (holds === null) return;
        try {
          await work(items, group, { holds, signal: ended });
        } finally {
          for (const hold of holds) hold.release();
        }
      }
    };
    const lanes = Array.from({ length: Math.min(this.#settings.concurrency, groups.length) }, lane);
    for (const settled of await Promise.allSettled(lanes)) {
      if (settled.status === "rejected") throw settled.reason;
    }
  }

  /** An error if nothing was found and something failed, else what was found: other keys' failures are logged. */
  #settle(operation: string, { bits, errors }: Findings, ended: AbortSignal): Bitmap {
    const found = bits.count() > 0;
    if (ended.aborted && !found && bits.size > 0) throw abortedError();
    const [first] = errors.filter(({ code }) => code !== "ABORTED");
    if (first === undefined) return bits;
    if (!found) throw first;
    this.#log?.warn(`${operation}: some objects could not be reached and count as missing`, {
      failed: errors.length,
      first: first.message,
    });
    return bits;
  }

  #fail(findings: Findings, error: CacheError): void {
    findings.errors.push(this.#life.countError(error));
  }

  async store(
    keys: readonly ObjectKey[],
    objects: readonly MemoryObj[],
    signal: AbortSignal,
  ): Promise<L2StoreResult> {
    const stored = new Bitmap(keys.length);
    const failed = new Map<number, CacheError>();
    let bytesTransferred = 0;
    await this.#life.run(signal, async (ended) => {
      this.#checkBatch("store", keys.length, objects.length);
      const { placed, nameless } = this.#plan(keys, (i) => objects[i]?.bytes ?? NOTHING);
      for (const [position, error] of nameless) failed.set(position, error);
      const batched = this.#store.batchedPut !== undefined || this.#store.batchedExists !== undefined;
      const groups = groupsOf(placed, batched, this.#settings);
      await this.#forGroups(groups, "change", ended, async (items, group, scope) => {
        const outcomes = await this.#storeGroup(items, scope);
        group.forEach(({ position }, i) => {
          const outcome = outcomes[i];
          if (isCacheError(outcome)) {
            failed.set(position, this.#life.countError(outcome));
            return;
          }
          stored.set(position);
          bytesTransferred += outcome ?? 0;
          this.#life.countSuccess();
        });
      });
      for (let i = 0; i < keys.length; i++) {
        if (!stored.has(i) && !failed.has(i)) failed.set(i, abortedError());
      }
    });
    this.#counts.bytes_stored += bytesTransferred;
    return { stored, failed, bytesTransferred };
  }

  /** For each item the bytes written, 0 where it was there, or why it was not stored. */
  async #storeGroup(items: readonly Item[], scope: Scope): Promise<(number | CacheError)[]> {
    const lengths = await this.#objects.lengths(items, scope);
    const outcomes: (number | CacheError)[] = items.map(() => 0);
    const missing: number[] = [];
    items.forEach((item, i) => {
      const length = lengths[i] ?? null;
      if (isCacheError(length)) outcomes[i] = length;
      else if (length !== item.bytes.length) {
        const locked = length !== null && this.#names.isLocked(item.name);
        const refusal = locked ? lockedError(item, length) : this.#room.take(item);
        if (refusal === null) missing.push(i);
        else outcomes[i] = refusal;
      }
    });
    if (missing.length === 0) return outcomes;
    const wanted = missing.map((i) => items[i] as Item);
    const put = await this.#objects.put(wanted, scope);
    for (const item of wanted) this.#room.giveBack(item);
    missing.forEach((i, n) => {
      outcomes[i] = put[n] ?? (items[i] as Item).bytes.length;
    });
    return outcomes;
  }

  lookupAndLock(requests: readonly SizedKey[], signal: AbortSignal): Promise<Bitmap> {
    return this.#life.run(signal, async (ended) => {
      this.#checkBatch("lookup", requests.length, requests.length);
      const findings: Findings = { bits: new Bitmap(requests.length), errors: [] };
      const keys = requests.map(({ key }) => key);
      const { placed } = this.#plan(keys, () => NOTHING);
      const groups = groupsOf(placed, this.#store.batchedExists !== undefined, this.#settings);
      await this.#forGroups(groups, "read", ended, async (items, group, scope) => {
        const lengths = await this.#objects.lengths(items, scope);
        group.forEach(({ position, item }, i) => {
          const length = lengths[i] ?? null;
          if (isCacheError(length)) this.#fail(findings, length);
          else {
            this.#life.countSuccess();
            if (length === requests[position]?.byteLength) {
              this.#names.lock(item.name);
              findings.bits.set(position);
            } else if (length !== null) this.#counts.length_mismatches++;
          }
        });
      });
      if (ended.aborted) {
        this.unlock(findings.bits.gather(keys));
        throw abortedError();
      }
      return this.#settle("lookup", findings, ended); // throws only if nothing was found: no lock stays
    });
  }

  unlock(keys: readonly ObjectKey[]): void {
    for (const key of keys) {
      const name = this.#nameOf(key);
      if (typeof name === "string") this.#names.unlock(name);
    }
  }

  load(requests: readonly SizedKey[], into: readonly MemoryObj[], signal: AbortSignal): Promise<Bitmap> {
    return this.#life.run(signal, async (ended) => {
      this.#checkBatch("load", requests.length, into.length);
      assertBuffers(requests, into);
      const findings: Findings = { bits: new Bitmap(requests.length), errors: [] };
      const keys = requests.map(({ key }) => key);
      const { placed } = this.#plan(keys, (i) => into[i]?.bytes ?? NOTHING);
      const groups = groupsOf(placed, this.#store.batchedGet !== undefined, this.#settings);
      await this.#forGroups(groups, "read", ended, async (items, group, scope) => {
        const outcomes = await this.#objects.read(items, scope);
        group.forEach(({ position, item }, i) => this.#noteRead(findings, position, item, outcomes[i]));
      });
      return this.#settle("load", findings, ended);
    });
  }

  #noteRead(
    findings: Findings,
    position: number,
    item: Item,
    outcome: ReadOutcome | CacheError | undefined,
  ): void {
    if (isCacheError(outcome)) {
      this.#fail(findings, outcome);
      return;
    }
    this.#life.countSuccess();
    if (outcome === "whole") {
      findings.bits.set(position);
      this.#counts.bytes_loaded += item.bytes.length;
    } else if (outcome === "other-length") this.#counts.length_mismatches++;
  }

  #delete(keys: readonly ObjectKey[], signal: AbortSignal): Promise<Bitmap> {
    return this.#life.run(signal, async (ended) => {
      this.#checkBatch("delete", keys.length, keys.length);
      const findings: Findings = { bits: new Bitmap(keys.length), errors: [] };
      const { placed, nameless } = this.#plan(keys, () => NOTHING);
      for (const position of nameless.keys()) findings.bits.set(position); // it can have no object
      const groups = groupsOf(placed, this.#store.batchedRemove !== undefined, this.#settings);
      await this.#forGroups(groups, "change", ended, async (_, group, scope) => {
        const free = group.filter(({ item }) => !this.#names.isLocked(item.name));
        if (free.length === 0) return;
        const items = free.map(({ item }) => item);
        const outcomes = await this.#objects.remove(items, scope);
        free.forEach(({ position }, i) => {
          const outcome = outcomes[i];
          if (isCacheError(outcome)) this.#fail(findings, outcome);
          else {
            findings.bits.set(position);
            this.#life.countSuccess();
          }
        });
      });
      return this.#settle("delete", findings, ended);
    });
  }

  #listKeys(page: PageRequest, signal: AbortSignal): Promise<KeyListPage> {
    return this.#life.run(signal, async (ended) => {
      try {
        return await this.#listing.page(page, ended);
      } catch (error) {
        throw this.#life.countError(this.#errors.wrap(error, "list"));
      }
    });
  }

  usage(): AdapterUsage {
    return {
      totalBytesUsed: this.#own.bytes,
      capacityBytes: this.#settings.capacityBytes ?? "unbounded",
      bytesByCacheSalt: this.#own.bytesByCacheSalt(),
    };
  }

  status(): AdapterStatus {
    const { failure, latencyMs } = this.#heartbeat;
    return {
      ...this.#settings.status(),
      isHealthy: this.#life.isHealthy && failure === null,
      type: this.#settings.type,
      location: this.location,
      reachable: failure === null && latencyMs !== null,
      ping_error: failure,
      ping_latency_ms: latencyMs,
      stored_object_count: this.#own.count,
      current_size_bytes: this.#own.bytes,
      max_capacity_bytes: this.#settings.capacityBytes,
      operations_in_flight: this.#life.inFlight,
      calls_in_flight: this.#calls.running,
      calls_waiting: this.#calls.waiting,
      calls_abandoned: this.#calls.late,
      locked_keys: this.#names.lockedCount,
      errors: this.#life.errorCounts,
      ...this.#counts,
    };
  }
}

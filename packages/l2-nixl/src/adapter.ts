import {
  abortedError,
  assertBuffers,
  assertPairs,
  KeyGuard,
  Operations,
  orAborted,
} from "@cache/adapter-kit";
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
  type ObjectKey,
  type OpenContext,
  type PageRequest,
  type SizedKey,
} from "@cache/contracts";
import type { OpenedBackend } from "./backend.ts";
import type { NamedObject, ObjectStore } from "./store.ts";

/** What makes one type of the adapter. */
export interface AdapterKind {
  readonly type: "nixl_store" | "nixl_store_dynamic";
  readonly backend: string;
  readonly location: string;
  readonly capabilities: L2Capabilities;
  /** Bytes that the store may hold. */
  readonly capacityBytes: number;
  /** Loads the library, reaches the backend, takes up what is there. */
  open(context: OpenContext): Promise<{ readonly backend: OpenedBackend; readonly store: ObjectStore }>;
}

interface Opened {
  readonly log: AdapterLog;
  readonly backend: OpenedBackend;
  readonly store: ObjectStore;
}

/** The adapter, whatever the objects lie in. */
export class NixlAdapter implements L2Adapter {
  readonly location: string;
  readonly capabilities: L2Capabilities;
  readonly #kind: AdapterKind;
  readonly #operations = new Operations("nixl");
  readonly #guard = new KeyGuard();
  readonly #counts = {
    length_mismatches: 0,
    short_reads: 0,
    bytes_read: 0,
    bytes_written: 0,
    unnameable_keys: 0,
  };
  readonly #latencyMs: { store: number | null; load: number | null } = { store: null, load: null };
  #opened: Opened | null = null;
  #opening: Promise<void> | null = null;
  #closing: Promise<void> | null = null;

  constructor(kind: AdapterKind) {
    this.#kind = kind;
    this.location = kind.location;
    this.capabilities = Object.freeze(kind.capabilities);
  }

  async open(context: OpenContext): Promise<void> {
    if (this.#closing !== null) this.#operations.assertOpen();
    if (context.signal.aborted) throw abortedError();
    this.#opening ??= this.#open(context).catch((error: unknown) => {
      this.#opening = null;
      throw error;
    });
    await orAborted(this.#opening, context.signal);
  }

  async #open(context: OpenContext): Promise<void> {
    const { backend, store } = await this.#kind.open(context);
    this.#opened = { log: context.log, backend, store };
    if (this.#closing === null) this.#operations.begin();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const ended = this.#operations.end();
    await this.#opening?.catch(() => undefined);
    await ended;
    await this.#opened?.store.close();
    await this.#opened?.backend.close();
    this.#guard.clear();
  }

  #state(): Opened {
    if (this.#opened === null) throw new TypeError("an operation ran before open");
    return this.#opened;
  }

  /** The name of a key; null for one that can have none, which therefore is not there. */
  #nameOrNull(key: ObjectKey): string | null {
    try {
      return this.#opened?.store.nameOf(key) ?? null;
    } catch {
      this.#counts.unnameable_keys++;
      return null;
    }
  }

  /** The positions of keys that have a name, and the names. */
  #named(keys: readonly ObjectKey[]): { readonly positions: number[]; readonly names: string[] } {
    const positions: number[] = [];
    const names: string[] = [];
    for (const [i, key] of keys.entries()) {
      const name = this.#nameOrNull(key);
      if (name === null) continue;
      positions.push(i);
      names.push(name);
    }
    return { positions, names };
  }

  store(
    keys: readonly ObjectKey[],
    objects: readonly MemoryObj[],
    signal: AbortSignal,
  ): Promise<L2StoreResult> {
    return this.#operations.run(signal, async (ended) => {
      assertPairs("store", keys.length, objects.length);
      const stored = new Bitmap(keys.length);
      const failed = new Map<number, CacheError>();
      const items: (NamedObject & { readonly i: number })[] = [];
      for (const [i, key] of keys.entries()) {
        try {
          const object = objects[i] as MemoryObj;
          this.#assertSize(object.bytes.byteLength);
          items.push({ i, key, object, name: this.#state().store.nameOf(key) });
        } catch (error) {
          if (!isCacheError(error)) throw error;
          failed.set(i, this.#operations.countError(error));
        }
      }
      const began = performance.now();
      const names = items.map(({ name }) => name);
      const answers = await this.#guard.exclusively("store", names, () =>
        this.#state().store.store(items, ended),
      );
      let bytesTransferred = 0;
      for (const [n, { i }] of items.entries()) {
        const answer = answers[n] ?? abortedError();
        if (typeof answer === "number") {
          stored.set(i);
          bytesTransferred += answer;
        } else failed.set(i, this.#operations.countError(answer));
      }
      if (stored.count() > 0) this.#operations.countSuccess();
      if (bytesTransferred > 0) this.#latencyMs.store = performance.now() - began;
      this.#counts.bytes_written += bytesTransferred;
      return { stored, failed, bytesTransferred };
    });
  }

  #assertSize(byteLength: number): void {
    const { maxObjectBytes } = this.capabilities;
    if (byteLength >= 1 && byteLength <= maxObjectBytes) return;
    const message = `an object of ${byteLength} bytes cannot be stored: it must have 1 to ${maxObjectBytes}`;
    throw new CacheError("INVALID_ARGUMENT", message);
  }

  lookupAndLock(requests: readonly SizedKey[], signal: AbortSignal): Promise<Bitmap> {
    return this.#operations.run(signal, async (ended) => {
      const found = new Bitmap(requests.length);
      const { positions, names } = this.#named(requests.map(({ key }) => key));
      await this.#guard.lockAll(names); // before the look, so that a delete in between finds them
      try {
        const asked = positions.map((i, n) => ({
          name: names[n] as string,
          byteLength: (requests[i] as SizedKey).byteLength,
        }));
        const answers = await this.#state().store.look(asked, ended);
        const errors: CacheError[] = [];
        for (const [n, answer] of answers.entries()) {
          if (isCacheError(answer)) errors.push(answer);
          else if (answer === "whole") found.set(positions[n] as number);
          else if (answer === "other-length") this.#counts.length_mismatches++;
        }
        // Throws only if nothing was found: no lock stays.
        this.#operations.settle(errors, answers.length - errors.length, this.#state().log);
      } finally {
        for (const [n, i] of positions.entries()) if (!found.has(i)) this.#guard.unlock(names[n] as string);
      }
      return found;
    });
  }

  unlock(keys: readonly ObjectKey[]): void {
    for (const name of this.#named(keys).names) this.#guard.unlock(name);
  }

  load(requests: readonly SizedKey[], into: readonly MemoryObj[], signal: AbortSignal): Promise<Bitmap> {
    return this.#operations.run(signal, async (ended) => {
      assertBuffers(requests, into);
      const loaded = new Bitmap(requests.length);
      const { positions, names } = this.#named(requests.map(({ key }) => key));
      const items = positions.flatMap((i, n): (NamedObject & { readonly i: number })[] => {
        const object = into[i] as MemoryObj;
        // An object of 0 bytes was never stored.
        if (object.bytes.byteLength === 0) return [];
        return [{ i, name: names[n] as string, key: (requests[i] as SizedKey).key, object }];
      });
      const began = performance.now();
      const answers = await this.#state().store.load(items, ended);
      const errors: CacheError[] = [];
      for (const [n, answer] of answers.entries()) {
        const { i, object } = items[n] as NamedObject & { readonly i: number };
        if (isCacheError(answer)) errors.push(answer);
        else if (answer === "short") this.#counts.short_reads++;
        else if (answer === "other-length") this.#counts.length_mismatches++;
        else if (answer === "whole") {
          loaded.set(i);
          this.#counts.bytes_read += object.bytes.byteLength;
        }
      }
      if (loaded.count() > 0) this.#latencyMs.load = performance.now() - began;
      this.#operations.settle(errors, answers.length - errors.length, this.#state().log);
      return loaded;
    });
  }

  delete(keys: readonly ObjectKey[], signal: AbortSignal): Promise<Bitmap> {
    return this.#operations.run(signal, async (ended) => {
      const gone = Bitmap.full(keys.length); // keys without a name are not there
      const { positions, names } = this.#named(keys);
      for (const i of positions) gone.clear(i);
      await this.#guard.exclusively("delete", names, async () => {
        const chosen = positions.flatMap((i, n) => {
          const name = names[n] as string;
          return this.#guard.isLocked(name) ? [] : [{ i, name }];
        });
        const answers = await this.#state().store.remove(
          chosen.map(({ name }) => name),
          ended,
        );
        const errors: CacheError[] = [];
        for (const [n, { i }] of chosen.entries()) {
          const answer = answers[n] ?? abortedError();
          if (answer === true) gone.set(i);
          else errors.push(answer);
        }
        this.#operations.settle(errors, chosen.length - errors.length, this.#state().log);
      });
      return gone;
    });
  }

  listKeys(page: PageRequest, signal: AbortSignal): Promise<KeyListPage> {
    return this.#operations.run(signal, async (ended) => {
      const checkStopped = (): void => {
        if (ended.aborted) throw abortedError();
      };
      try {
        return await this.#state().store.list(page, checkStopped);
      } catch (error) {
        throw isCacheError(error) ? this.#operations.countError(error) : error;
      }
    });
  }

  usage(): AdapterUsage {
    const { capacityBytes } = this.#kind;
    const nothing = { totalBytesUsed: 0, capacityBytes, bytesByCacheSalt: new Map<string, number>() };
    return this.#opened?.store.usage() ?? nothing;
  }

  status(): AdapterStatus {
    const { type, backend } = this.#kind;
    const opened = this.#operations.isOpen ? this.#opened : null;
    const stalled = opened?.backend.transfers.stalled ?? 0;
    const problem = opened?.store.problem ?? null;
    return {
      isHealthy: this.#operations.isHealthy && stalled === 0 && problem === null,
      problem,
      type,
      backend,
      location: this.location,
      library: this.#opened?.backend.libraryPath ?? null,
      reachable: this.#operations.isHealthy,
      operations_in_flight: this.#operations.inFlight,
      requests_in_flight: opened?.backend.transfers.inFlight ?? 0,
      stalled_requests: stalled,
      locked_keys: this.#guard.lockedCount,
      last_store_ms: this.#latencyMs.store,
      last_load_ms: this.#latencyMs.load,
      errors: this.#operations.errorCounts,
      ...this.#counts,
      ...this.#opened?.store.status(),
    };
  }
}

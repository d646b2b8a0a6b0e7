import { CacheError, type ObjectKey, objectKey } from "@cache/contracts";
import type { Journal } from "@cache/journal";
import type { L1Pool } from "@cache/l1-memory";
import type { CacheEvent } from "./events/definitions.ts";
import { encodeEvent } from "./events/codec.ts";
import { L1Space } from "./l1/space.ts";
import type { Clock, StorageManagerOptions } from "./options.ts";
import type { CacheState } from "./state/cache-state.ts";
import { evolve } from "./state/evolve.ts";
import type { KeyGroup } from "./state/key-table.ts";

/** Where the engine writes what an operator should read. */
export interface CoreLog {
  debug(message: string, fields?: Readonly<Record<string, unknown>>): void;
  info(message: string, fields?: Readonly<Record<string, unknown>>): void;
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void;
  error(message: string, fields?: Readonly<Record<string, unknown>>): void;
}

/** What every part of the storage manager works on: the state, the one way to change it, and the memory. */
export class Core {
  readonly state: CacheState;
  readonly journal: Journal;
  readonly pool: L1Pool;
  readonly space: L1Space;
  readonly options: StorageManagerOptions;
  readonly clock: Clock;
  readonly log: CoreLog;
  /** Called after each batch that reached the journal. */
  readonly commitListeners: (() => void)[] = [];
  /** Called when bytes became free or evictable. */
  readonly roomListeners: (() => void)[] = [];
  /** Called after each recorded event. Replaced, never changed: an observer may end itself while it is called. */
  #observers: readonly ((event: CacheEvent) => void)[] = [];
  #roomSignalled = false;
  #unattachable = false;
  #broken: Error | null = null;
  readonly #onBroken: (error: Error) => void;
  #identitySuffix: string;

  constructor(parts: {
    state: CacheState;
    journal: Journal;
    pool: L1Pool;
    space: L1Space;
    options: StorageManagerOptions;
    identitySuffix: string;
    clock: Clock;
    log: CoreLog;
    onBroken: (error: Error) => void;
  }) {
    this.state = parts.state;
    this.journal = parts.journal;
    this.pool = parts.pool;
    this.space = parts.space;
    this.options = parts.options;
    this.clock = parts.clock;
    this.log = parts.log;
    this.#onBroken = parts.onBroken;
    this.#identitySuffix = parts.identitySuffix;
    this.space.onFreed = () => this.signalRoom();
  }

  /**
   * The one way to change the state: the event goes to the journal's batch and through the fold.
   *
   * @throws CacheError `LIMIT_REACHED` if the journal takes no more; the state is then unchanged.
   */
  record(event: CacheEvent): void {
    if (this.#broken !== null) throw this.#broken;
    this.journal.append([encodeEvent(event)]);
    try {
      evolve(this.state, event);
    } catch (error) {
      // Half an event is in the state: nothing of this batch may reach the file or a client.
      this.#broken = error instanceof Error ? error : new Error(String(error));
      this.log.error("an event does not fit the state; the engine stops", {
        event: event.type,
        error: String(error),
      });
      this.#onBroken(this.#broken);
      throw error;
    }
    for (const observe of this.#observers) observe(event);
  }

  /**
   * Writes the batch and then marks the pool with its position. Only after it answered true may a reply leave, or
   * I/O touch a range that the batch handed out.
   */
  commit(): boolean {
    if (this.#broken !== null) return false;
    if (!this.journal.commit()) {
      if (!this.#unattachable) this.pool.markNotReattachable();
      this.#unattachable = true;
      return false;
    }
    this.pool.storePosition(this.journal.position);
    if (this.#unattachable) this.pool.markReattachable();
    this.#unattachable = false;
    for (const listener of this.commitListeners) listener();
    return true;
  }

  /** The engine has stopped: nothing is recorded any more. What ends later finds that out by an error. */
  end(): void {
    this.#broken ??= new CacheError("DEGRADED", "the engine has stopped: nothing is recorded any more");
  }

  /** False while the journal cannot be written: nothing new is handed out. */
  get healthy(): boolean {
    if (this.#broken !== null) return false;
    return this.journal.health.state === "ok";
  }

  /** Calls `observer` after each recorded event from now on. Returns how to end that. */
  observe(observer: (event: CacheEvent) => void): () => void {
    this.#observers = [...this.#observers, observer];
    return () => {
      this.#observers = this.#observers.filter((one) => one !== observer);
    };
  }

  now(): number {
    return this.clock.now();
  }

  /** Tells those who wait for room, once a turn. */
  signalRoom(): void {
    if (this.#roomSignalled) return;
    this.#roomSignalled = true;
    setImmediate(() => {
      this.#roomSignalled = false;
      for (const listener of this.roomListeners) listener();
    });
  }

  /** The group of keys at rest: the cache identity is part of the model name there. */
  groupFor(modelName: string, kvRank: number, cacheSalt: string): KeyGroup {
    return { modelName: modelName + this.#identitySuffix, kvRank, objectGroupId: 0, cacheSalt };
  }

  /** The name of a bound key, with a hash of its own. */
  nameOf(key: number): ObjectKey {
    const { keys } = this.state;
    return objectKey({ chunkHash: Uint8Array.from(keys.hash.get(key)), ...keys.groupOfKey(key) });
  }

  /** Number of a group, defined now if it is new. */
  ensureGroup(group: KeyGroup): number {
    const known = this.state.keys.findGroup(group);
    if (known >= 0) return known;
    const number = this.state.keys.groupNumbers.peek();
    this.record({ type: "group.defined", group: number, ...group });
    return number;
  }

  /**
   * Numbers of keys, bound now where they are new.
   *
   * @param hashes 32 bytes each; `chunks` says which of them.
   */
  ensureKeys(group: number, hashes: Uint8Array, chunks: readonly number[]): number[] {
    const keys: number[] = [];
    const fresh: number[] = [];
    for (const chunk of chunks) {
      const key = this.state.keys.find(group, hashes, chunk * 32);
      keys.push(key);
      if (key < 0) fresh.push(chunk);
    }
    if (fresh.length === 0) return keys;
    const numbers = this.state.keys.numbers.peekMany(fresh.length);
    const bytes = new Uint8Array(fresh.length * 32);
    fresh.forEach((chunk, i) => bytes.set(hashes.subarray(chunk * 32, chunk * 32 + 32), i * 32));
    this.record({ type: "l1.key.bound", group, keys: numbers, hashes: bytes });
    let next = 0;
    return keys.map((key) => (key < 0 ? (numbers[next++] as number) : key));
  }

  /** @throws CacheError `DEGRADED` while the journal cannot be written. */
  assertHealthy(): void {
    const { health } = this.journal;
    if (health.state === "ok") return;
    throw new CacheError("DEGRADED", `the journal cannot be written: ${health.cause.message}`, {
      cause: health.cause,
    });
  }
}

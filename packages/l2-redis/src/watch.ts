import { type AdapterLog, messageOf } from "@cache/contracts";
import { lengthsOf, scanOnce } from "./listing.ts";
import { decodeWireKey, scanPattern } from "./names.ts";
import type { Accounting } from "./accounting.ts";
import type { Topology } from "./topology.ts";

/** Pause between two looks at the server, in milliseconds. */
const LOOK_MS = 5000;
/** Keys that one call of SCAN looks at, and the pause after it: at most 50,000 keys a second. */
const SCAN_COUNT = 1000;
const SCAN_PAUSE_MS = 20;
/** Least time between two counts when the server says that it dropped keys, in milliseconds. */
const RECOUNT_MS = 60_000;
const SWEEP_SLOTS = 4096;

/** What a {@link Watch} works with. */
export interface WatchOptions {
  readonly topology: Topology;
  readonly accounting: Accounting;
  readonly log: AdapterLog;
  readonly keyPrefix: string;
  readonly scanIntervalMs: number;
  /** Called after each look with the nodes that there are. */
  readonly onNodes: (addresses: ReadonlySet<string>) => void;
}

interface ServerFacts {
  readonly version: string | null;
  readonly used_memory_bytes: number | null;
  readonly max_memory_bytes: number | null;
  readonly eviction_policy: string | null;
  readonly dropped_keys: number;
}

/**
 * Looks at the server every few seconds (reachable, how fast, how full, whether it dropped keys by itself) and counts
 * the cache's keys in the background: what other nodes stored, what an earlier process stored, what is gone.
 */
export class Watch {
  readonly #options: WatchOptions;
  #stopped = false;
  #running: Promise<unknown> | null = null;
  #reachable = true;
  #latencyMs: number | null = null;
  #servers: Record<string, ServerFacts> = {};
  #lastDropped: number | null = null;
  #recountWanted = false;
  #scansCompleted = 0;
  #noticedMissing = 0;
  #lastError: string | null = null;
  readonly #signal = new AbortController();

  constructor(options: WatchOptions) {
    this.#options = options;
  }

  /** The last look found the server. */
  get isReachable(): boolean {
    return this.#reachable && this.#options.topology.isReady;
  }

  /** Plain JSON for an operator. */
  status(): Record<string, unknown> {
    return {
      reachable: this.isReachable,
      latency_ms: this.#latencyMs,
      servers: this.#servers,
      scan: {
        scans_completed: this.#scansCompleted,
        objects_counted: this.#options.accounting.objectsCounted,
        noticed_missing: this.#noticedMissing,
        last_error: this.#lastError,
      },
    };
  }

  /** Begins; repeats until {@link stop}. Keeps no process alive by its waiting. */
  start(): void {
    this.#running ??= Promise.all([this.#lookLoop(), this.#scanLoop()]);
  }

  /** Ends; settles when nothing of it runs. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#signal.abort();
    await this.#running;
  }

  async #lookLoop(): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#look();
        this.#reachable = true;
      } catch (error) {
        this.#reachable = false;
        this.#latencyMs = null;
        this.#lastError = messageOf(error);
      }
      await this.#pause(LOOK_MS);
    }
  }

  async #look(): Promise<void> {
    const nodes = this.#options.topology.nodes();
    const servers: Record<string, ServerFacts> = {};
    let slowestMs = 0;
    for (const node of nodes) {
      const begin = performance.now();
      await node.call("PING");
      slowestMs = Math.max(slowestMs, performance.now() - begin);
      // A user may be without the right to INFO; the cache does not need it.
      const info = await node.call("INFO").catch(() => "");
      servers[node.address] = factsOf(typeof info === "string" ? info : "");
    }
    this.#latencyMs = Math.round(slowestMs * 1000) / 1000;
    this.#servers = servers;
    const dropped = Object.values(servers).reduce((sum, { dropped_keys }) => sum + dropped_keys, 0);
    if (this.#lastDropped !== null && dropped > this.#lastDropped) this.#recountWanted = true;
    this.#lastDropped = dropped;
    this.#options.onNodes(new Set(nodes.map(({ address }) => address)));
  }

  async #scanLoop(): Promise<void> {
    while (!this.#stopped) {
      this.#recountWanted = false;
      const begin = performance.now();
      try {
        await this.#count();
      } catch (error) {
        this.#lastError = messageOf(error);
        if (!this.#stopped)
          this.#options.log.warn("counting the cache's keys failed", { error: this.#lastError });
      }
      const age = (): number => performance.now() - begin;
      while (!this.#stopped && age() < this.#options.scanIntervalMs) {
        if (this.#recountWanted && age() >= RECOUNT_MS) break;
        await this.#pause(Math.min(LOOK_MS, this.#options.scanIntervalMs));
      }
    }
  }

  async #count(): Promise<void> {
    const { topology, accounting, keyPrefix } = this.#options;
    const pattern = scanPattern(keyPrefix);
    const begin = accounting.beginCount();
    for (const node of topology.nodes()) {
      let cursor = "0";
      do {
        const page = await scanOnce(node, cursor, pattern, SCAN_COUNT);
        if (this.#stopped) return;
        const names = page.names.filter((name) => decodeWireKey(name, keyPrefix) !== null);
        const lengths = await lengthsOf(topology, names, this.#signal.signal);
        for (const [i, name] of names.entries()) accounting.counted(name, lengths[i] ?? 0, begin);
        cursor = page.cursor;
        if (cursor !== "0") await this.#pause(SCAN_PAUSE_MS);
      } while (cursor !== "0" && !this.#stopped);
    }
    if (this.#stopped) return;
    await this.#sweep(begin);
    accounting.endCount();
    this.#scansCompleted++;
    this.#lastError = null;
  }

  /** Forgets what this process stored and the server has no more: it evicted it, or somebody deleted it. */
  async #sweep(asOf: number): Promise<void> {
    let at: number | null = 0;
    while (at !== null) {
      const { next, removed } = this.#options.accounting.own.sweep(asOf, at, SWEEP_SLOTS);
      this.#noticedMissing += removed;
      at = next;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  #pause(milliseconds: number): Promise<void> {
    if (this.#stopped) return Promise.resolve();
    return new Promise((resolve) => {
      const { signal } = this.#signal;
      const done = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, milliseconds).unref();
      signal.addEventListener("abort", done, { once: true });
    });
  }
}

function factsOf(info: string): ServerFacts {
  const fields = new Map(
    info.split("\r\n").flatMap((line) => {
      const colon = line.indexOf(":");
      return colon < 0 ? [] : [[line.slice(0, colon), line.slice(colon + 1)] as const];
    }),
  );
  const number = (name: string): number | null => {
    const value = Number(fields.get(name));
    return fields.has(name) && Number.isFinite(value) ? value : null;
  };
  return {
    version: fields.get("valkey_version") ?? fields.get("redis_version") ?? null,
    used_memory_bytes: number("used_memory"),
    max_memory_bytes: number("maxmemory"),
    eviction_policy: fields.get("maxmemory_policy") ?? null,
    dropped_keys: (number("evicted_keys") ?? 0) + (number("expired_keys") ?? 0),
  };
}

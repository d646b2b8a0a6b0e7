import type { MapperScan } from "@cache/l1-memory";
import type { Core } from "../core.ts";
import type { Clients } from "./clients.ts";

/** A living instance is heard in this time after a scan: it pings every 10 s. */
const HEARD_WITHIN_MS = 15_000;

interface Count {
  readonly atMs: number;
  readonly pids: number;
  /** Instances that had their mapping when the processes were counted. */
  readonly instances: readonly bigint[];
  /** Hand-outs that were open then. */
  readonly transfers: ReadonlySet<number>;
}

/**
 * Whether every process that maps the pool belongs to an instance that lives. Then none is left that a silent
 * instance could be, and what it was handed ends with the grace period. It holds for processes with one instance
 * each, as LMCache's workers are.
 */
export class MapperCensus {
  readonly #core: Core;
  readonly #clients: Clients;
  #registered: ReadonlySet<bigint> = new Set();
  #count: Count | null = null;

  constructor(core: Core, clients: Clients) {
    this.#core = core;
    this.#clients = clients;
  }

  /** A scan has found processes; `transfers` were open before it began. */
  counted(scan: MapperScan, transfers: ReadonlySet<number>): void {
    const registered = new Set<bigint>();
    for (const { instance } of this.#core.state.clients.values())
      if (this.#clients.usesPool(instance)) registered.add(instance);
    // Who registered since the last scan may map the pool only now: its process may not be among those counted.
    const instances = [...registered].filter((instance) => this.#registered.has(instance));
    this.#registered = registered;
    if (this.#count !== null || scan.kind !== "mapped" || scan.unreadable > 0) return;
    this.#count = { atMs: this.#core.now(), pids: scan.pids.length, instances, transfers };
  }

  /**
   * The hand-outs, open when the processes were counted, whose process is gone if their instance has been silent
   * since; null if there is no new answer.
   */
  take(): ReadonlySet<number> | null {
    const count = this.#count;
    if (count === null || this.#core.now() - count.atMs < HEARD_WITHIN_MS) return null;
    this.#count = null;
    const sinceMs = this.#core.now() - count.atMs;
    const living = count.instances.filter((instance) => {
      return this.#clients.get(instance) !== undefined && this.#clients.silentForMs(instance) < sinceMs;
    });
    return count.pids <= living.length ? count.transfers : null;
  }
}

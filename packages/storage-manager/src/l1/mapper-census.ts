import type { MapperScan } from "@cache/l1-memory";
import type { Core } from "../core.ts";
import type { Clients } from "./clients.ts";

/** A living instance is heard in this time after a scan: it pings every 10 s. */
const HEARD_WITHIN_MS = 15_000;

interface Count {
  readonly atMs: number;
  readonly mappings: number;
  /** Instances that had a mapping of their own when all were counted. */
  readonly instances: readonly bigint[];
  /** Hand-outs that were open before. */
  readonly transfers: ReadonlySet<number>;
}

/**
 * Whether every mapping of the pool belongs to an instance that lives. Then none is left by which a silent instance
 * could touch it, and what that one was handed ends with the grace period. Each instance of a process maps the pool
 * for itself, as LMCache's transfer context does; an instance counts only once it has stored through its mapping.
 */
export class MapperCensus {
  readonly #core: Core;
  readonly #clients: Clients;
  readonly #mapped = new Set<bigint>();
  #count: Count | null = null;

  constructor(core: Core, clients: Clients) {
    this.#core = core;
    this.#clients = clients;
  }

  /** The instance has copied into the pool: it maps it. */
  copiedIn(instance: bigint): void {
    this.#mapped.add(instance);
  }

  /** It is gone, or registers: then it may be about to map the pool anew, or may fail to. */
  forget(instance: bigint): void {
    this.#mapped.delete(instance);
  }

  /** Instances known to have a mapping: to be asked before a scan begins. */
  mapping(): readonly bigint[] {
    return [...this.#mapped].filter((instance) => this.#clients.usesPool(instance));
  }

  /** A scan has found processes; `transfers` were open and `instances` had their mapping before it began. */
  counted(scan: MapperScan, transfers: ReadonlySet<number>, instances: readonly bigint[]): void {
    // Of processes that cannot be read nothing can be seen: there, too, the grace period decides.
    if (this.#count !== null || scan.kind !== "mapped") return;
    this.#count = { atMs: this.#core.now(), mappings: scan.mappings, instances, transfers };
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
      return this.#mapped.has(instance) && this.#clients.silentForMs(instance) < sinceMs;
    });
    return count.mappings <= living.length ? count.transfers : null;
  }
}

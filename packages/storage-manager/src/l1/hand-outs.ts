import type { MapperScan } from "@cache/l1-memory";
import type { Core } from "../core.ts";
import { WRITER } from "../events/definitions.ts";
import type { Transfer } from "../state/records.ts";
import type { Clients } from "./clients.ts";
import { MapperCensus } from "./mapper-census.ts";

/** Scans of /proc are at least this far apart. */
const SCAN_EVERY_MS = 10_000;
/** Above this part of the pool the engine is unhealthy. */
const HELD_FRACTION_MAX = 0.1;

interface Times {
  readonly sinceMs: number;
  /** When a later transfer of the same instance was first committed. */
  laterCommitMs: number | null;
}

/** Bytes of one instance that wait until nobody can touch them. */
export interface HeldFigures {
  readonly instance: string;
  readonly transfers: number;
  readonly bytes: number;
}

/**
 * Slots whose offset a client was told. Their bytes are reused only after the hand-out ended: by its own commit,
 * by the instance's unregister, by proof that nobody maps the pool, by a long silence where nothing can be
 * proven or every mapping of the pool is somebody else's, or because a living client has plainly given it up
 * (`design` rule 2).
 */
export class HandOuts {
  readonly #core: Core;
  readonly #clients: Clients;
  readonly #census: MapperCensus;
  readonly #times = new Map<number, Times>();
  /** Hand-outs of each instance that has some. */
  readonly #byInstance = new Map<bigint, Set<number>>();
  readonly #fromBefore = new WeakSet<Transfer>();
  #nextScanMs = 0;
  #scanning = false;
  #lastScan: MapperScan | null = null;

  constructor(core: Core, clients: Clients) {
    this.#core = core;
    this.#clients = clients;
    this.#census = new MapperCensus(core, clients);
    clients.onGone = (instance, proven) => this.instanceGone(instance, proven);
    clients.onRegistered = (instance) => this.#census.forget(instance);
  }

  #timesOf(transfer: Transfer): Times {
    let times = this.#times.get(transfer.number);
    if (times === undefined) {
      times = { sinceMs: this.#core.now(), laterCommitMs: null };
      this.#times.set(transfer.number, times);
      const numbers = this.#byInstance.get(transfer.instance) ?? new Set();
      numbers.add(transfer.number);
      this.#byInstance.set(transfer.instance, numbers);
    }
    return times;
  }

  opened(number: number): void {
    this.#timesOf(this.#core.state.transfer(number));
  }

  /** After a restart: the times of all hand-outs begin anew, and nobody knows which replies were lost. */
  takeUp(): void {
    for (const transfer of this.#ofClients()) {
      this.#timesOf(transfer);
      if (transfer.kind === "write") this.#fromBefore.add(transfer);
    }
  }

  /**
   * A client asks again for slots that an earlier engine may have told it, or may have died over. Nobody can say
   * which slots its commit would mean: the old ones are held back and no commit of them counts. True if there were.
   */
  repeatsOneFromBefore(match: string): boolean {
    const { state } = this.#core;
    const open = (state.openTransfers.get(match) ?? []).map((number) => state.transfer(number));
    const before = open.filter((transfer) => this.#fromBefore.has(transfer));
    for (const transfer of before) this.#hold(transfer, "asked for again after a restart");
    return before.length > 0;
  }

  #forget(number: number, instance: bigint): void {
    this.#times.delete(number);
    const numbers = this.#byInstance.get(instance);
    numbers?.delete(number);
    if (numbers?.size === 0) this.#byInstance.delete(instance);
  }

  /** The instance says that it has copied into its slots. */
  copiedIn(instance: bigint): void {
    this.#census.copiedIn(instance);
  }

  /** A transfer of this instance was committed: older ones are a step closer to being given up. */
  committed(number: number, instance: bigint): void {
    const since = this.#times.get(number)?.sinceMs ?? this.#core.now();
    this.#forget(number, instance);
    for (const other of this.#byInstance.get(instance) ?? []) {
      const times = this.#times.get(other) as Times;
      if (times.laterCommitMs === null && times.sinceMs < since) times.laterCommitMs = this.#core.now();
    }
  }

  /** Ends a hand-out without a commit; its bytes are free. */
  end(transfer: Transfer, reason: string): void {
    this.#forget(transfer.number, transfer.instance);
    if (transfer.kind === "read") {
      this.#core.record({ type: "l1.read.finished", transfer: transfer.number, committed: false, reason });
    } else {
      this.#core.record({ type: "l1.write.abandoned", transfer: transfer.number, hold: false, reason });
    }
  }

  #hold(transfer: Transfer, reason: string): void {
    if (transfer.held || transfer.kind === "read") return;
    this.#core.record({ type: "l1.write.abandoned", transfer: transfer.number, hold: true, reason });
  }

  instanceGone(instance: bigint, proven: boolean): void {
    this.#census.forget(instance);
    for (const number of [...(this.#byInstance.get(instance) ?? [])]) {
      const transfer = this.#core.state.transfer(number);
      // A load of an adapter's helper process is no client's to end.
      if (transfer.writer === WRITER.load) continue;
      if (proven) this.end(transfer, "unregister");
      else this.#hold(transfer, "silent");
    }
  }

  /** Hand-outs to other processes: clients, and helpers of adapters whose engine died while they loaded. */
  #ofClients(): Transfer[] {
    const all = [...this.#core.state.transfers.values()];
    return all.filter((transfer) => transfer.writer === WRITER.client || transfer.held);
  }

  /** Ends what the rules let end now. Called now and then. */
  sweep(): void {
    if (this.#core.state.transfers.size === 0) return;
    const { options } = this.#core;
    const orphaned = this.#census.take();
    let waiting = false;
    for (const transfer of this.#ofClients()) {
      const times = this.#timesOf(transfer);
      const silentMs = this.#clients.silentForMs(transfer.instance);
      const age = this.#core.now() - times.sinceMs;
      if (this.#givenUp(transfer, times)) this.end(transfer, "given up by its client");
      else if (!this.#provable() && silentMs >= options.clientGraceMs)
        this.end(transfer, "grace period over");
      else if (orphaned?.has(transfer.number) === true && silentMs >= options.clientGraceMs)
        this.end(transfer, "its process is gone");
      else if (transfer.held || age >= options.writeTtlMs) waiting = true;
    }
    if (waiting) this.#scan();
  }

  /** Rule (e): a living client that has moved on, and then some. */
  #givenUp(transfer: Transfer, times: Times): boolean {
    const ttl = this.#core.options.writeTtlMs;
    if (this.#clients.silentForMs(transfer.instance) >= ttl) return false;
    if (times.laterCommitMs === null || this.#clients.get(transfer.instance) === undefined) return false;
    const now = this.#core.now();
    return now - times.sinceMs >= ttl && now - Math.max(times.laterCommitMs, times.sinceMs + ttl) >= ttl;
  }

  /** False where nobody can tell who maps the pool: then a long silence decides. */
  #provable(): boolean {
    const scan = this.#lastScan;
    if (scan === null) return true;
    if (scan.kind === "mapped") return scan.pids.length > 0;
    return scan.kind === "none";
  }

  #scan(): void {
    if (this.#scanning || this.#core.now() < this.#nextScanMs) return;
    this.#scanning = true;
    this.#nextScanMs = this.#core.now() + SCAN_EVERY_MS;
    const before = new Set(this.#core.state.transfers.keys());
    const mapping = this.#census.mapping();
    this.#core.pool
      .scanMappers()
      .then((scan) => {
        this.#lastScan = scan;
        this.#census.counted(scan, before, mapping);
        if (scan.kind !== "none" || !this.#core.healthy) return;
        for (const transfer of this.#ofClients()) {
          if (!before.has(transfer.number)) continue;
          if (
            transfer.held ||
            this.#core.now() - this.#timesOf(transfer).sinceMs >= this.#core.options.writeTtlMs
          ) {
            this.end(transfer, "no process maps the pool");
          }
        }
        this.#core.commit();
      })
      .catch((error: unknown) => {
        this.#core.log.warn("who maps the pool could not be found out", { error: String(error) });
      })
      .finally(() => {
        this.#scanning = false;
      });
  }

  /** True if the instance has hand-outs open. */
  isInUse(instance: bigint): boolean {
    return this.#byInstance.has(instance);
  }

  /** What is held back, by instance: no commit can come, or it is older than its time. */
  held(): { instances: HeldFigures[]; bytes: number; tooMuch: boolean; proof: string } {
    const { state, pool, options } = this.#core;
    const byInstance = new Map<bigint, { transfers: number; bytes: number }>();
    let total = 0;
    for (const transfer of this.#ofClients()) {
      if (!transfer.held && this.#core.now() - this.#timesOf(transfer).sinceMs < options.writeTtlMs) continue;
      const entry = byInstance.get(transfer.instance) ?? { transfers: 0, bytes: 0 };
      entry.transfers++;
      for (const slot of transfer.slots) {
        entry.bytes += state.occupied(slot);
        total += state.occupied(slot);
      }
      byInstance.set(transfer.instance, entry);
    }
    return {
      instances: [...byInstance].map(([instance, entry]) => ({ instance: String(instance), ...entry })),
      bytes: total,
      tooMuch: total > pool.sizeBytes * HELD_FRACTION_MAX,
      proof: this.#lastScan === null ? "not needed yet" : this.#describe(this.#lastScan),
    };
  }

  #describe(scan: MapperScan): string {
    if (scan.kind === "none") return "no other process maps the pool";
    if (scan.kind === "cannot-be-seen") return `cannot be seen: ${scan.reason}`;
    return `mapped by pids ${scan.pids.slice(0, 16).join(", ")}${scan.unreadable > 0 ? ` and ${scan.unreadable} unreadable` : ""}`;
  }
}

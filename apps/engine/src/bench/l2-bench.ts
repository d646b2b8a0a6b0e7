import { randomBytes } from "node:crypto";
import { type L2Adapter, type MemoryObj, messageOf, type ObjectKey, type SizedKey } from "@cache/contracts";
import { createL1Allocator, DEFAULT_VIEW_BYTES, type L1Pool, openL1Pool } from "@cache/l1-memory";
import {
  checkPlan,
  keysPerRound,
  type L2BenchPlan,
  type L2Operation,
  lookupKeys,
  transferKeys,
} from "./l2-plan.ts";
import type { OperationResult } from "./l2-result.ts";

/** Objects begin at pages: O_DIRECT needs it, and it is what the engine does. */
const ALIGN_BYTES = 4096;
/** Time for a round, in milliseconds. */
const ROUND_TIMEOUT_MS: Readonly<Record<L2Operation, number>> = {
  Store: 120_000,
  Lookup: 60_000,
  Load: 120_000,
};

/** What a run came to. */
export interface L2BenchOutcome {
  readonly results: readonly OperationResult[];
  /** Null where nothing was compared. */
  readonly verified: { readonly keys: number; readonly wrong: number } | null;
  /** The first thing that went wrong, for people; null if nothing did. */
  readonly problem: string | null;
}

/** Told of each round as it ends. */
export type RoundListener = (
  operation: L2Operation,
  round: number,
  seconds: number | null,
  successes: number,
) => void;

interface Batch {
  readonly keys: readonly ObjectKey[];
  readonly objects: readonly MemoryObj[];
}

/** How one call of an operation runs: the keys that it stored, found or loaded. */
type Call = (batch: Batch, signal: AbortSignal) => Promise<number>;

/** Memory for one round of stores and one of loads: anonymous, mapped like the engine's pool where koffi is. */
export async function benchMemory(plan: L2BenchPlan): Promise<L1Pool> {
  checkPlan(plan);
  const objectBytes = Math.ceil(plan.dataSizeBytes / ALIGN_BYTES) * ALIGN_BYTES;
  const bytes = 2 * keysPerRound(plan) * objectBytes;
  // No object crosses the end of a view: each view may leave the room of one object.
  const slack = Math.ceil(bytes / DEFAULT_VIEW_BYTES) * objectBytes;
  return await openL1Pool({
    shmName: "",
    sizeBytes: bytes + (bytes > DEFAULT_VIEW_BYTES ? slack : 0),
    alignBytes: ALIGN_BYTES,
    journalId: randomBytes(16).toString("hex"),
    expected: null,
  });
}

/**
 * Measures an adapter that is open: all stores, then all lookups, then all loads, as `lmcache bench l2` does. Fresh
 * keys in each round, the same buffers; load buffers are zeroed before each round, outside the measured time.
 */
export async function benchL2(
  adapter: L2Adapter,
  pool: L1Pool,
  plan: L2BenchPlan,
  onRound: RoundListener,
): Promise<L2BenchOutcome> {
  const bench = new L2Bench(adapter, pool, plan, onRound);
  const wanted: readonly L2Operation[] = plan.only === null ? ["Store", "Lookup", "Load"] : [plan.only];
  const results: OperationResult[] = [];
  for (const operation of wanted) results.push(await bench.run(operation));
  return { results, verified: bench.verify(), problem: bench.problem };
}

class L2Bench {
  problem: string | null = null;
  private readonly adapter: L2Adapter;
  private readonly plan: L2BenchPlan;
  private readonly onRound: RoundListener;
  private readonly stored: readonly MemoryObj[];
  private readonly loaded: readonly MemoryObj[];

  constructor(adapter: L2Adapter, pool: L1Pool, plan: L2BenchPlan, onRound: RoundListener) {
    this.adapter = adapter;
    this.plan = plan;
    this.onRound = onRound;
    const allocator = createL1Allocator({ capacityBytes: pool.sizeBytes, alignBytes: ALIGN_BYTES });
    const objects = Array.from({ length: 2 * keysPerRound(plan) }, (): MemoryObj => {
      const offset = allocator.allocate(plan.dataSizeBytes);
      const bytes = offset < 0 ? null : pool.view(offset, plan.dataSizeBytes);
      if (bytes === null) throw new Error("the memory of the benchmark is too small for its objects");
      return { bytes, poolOffset: pool.desc.ptr === null ? null : offset };
    });
    this.stored = objects.slice(0, keysPerRound(plan));
    this.loaded = objects.slice(keysPerRound(plan));
    // A load that reports success and does nothing is seen: the patterns differ.
    this.stored.forEach(({ bytes }, index) => bytes.fill((index % plan.numKeys) & 0xff));
    this.loaded.forEach(({ bytes }, index) => bytes.fill(((index % plan.numKeys) + 1) & 0xff));
  }

  async run(operation: L2Operation): Promise<OperationResult> {
    const { plan } = this;
    const seconds: number[] = [];
    const successes: number[] = [];
    let timedOut = 0;
    for (let round = 0; round < plan.warmupRounds + plan.rounds; round++) {
      const measured = await this.round(operation, round);
      this.onRound(operation, round, measured.seconds, measured.successes);
      if (round < plan.warmupRounds) continue;
      successes.push(measured.successes);
      if (measured.seconds === null) timedOut++;
      else seconds.push(measured.seconds);
    }
    return { operation, seconds, successes, timedOut };
  }

  private async round(
    operation: L2Operation,
    round: number,
  ): Promise<{ seconds: number | null; successes: number }> {
    const { plan } = this;
    const keys = operation === "Lookup" ? lookupKeys(plan, round) : transferKeys(plan, round);
    const objects = operation === "Store" ? this.stored : this.loaded;
    const batches = keys.flatMap((batch, call) => this.split(batch, objects.slice(call * plan.numKeys)));
    if (operation === "Load") for (const { bytes } of this.loaded) bytes.fill(0);
    const call = this.calls[operation];
    const signal = AbortSignal.timeout(ROUND_TIMEOUT_MS[operation]);
    const begin = process.hrtime.bigint();
    const settled = await Promise.allSettled(batches.map(async (batch) => await call(batch, signal)));
    const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
    let successes = 0;
    for (const result of settled) {
      if (result.status === "fulfilled") successes += result.value;
      else this.note(`${operation} failed: ${messageOf(result.reason)}`);
    }
    if (operation === "Lookup") for (const batch of this.found.splice(0)) this.adapter.unlock(batch);
    if (signal.aborted)
      this.note(`a ${operation} round did not end within ${ROUND_TIMEOUT_MS[operation]} ms`);
    return { seconds: signal.aborted ? null : seconds, successes };
  }

  /** Calls of at most as many keys as the adapter takes, as the engine makes them. */
  private split(keys: readonly ObjectKey[], objects: readonly MemoryObj[]): Batch[] {
    const most = this.adapter.capabilities.maxBatchKeys;
    const batches: Batch[] = [];
    for (let at = 0; at < keys.length; at += most) {
      const part = keys.slice(at, at + most);
      batches.push({ keys: part, objects: objects.slice(at, at + part.length) });
    }
    return batches;
  }

  /** Locks of the last lookup round, given back outside the measured time. */
  private readonly found: ObjectKey[][] = [];

  private readonly calls: Readonly<Record<L2Operation, Call>> = {
    Store: async ({ keys, objects }, signal) => {
      const { stored, failed } = await this.adapter.store(keys, objects, signal);
      for (const error of failed.values()) this.note(`a store failed: ${error.message}`);
      return stored.count();
    },
    Lookup: async ({ keys }, signal) => {
      const found = await this.adapter.lookupAndLock(this.sized(keys), signal);
      this.found.push(keys.filter((_, index) => found.has(index)));
      return found.count();
    },
    Load: async ({ keys, objects }, signal) =>
      (await this.adapter.load(this.sized(keys), objects, signal)).count(),
  };

  private sized(keys: readonly ObjectKey[]): SizedKey[] {
    return keys.map((key) => ({ key, byteLength: this.plan.dataSizeBytes }));
  }

  private note(text: string): void {
    this.problem ??= text;
  }

  /** Compares the buffers of the last round; null unless both operations ran and it is asked for. */
  verify(): L2BenchOutcome["verified"] {
    if (!this.plan.verify || this.plan.only !== null) return null;
    const wrong = this.stored.filter(({ bytes }, index) => {
      const loaded = this.loaded[index]?.bytes;
      return loaded === undefined || Buffer.compare(bytes, loaded) !== 0;
    }).length;
    return { keys: this.stored.length, wrong };
  }
}

import type { L2Adapter, MemoryObj } from "@cache/contracts";
import { createArena } from "./arena.ts";
import type { AdapterHarnessFactory } from "./harness.ts";
import { sampleKey } from "./law.ts";
import { fillPattern } from "./prng.ts";

const KIB = 1024;
const SIZES = [64 * KIB, 1024 * KIB, 4096 * KIB];
/** Payload of one batch at most, in bytes: half of an arena, since it is stored from and loaded to it. */
const BATCH_BYTES = 12 * 1024 * KIB;
const BATCH_KEYS = 32;
const ROUNDS = 7;

/** Medians over the rounds of one size, in milliseconds for one batch. */
export interface BenchmarkRow {
  readonly objectBytes: number;
  /** Objects of one batch. */
  readonly batchKeys: number;
  readonly rounds: number;
  readonly storeMs: number;
  readonly lookupMs: number;
  readonly loadMs: number;
}

const never = new AbortController().signal;

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >>> 1] ?? 0;
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

interface RoundTimes {
  readonly storeMs: number;
  readonly lookupMs: number;
  readonly loadMs: number;
}

async function round(
  adapter: L2Adapter,
  n: number,
  sources: readonly MemoryObj[],
  into: readonly MemoryObj[],
): Promise<RoundTimes> {
  const keys = sources.map((_, i) => sampleKey(n * BATCH_KEYS + i));
  const requests = keys.map((key, i) => ({ key, byteLength: sources[i]?.bytes.length ?? 0 }));
  const check = (what: string, count: number): void => {
    if (count !== keys.length) throw new Error(`benchmark: ${what} ${count} of ${keys.length} objects`);
  };
  const storeMs = await timed(async () => {
    const { stored, failed } = await adapter.store(keys, sources, never);
    for (const error of failed.values()) throw error;
    check("stored", stored.count());
  });
  const lookupMs = await timed(async () =>
    check("found", (await adapter.lookupAndLock(requests, never)).count()),
  );
  const loadMs = await timed(async () =>
    check("loaded", (await adapter.load(requests, into, never)).count()),
  );
  adapter.unlock(keys);
  if (adapter.capabilities.delete) await adapter.delete?.(keys, never);
  return { storeMs, lookupMs, loadMs };
}

/**
 * A small benchmark: batches of three sizes are stored, looked up and loaded, one after the other, on one place.
 * For the order of magnitude; the first round is not counted.
 *
 * @throws what an operation throws, or an Error when an object is not stored, found or loaded.
 */
export async function benchmarkAdapter(factory: AdapterHarnessFactory): Promise<BenchmarkRow[]> {
  const harness = await factory();
  const rows: BenchmarkRow[] = [];
  let adapter: L2Adapter | null = null;
  try {
    const { l1 } = createArena(harness.l1);
    adapter = harness.create(l1);
    const silent = (): void => {};
    const log = { debug: silent, info: silent, warn: silent, error: silent };
    const stateDir = adapter.capabilities.needsStateDir ? (harness.stateDir ?? null) : null;
    await adapter.open({ id: "benchmark", stateDir, log, signal: never });
    const { maxObjectBytes, maxBatchKeys } = adapter.capabilities;
    for (const [n, size] of SIZES.filter((one) => one <= maxObjectBytes).entries()) {
      const batchKeys = Math.max(1, Math.min(BATCH_KEYS, maxBatchKeys, Math.floor(BATCH_BYTES / size)));
      const arena = createArena({ ...l1 });
      const allocate = (): MemoryObj => arena.allocate(size);
      const sources = Array.from({ length: batchKeys }, allocate);
      const into = Array.from({ length: batchKeys }, allocate);
      sources.forEach(({ bytes }, i) => fillPattern(bytes, i + 1));
      const times: RoundTimes[] = [];
      for (let r = 0; r <= ROUNDS; r++) {
        times.push(await round(adapter, 1 + n * (ROUNDS + 1) + r, sources, into));
      }
      const counted = times.slice(1);
      rows.push({
        objectBytes: size,
        batchKeys,
        rounds: counted.length,
        storeMs: median(counted.map(({ storeMs }) => storeMs)),
        lookupMs: median(counted.map(({ lookupMs }) => lookupMs)),
        loadMs: median(counted.map(({ loadMs }) => loadMs)),
      });
    }
  } finally {
    await adapter?.close();
    await harness.dispose();
  }
  return rows;
}

import { expectedHits, keysPerRound, type L2BenchPlan, type L2Operation } from "./l2-plan.ts";

/** What the measured rounds of one operation took. */
export interface OperationResult {
  readonly operation: L2Operation;
  /** Of each round that ended in time, in seconds. */
  readonly seconds: readonly number[];
  /** Keys that each round stored, found or loaded; also of rounds that did not end in time. */
  readonly successes: readonly number[];
  readonly timedOut: number;
}

/** Figures under the names of `lmcache bench l2`. `mbps` are MiB a second. */
export type Figures = Readonly<Record<string, string | number>>;

const MIB = 2 ** 20;

/** The fields of `config` in the JSON of `lmcache bench l2`. */
export function configFigures(plan: L2BenchPlan, adapterJson: string): Figures {
  const figures = {
    l2_adapter_json: adapterJson,
    num_keys: plan.numKeys,
    in_flight: plan.inFlight,
    keys_per_round: keysPerRound(plan),
    data_size_kb: plan.dataSizeBytes / 1024,
    data_per_round_mb: rounded((keysPerRound(plan) * plan.dataSizeBytes) / MIB, 2),
    measurement_rounds: plan.rounds,
    warmup_rounds: plan.warmupRounds,
  };
  const looksUp = plan.only === null || plan.only === "Lookup";
  return looksUp ? { ...figures, lookup_max_hit_rate: rounded(plan.lookupMaxHitRate, 4) } : figures;
}

/** The fields of `op_N` in the JSON of `lmcache bench l2`. */
export function operationFigures(plan: L2BenchPlan, result: OperationResult): Figures {
  const { seconds, successes, timedOut, operation } = result;
  const rounds = seconds.length + timedOut;
  const keys = keysPerRound(plan);
  const success = successes.reduce((sum, count) => sum + count, 0);
  const bytes = operation === "Lookup" ? 0 : keys * plan.dataSizeBytes;
  const rates = bytes === 0 ? [] : seconds.map((time) => bytes / MIB / time);
  const ms = (value: number) => rounded(value * 1000, 2);
  const figures = {
    operation,
    rounds,
    rounds_timed_out: timedOut,
    keys_per_round: keys,
    total_keys: keys * rounds,
    total_success: success,
    duration_avg_ms: ms(mean(seconds)),
    duration_min_ms: ms(least(seconds)),
    duration_max_ms: ms(most(seconds)),
    duration_p50_ms: ms(percentile(seconds, 50)),
    duration_p99_ms: ms(percentile(seconds, 99)),
    duration_std_ms: ms(deviation(seconds)),
    throughput_avg_mbps: rounded(mean(rates), 2),
    throughput_min_mbps: rounded(least(rates), 2),
    throughput_max_mbps: rounded(most(rates), 2),
    ops_per_sec_avg: rounded(mean(seconds.map((time) => keys / time)), 2),
    latency_per_key_ms: rounded((mean(seconds) / keys) * 1000, 3),
  };
  if (operation !== "Lookup" || (plan.lookupMaxHitRate <= 0 && expectedHits(plan) <= 0)) return figures;
  return {
    ...figures,
    expected_max_hit_rate: rounded(plan.lookupMaxHitRate, 4),
    expected_hit_count: expectedHits(plan),
    actual_hit_rate: rounded(rounds === 0 ? 0 : success / (keys * rounds), 4),
  };
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}

function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
}

function least(values: readonly number[]): number {
  return values.length === 0 ? 0 : Math.min(...values);
}

function most(values: readonly number[]): number {
  return values.length === 0 ? 0 : Math.max(...values);
}

/** Of a sample: divided by one less than its size. */
function deviation(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const center = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1));
}

/** The nearest rank: a value that was measured, not one between two. */
export function percentile(values: readonly number[], percent: number): number {
  if (values.length === 0) return 0;
  const sorted = [...values].sort((a, b) => a - b);
  const rank = Math.min(sorted.length, Math.max(1, Math.ceil((percent / 100) * sorted.length)));
  return sorted[rank - 1] ?? 0;
}

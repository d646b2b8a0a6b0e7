/** Summary of durations, in milliseconds; quantiles are upper bounds of their bucket (19 % apart). */
export interface LatencySummary {
  readonly count: number;
  readonly meanMs: number;
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

const SMALLEST_MS = 0.01;
/** Four buckets for each doubling; 112 of them reach from 0.01 ms to 45 minutes. */
const BUCKETS_PER_DOUBLING = 4;
const BUCKETS = 112;

/** Counts durations in logarithmic buckets: 112 numbers, however many durations there were. */
export class LatencyHistogram {
  readonly #buckets = new Float64Array(BUCKETS);
  #count = 0;
  #sum = 0;
  #max = 0;

  /** Adds one duration in milliseconds. */
  add(durationMs: number): void {
    const ms = Math.max(durationMs, 0);
    const exact = Math.ceil(Math.log2(Math.max(ms, SMALLEST_MS) / SMALLEST_MS) * BUCKETS_PER_DOUBLING);
    const bucket = Math.min(exact, BUCKETS - 1);
    this.#buckets[bucket] = (this.#buckets[bucket] ?? 0) + 1;
    this.#count++;
    this.#sum += ms;
    this.#max = Math.max(this.#max, ms);
  }

  #quantile(share: number): number {
    const wanted = Math.ceil(this.#count * share);
    let seen = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      seen += this.#buckets[bucket] ?? 0;
      if (seen >= wanted) return Math.min(SMALLEST_MS * 2 ** (bucket / BUCKETS_PER_DOUBLING), this.#max);
    }
    return this.#max;
  }

  /** The summary so far; all zeros when nothing was added. */
  summary(): LatencySummary {
    if (this.#count === 0) return { count: 0, meanMs: 0, p50Ms: 0, p90Ms: 0, p99Ms: 0, maxMs: 0 };
    return {
      count: this.#count,
      meanMs: this.#sum / this.#count,
      p50Ms: this.#quantile(0.5),
      p90Ms: this.#quantile(0.9),
      p99Ms: this.#quantile(0.99),
      maxMs: this.#max,
    };
  }
}

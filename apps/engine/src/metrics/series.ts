/** Label values of one series, by label name. */
export type Labels = Readonly<Record<string, string>>;

/** One line of a counter or gauge. */
export interface Sample {
  readonly labels: Labels;
  readonly value: number;
}

/** One histogram. */
export interface HistogramSample {
  readonly labels: Labels;
  /** Upper bounds of the buckets, ascending, without infinity. */
  readonly bounds: readonly number[];
  /** Observations in each bucket; the last one is what is above all bounds. */
  readonly counts: readonly number[];
  readonly sum: number;
}

/** Sums by label values. The caller bounds how many different values there are. */
export class LabelledCounter {
  readonly #series = new Map<string, { readonly labels: Labels; value: number }>();

  /** Adds to the series with these labels; labels with the value "" are left out. */
  add(amount: number, labels: Labels = {}): void {
    const key = Object.values(labels).join("\0");
    const series = this.#series.get(key);
    if (series !== undefined) {
      series.value += amount;
      return;
    }
    const shown = Object.fromEntries(Object.entries(labels).filter(([, value]) => value !== ""));
    this.#series.set(key, { labels: shown, value: amount });
  }

  samples(): Sample[] {
    return [...this.#series.values()].map(({ labels, value }) => ({ labels, value }));
  }
}

/** Observations in fixed buckets: a few numbers, however many there were. */
export class Histogram {
  readonly #bounds: readonly number[];
  readonly #counts: number[];
  #sum = 0;

  /** @param bounds upper bounds of the buckets, ascending. */
  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.#counts = Array.from({ length: bounds.length + 1 }, () => 0);
  }

  observe(value: number): void {
    let bucket = 0;
    while (bucket < this.#bounds.length && value > (this.#bounds[bucket] as number)) bucket++;
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
    this.#sum += value;
  }

  sample(labels: Labels): HistogramSample {
    return { labels, bounds: this.#bounds, counts: [...this.#counts], sum: this.#sum };
  }
}

/** At most this many values of a label that clients choose; what comes later counts as {@link OTHER}. */
const CHOSEN_VALUES_MAX = 100;
/** Cannot be a model's or a tenant's name: `@` stands in neither. */
const OTHER = "@other";

/** Values of a label that clients choose, so many of them and no more. */
export class BoundedLabel {
  readonly #known = new Set<string>();
  readonly #on: boolean;

  /** @param on false: the label is left out. */
  constructor(on: boolean) {
    this.#on = on;
  }

  get isOn(): boolean {
    return this.#on;
  }

  /** What to put into the label: the value, `@other` beyond the bound, "" where there is none. */
  of(value: string): string {
    if (!this.#on || value === "" || this.#known.has(value)) return this.#on ? value : "";
    if (this.#known.size >= CHOSEN_VALUES_MAX) return OTHER;
    this.#known.add(value);
    return value;
  }
}

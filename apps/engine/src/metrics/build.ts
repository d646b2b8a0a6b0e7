import type { Metric } from "./exposition.ts";
import type { HistogramSample, Sample } from "./series.ts";

/** A counter. `name` ends in `_total`. */
export function counter(
  name: string,
  help: string,
  labels: readonly string[],
  samples: readonly Sample[],
): Metric {
  return { name, type: "counter", help, labels, samples };
}

/** A gauge. */
export function gauge(
  name: string,
  help: string,
  labels: readonly string[],
  samples: readonly Sample[],
): Metric {
  return { name, type: "gauge", help, labels, samples };
}

/** A histogram. */
export function histogram(
  name: string,
  help: string,
  labels: readonly string[],
  samples: readonly HistogramSample[],
): Metric {
  return { name, type: "histogram", help, labels, samples };
}

/** The only series of a metric without labels. */
export function one(value: number | boolean): Sample[] {
  return [{ labels: {}, value: Number(value) }];
}

/** A series for each entry, the entry's name in one label. */
export function each(label: string, values: Readonly<Record<string, number>>): Sample[] {
  return Object.entries(values).map(([name, value]) => ({ labels: { [label]: name }, value }));
}

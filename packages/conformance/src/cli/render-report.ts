import type { BenchmarkRow } from "../benchmark.ts";
import { LAW_IDS, type LawReport, type LawResult } from "../law-report.ts";

/** Everything that a report says. */
export interface ConformanceReport {
  readonly package: string;
  readonly version: string | null;
  readonly type: string;
  /** Version of the suite. */
  readonly conformance: string;
  readonly adapterApi: number;
  readonly node: string;
  readonly platform: string;
  /** As it was given, secrets masked. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly laws: LawReport;
  /** Null if it was not asked for, or laws failed. */
  readonly benchmark: readonly BenchmarkRow[] | null;
  /** Why the benchmark failed; null if it did not. */
  readonly benchmarkError: string | null;
  /** Places in a store of somebody's that could not be emptied. */
  readonly placesLeftBehind: number;
}

const cell = (text: string): string =>
  text
    .replaceAll("|", "\\|")
    .replaceAll(/\s*\n\s*/g, " ")
    .trim();

function resultCell({ outcome, excuse, message }: LawResult): string {
  if (outcome === "held") return "held";
  return outcome === "skipped" ? `skipped, \`${excuse}\`` : `**failed**: ${cell(message ?? "")}`;
}

/** Skipped laws by the capability that excused them, each counted. */
export function skipsByCapability(laws: readonly LawResult[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const { excuse } of laws) {
    if (excuse !== undefined) counts.set(excuse, (counts.get(excuse) ?? 0) + 1);
  }
  return counts;
}

function sizeText(bytes: number): string {
  return bytes >= 1024 * 1024 ? `${bytes / 1024 / 1024} MiB` : `${bytes / 1024} KiB`;
}

function benchmarkLines(rows: readonly BenchmarkRow[]): string[] {
  const speed = (row: BenchmarkRow, ms: number): string => {
    const mib = (row.objectBytes * row.batchKeys) / 1024 / 1024;
    return `${ms.toFixed(1)} ms (${Math.round(mib / Math.max(ms / 1000, 1e-6))} MiB/s)`;
  };
  return [
    "",
    `Benchmark, medians of ${rows[0]?.rounds ?? 0} batches, one at a time:`,
    "",
    "| Objects | Store | Lookup | Load |",
    "|---|---|---|---|",
    ...rows.map(
      (row) =>
        `| ${row.batchKeys} of ${sizeText(row.objectBytes)} | ${speed(row, row.storeMs)} | ${row.lookupMs.toFixed(1)} ms | ${speed(row, row.loadMs)} |`,
    ),
  ];
}

/** The report in Markdown, for a README. */
export function renderReport(report: ConformanceReport): string {
  const { laws } = report;
  const skips = [...skipsByCapability(laws.laws)].map(([excuse, count]) => `${count} by \`${excuse}\``);
  const capabilities = Object.entries(laws.capabilities).map(([name, value]) => `${name} ${value}`);
  const tried = laws.laws.length;
  const chosen = tried === LAW_IDS.length ? "" : `; ${LAW_IDS.length - tried} not tried`;
  return [
    `## Conformance: ${report.package} ${report.version ?? ""}, type \`${report.type}\``,
    "",
    `**${laws.held} laws held, ${laws.skipped} skipped, ${laws.failed} failed${chosen}.** ` +
      `@cache/conformance ${report.conformance}, adapter API ${report.adapterApi}, Node ${report.node}, ` +
      `${report.platform}; seed ${laws.seed}.`,
    "",
    `Configuration: \`${JSON.stringify(report.config)}\``,
    "",
    `Capabilities: ${capabilities.join(", ")}.`,
    "",
    `Skipped: ${skips.length === 0 ? "none" : skips.join(", ")}.`,
    "",
    "| Law | | |",
    "|---|---|---|",
    ...laws.laws.map((law) => {
      const notes = law.notes.length === 0 ? "" : ` (${cell(law.notes.join("; "))})`;
      return `| \`${law.id}\` | ${cell(law.title)} | ${resultCell(law)}${notes} |`;
    }),
    ...(report.benchmark === null ? [] : benchmarkLines(report.benchmark)),
    ...(report.benchmarkError === null ? [] : ["", `The benchmark failed: ${cell(report.benchmarkError)}`]),
    ...(report.placesLeftBehind === 0
      ? []
      : ["", `${report.placesLeftBehind} places could not be emptied: remove what begins with their {id}.`]),
    "",
  ].join("\n");
}

import { type L2Capabilities, messageOf } from "@cache/contracts";
import type { AdapterHarnessFactory } from "./harness.ts";
import { LAWS } from "./laws/index.ts";
import { runLaw } from "./run-law.ts";

/** What became of one law. */
export interface LawResult {
  readonly id: string;
  readonly title: string;
  readonly outcome: "held" | "skipped" | "failed";
  /** The capability that excused a skipped law, as `name: value`. */
  readonly excuse?: string;
  /** Why it failed. */
  readonly message?: string;
  /** Lines beside the result, e.g. sizes that were left out and why. */
  readonly notes: readonly string[];
  readonly durationMs: number;
}

/** What became of all laws. */
export interface LawReport {
  readonly seed: number;
  readonly capabilities: L2Capabilities;
  readonly held: number;
  readonly skipped: number;
  readonly failed: number;
  /** In the order in which they were tried. */
  readonly laws: readonly LawResult[];
}

/** Options of {@link runL2AdapterLaws}. */
export interface RunLawsOptions {
  /** Makes a new, empty place for each law. */
  readonly factory: AdapterHarnessFactory;
  /** Seed of everything random. Default: another one each time; it stands in the report. */
  readonly seed?: number | undefined;
  /** Longest time for one law, in milliseconds. Default 20 000. */
  readonly lawDeadlineMs?: number | undefined;
  /** How long buffers are watched for writes after an operation has settled, in milliseconds. Default 50. */
  readonly lateWriteGraceMs?: number | undefined;
  /** Only these laws, e.g. one that failed. Default all. */
  readonly only?: readonly string[] | undefined;
  /** Is told each result when it is there. */
  readonly onResult?: ((result: LawResult) => void) | undefined;
}

/** The names of all laws, in the order in which they are tried. */
export const LAW_IDS: readonly string[] = LAWS.map(({ id }) => id);

/** Tries all laws without a test runner. A law that fails is a result, not a rejection. */
export async function runL2AdapterLaws(options: RunLawsOptions): Promise<LawReport> {
  const { factory, lawDeadlineMs, lateWriteGraceMs } = options;
  const seed = (options.seed ?? Math.floor(Math.random() * 0x1_0000_0000)) >>> 0;
  const laws: LawResult[] = [];
  const chosen = options.only === undefined ? LAWS : LAWS.filter(({ id }) => options.only?.includes(id));
  for (const law of chosen) {
    const notes: string[] = [];
    const note = (_: unknown, line: string): void => void notes.push(line);
    const began = performance.now();
    const settled = await runLaw(law, seed, { factory, lawDeadlineMs, lateWriteGraceMs, note }).then(
      (excuse) => (excuse === null ? { outcome: "held" as const } : { outcome: "skipped" as const, excuse }),
      (error: unknown) => ({ outcome: "failed" as const, message: messageOf(error) }),
    );
    const durationMs = Math.round(performance.now() - began);
    const result: LawResult = { id: law.id, title: law.title, ...settled, notes, durationMs };
    laws.push(result);
    options.onResult?.(result);
  }
  const count = (outcome: LawResult["outcome"]): number =>
    laws.filter((law) => law.outcome === outcome).length;
  return {
    seed,
    capabilities: await capabilitiesOf(factory),
    held: count("held"),
    skipped: count("skipped"),
    failed: count("failed"),
    laws,
  };
}

async function capabilitiesOf(factory: AdapterHarnessFactory): Promise<L2Capabilities> {
  const harness = await factory();
  try {
    const l1 = harness.l1 ?? { ptr: null, size: 0, alignBytes: 4096, views: [] };
    return harness.create(l1).capabilities;
  } finally {
    await harness.dispose();
  }
}

import { strict as assert } from "node:assert";
import type { AdapterHarnessFactory } from "./harness.ts";
import type { Law } from "./law.ts";
import { LAWS } from "./laws/index.ts";
import { runLaw } from "./run-law.ts";
import { type SuiteRecord, suiteRecord } from "./suite-record.ts";

/** Options of {@link l2AdapterSuite}. */
export interface L2AdapterSuiteOptions {
  /** How your runner declares a test: vitest's or node:test's `test`. Tests must run one after the other. */
  readonly test: (name: string, run: () => Promise<void>) => unknown;
  /** Makes a new, empty place for each law. */
  readonly factory: AdapterHarnessFactory;
  /** What is tried, e.g. `redis: cluster of three masters`: its name in a table of several suites' results. */
  readonly name?: string;
  /** Seed of everything random. Default: another one each time; it is printed and stands in each failure. */
  readonly seed?: number;
  /** Longest time for one law, in milliseconds; a law that hangs fails under its name. Default 20 000. */
  readonly lawDeadlineMs?: number;
  /** How long buffers are watched for writes after an operation has settled, in milliseconds. Default 50. */
  readonly lateWriteGraceMs?: number;
  /** Where the lines about seed, skipped laws and the count go. Default: standard output. */
  readonly report?: (line: string) => void;
}

/**
 * Declares one test for each law of the adapter contract, and a last one that fails unless every law that the
 * manifest does not excuse has run.
 *
 * What an adapter's manifest promises is tried; what it denies must be absent or fail with `UNSUPPORTED`.
 */
export function l2AdapterSuite(options: L2AdapterSuiteOptions): void {
  const report = options.report ?? ((line: string) => void process.stdout.write(`${line}\n`));
  const seed = (options.seed ?? Math.floor(Math.random() * 0x1_0000_0000)) >>> 0;
  const ran = new Set<string>();
  const skipped = new Map<string, string>();
  const record: SuiteRecord | null = suiteRecord(options.name, seed);
  const { factory, lawDeadlineMs, lateWriteGraceMs } = options;
  const note = (law: Law, line: string): void => report(`  note ${law.id}: ${line}`);
  for (const law of LAWS) {
    options.test(`${law.id}: ${law.title}`, async () => {
      const running = runLaw(law, seed, { factory, lawDeadlineMs, lateWriteGraceMs, note });
      record?.follow(law, running);
      const excuse = await running;
      if (excuse === null) ran.add(law.id);
      else {
        skipped.set(law.id, excuse);
        report(`  skipped ${law.id} (excused by ${excuse})`);
      }
    });
  }
  options.test("suite.complete: every law that no capability excuses has held", async () => {
    record?.write();
    const missing = LAWS.filter((law) => !ran.has(law.id) && !skipped.has(law.id));
    report(
      `  l2AdapterSuite: ${ran.size} laws held, ${skipped.size} skipped, ` +
        `${missing.length} failed or not run; seed ${seed}`,
    );
    assert.deepEqual(
      missing.map((law) => law.id),
      [],
      "mandatory laws that failed or did not run",
    );
  });
}

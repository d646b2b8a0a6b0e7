import { strict as assert } from "node:assert";
import { type L2Adapter, messageOf } from "@cache/contracts";
import { createArena } from "./arena.ts";
import { checkedAdapter } from "./checked-adapter.ts";
import type { AdapterHarness, AdapterHarnessFactory } from "./harness.ts";
import type { Law, LawContext } from "./law.ts";
import { LAWS } from "./laws/index.ts";
import { createPrng } from "./prng.ts";

/** Options of {@link l2AdapterSuite}. */
export interface L2AdapterSuiteOptions {
  /** How your runner declares a test: vitest's or node:test's `test`. Tests must run one after the other. */
  readonly test: (name: string, run: () => Promise<void>) => unknown;
  /** Makes a new, empty place for each law. */
  readonly factory: AdapterHarnessFactory;
  /** Seed of everything random. Default: another one each time; it is printed and stands in each failure. */
  readonly seed?: number;
  /** Longest time for one law, in milliseconds; a law that hangs fails under its name. Default 20 000. */
  readonly lawDeadlineMs?: number;
  /** How long buffers are watched for writes after an operation has settled, in milliseconds. Default 50. */
  readonly lateWriteGraceMs?: number;
  /** Where the lines about seed, skipped laws and the count go. Default: standard output. */
  readonly report?: (line: string) => void;
}

/** What became of the laws so far. */
interface Tally {
  readonly ran: Set<string>;
  readonly skipped: Map<string, string>;
}

const CLEANUP_DEADLINE_MS = 5000;

async function withDeadline<T>(what: string, deadlineMs: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not end within ${deadlineMs} ms`)), deadlineMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

function lawContext(
  harness: AdapterHarness,
  created: L2Adapter[],
  seed: number,
  options: L2AdapterSuiteOptions,
  note: (line: string) => void,
): LawContext {
  const arena = createArena(harness.l1);
  const signal = new AbortController().signal;
  const secrets = harness.secrets ?? [];
  const createRaw = (): L2Adapter => {
    const adapter = harness.create(arena.l1);
    created.push(adapter);
    return adapter;
  };
  const silent = (): void => {};
  const context: LawContext = {
    harness,
    arena,
    capabilities: createRaw().capabilities,
    random: createPrng(seed),
    signal,
    lateWriteGraceMs: options.lateWriteGraceMs ?? 50,
    createRaw,
    create: () => checkedAdapter(createRaw(), secrets),
    async open() {
      const adapter = context.create();
      await context.openAdapter(adapter);
      return adapter;
    },
    openAdapter: (adapter, openSignal = signal) =>
      adapter.open({
        id: "conformance",
        stateDir: context.capabilities.needsStateDir ? (harness.stateDir ?? null) : null,
        log: { debug: silent, info: silent, warn: silent, error: silent },
        signal: openSignal,
      }),
    note,
  };
  return context;
}

async function runLaw(law: Law, seed: number, options: L2AdapterSuiteOptions, tally: Tally): Promise<void> {
  const deadlineMs = options.lawDeadlineMs ?? 20_000;
  const report = options.report ?? ((line: string) => void process.stdout.write(`${line}\n`));
  const harness = await withDeadline(`${law.id}: the factory`, deadlineMs, options.factory());
  const created: L2Adapter[] = [];
  try {
    const context = lawContext(harness, created, seed, options, (line) =>
      report(`  note ${law.id}: ${line}`),
    );
    const excuse = law.excuse?.(context.capabilities) ?? null;
    if (excuse !== null) {
      tally.skipped.set(law.id, excuse);
      report(`  skipped ${law.id} (excused by ${excuse})`);
      return;
    }
    await withDeadline(`law ${law.id}`, deadlineMs, law.run(context));
    tally.ran.add(law.id);
  } catch (cause) {
    throw new Error(`${law.id} [seed ${seed}]: ${messageOf(cause)}`, { cause });
  } finally {
    const closing = Promise.allSettled(created.map((adapter) => adapter.close()));
    await withDeadline("closing the adapters", CLEANUP_DEADLINE_MS, closing).catch(() => undefined);
    await withDeadline("dispose", CLEANUP_DEADLINE_MS, harness.dispose());
  }
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
  const tally: Tally = { ran: new Set(), skipped: new Map() };
  for (const law of LAWS) {
    options.test(`${law.id}: ${law.title}`, () => runLaw(law, seed, options, tally));
  }
  options.test("suite.complete: every law that no capability excuses has held", async () => {
    const missing = LAWS.filter((law) => !tally.ran.has(law.id) && !tally.skipped.has(law.id));
    report(
      `  l2AdapterSuite: ${tally.ran.size} laws held, ${tally.skipped.size} skipped, ` +
        `${missing.length} failed or not run; seed ${seed}`,
    );
    assert.deepEqual(
      missing.map((law) => law.id),
      [],
      "mandatory laws that failed or did not run",
    );
  });
}

import { type AdapterLog, CacheError, type L2Adapter, messageOf } from "@cache/contracts";
import { type Command, Option } from "commander";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolveAdapters } from "../adapters/resolve-adapters.ts";
import { benchL2, benchMemory, type L2BenchOutcome } from "../bench/l2-bench.ts";
import { type L2BenchPlan, type L2Operation } from "../bench/l2-plan.ts";
import { configFigures, type Figures, operationFigures } from "../bench/l2-result.ts";
import { parseTypedJson } from "../config/adapter-json.ts";
import { adapterSpecs } from "../config/adapter-spec.ts";
import type { AdapterSpec } from "../config/engine-config.ts";
import { maskSecrets } from "../config/mask.ts";
import { wholeNumber } from "./http-client.ts";
import { EXIT, progress, say, table } from "./output.ts";

const TITLE = "L2 Adapter Benchmark Result";
const COUNT_MAX = 1_000_000;
const OPEN_TIMEOUT_MS = 30_000;
const OPERATIONS: Readonly<Record<string, L2Operation>> = { store: "Store", lookup: "Lookup", load: "Load" };

interface BenchFlags {
  readonly l2Adapter?: string[];
  readonly numKeys: string;
  readonly inFlight: string;
  readonly dataSizeKb: string;
  readonly l1AlignBytes: string;
  readonly l1UseHugepages?: boolean;
  readonly rounds: string;
  readonly warmupRounds: string;
  readonly lookupMaxHitRate: string;
  readonly skipVerify: boolean;
  readonly only?: "store" | "lookup" | "load";
  readonly flamegraph: "on" | "off";
  readonly format: "terminal" | "json";
  readonly json?: true;
  readonly output?: string;
  readonly quiet?: true;
  readonly adapterRoot?: string[];
  readonly adapterAllow?: string[];
}

const collect = (value: string, earlier: readonly string[] | undefined) => [...(earlier ?? []), value];

/** The flags of `lmcache bench l2` (0.5.6), with its defaults, and ours. */
export function addBenchL2Flags(command: Command): Command {
  return command
    .option(
      "--l2-adapter <json>",
      "JSON of the adapter (env: L2_ADAPTER_JSON); the first one counts",
      collect,
    )
    .option("--num-keys <n>", "keys in one call", "32")
    .option("--in-flight <n>", "calls of a round that are under way together", "1")
    .option("--data-size-kb <n>", "size of an object, in KiB", "256")
    .option("--l1-align-bytes <n>", "the size must be a multiple of this; buffers begin at pages", "1")
    .option("--rounds <n>", "measured rounds of each operation", "1")
    .option("--warmup-rounds <n>", "rounds before these", "1")
    .option("--lookup-max-hit-rate <share>", "share of the looked-up keys that may be there, 0 to 1", "0.0")
    .option("--skip-verify", "do not compare what was loaded (default)", true)
    .option("--no-skip-verify", "compare what the last round loaded with what it stored")
    .addOption(new Option("--only <operation>", "run only this one").choices(["lookup", "store", "load"]))
    .addOption(new Option("--format <format>", "of stdout").choices(["terminal", "json"]).default("terminal"))
    .option("--json", "the same as --format json")
    .option("--output <file>", "also write the result to a file, in the same format")
    .option("-q, --quiet", "nothing on stdout: the exit code says all")
    .option("--adapter-root <directory>", "search here instead of the usual roots; repeatable", collect)
    .option("--adapter-allow <package>", "the only packages that may be imported; repeatable", collect)
    .addOption(new Option("--l1-use-hugepages").hideHelp())
    .addOption(new Option("--no-l1-use-hugepages").hideHelp())
    .addOption(new Option("--flamegraph <on|off>").choices(["on", "off"]).default("off").hideHelp())
    .addOption(new Option("--flamegraph-mode <mode>").hideHelp())
    .addOption(new Option("--flamegraph-output <path>").hideHelp())
    .addOption(new Option("--flamegraph-scripts-dir <directory>").hideHelp());
}

/**
 * `cache-engine bench l2`: stores, looks up and loads through an adapter, without an engine, and prints the figures
 * of `lmcache bench l2`. What it stores stays, as there: use a directory or a prefix of its own. Exit code 1 if bytes
 * differ, a store fails or a round does not end in time.
 */
export async function benchL2Command(command: Command): Promise<void> {
  const flags = command.opts<BenchFlags>();
  const plan = planOf(flags);
  const text = adapterJson(flags);
  const spec = specOf(text);
  const discovery = { roots: flags.adapterRoot ?? [], allow: flags.adapterAllow ?? [] };
  const { adapters } = await resolveAdapters([spec], discovery);
  const pool = await benchMemory(plan);
  const stateRoot = mkdtempSync(join(tmpdir(), "cache-bench-"));
  let adapter: L2Adapter | null = null;
  let outcome: L2BenchOutcome;
  try {
    adapter = adapters[0]!.registration.create(spec.own, pool.desc);
    await open(adapter, spec, stateRoot, plan);
    outcome = await benchL2(adapter, pool, plan, (operation, round, seconds, successes) => {
      const time = seconds === null ? "not in time" : `${(seconds * 1000).toFixed(2)} ms`;
      const total = plan.warmupRounds + plan.rounds;
      progress(`${operation} round ${round + 1} of ${total}: ${time}, ${successes} keys`);
    });
  } finally {
    progress(null);
    await adapter?.close();
    await pool.close({ keep: false });
    rmSync(stateRoot, { recursive: true, force: true });
  }
  const shown = JSON.stringify(maskSecrets(JSON.parse(text)));
  report(
    flags,
    configFigures(plan, shown),
    outcome.results.map((result) => operationFigures(plan, result)),
  );
  conclude(outcome, flags.quiet === true);
}

function planOf(flags: BenchFlags): L2BenchPlan {
  const hitRate = Number(flags.lookupMaxHitRate);
  if (flags.lookupMaxHitRate.trim() === "" || !(hitRate >= 0 && hitRate <= 1))
    throw invalid(`--lookup-max-hit-rate '${flags.lookupMaxHitRate}' must be a number from 0 to 1`);
  if (flags.l1UseHugepages === true)
    throw invalid("--l1-use-hugepages is refused here: buffers are ordinary pages; leave it out");
  if (flags.flamegraph === "on")
    throw invalid("--flamegraph on is refused here; node --cpu-prof (NODE_OPTIONS) writes a profile");
  const dataSizeBytes = 1024 * wholeNumber("--data-size-kb", flags.dataSizeKb, 1, 4 * 2 ** 20);
  const align = wholeNumber("--l1-align-bytes", flags.l1AlignBytes, 1, 2 ** 30);
  if (dataSizeBytes % align !== 0)
    throw invalid(`--data-size-kb ${flags.dataSizeKb} is no multiple of --l1-align-bytes ${align}`);
  return {
    numKeys: wholeNumber("--num-keys", flags.numKeys, 1, COUNT_MAX),
    inFlight: wholeNumber("--in-flight", flags.inFlight, 1, COUNT_MAX),
    dataSizeBytes,
    rounds: wholeNumber("--rounds", flags.rounds, 1, COUNT_MAX),
    warmupRounds: wholeNumber("--warmup-rounds", flags.warmupRounds, 0, COUNT_MAX),
    lookupMaxHitRate: hitRate,
    verify: !flags.skipVerify,
    only: flags.only === undefined ? null : (OPERATIONS[flags.only] ?? null),
  };
}

function adapterJson(flags: BenchFlags): string {
  const text = flags.l2Adapter?.[0] ?? process.env["L2_ADAPTER_JSON"];
  if (text !== undefined && text !== "") return text;
  throw invalid(
    `give --l2-adapter (or L2_ADAPTER_JSON), e.g. --l2-adapter '{"type":"fs","base_path":"/tmp/bench"}'`,
  );
}

function specOf(text: string): AdapterSpec {
  const value = parseTypedJson(text, "--l2-adapter");
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new CacheError("INVALID_CONFIG", "--l2-adapter: expected a JSON object");
  return adapterSpecs([value as Record<string, unknown>])[0]!;
}

async function open(
  adapter: L2Adapter,
  spec: AdapterSpec,
  stateRoot: string,
  plan: L2BenchPlan,
): Promise<void> {
  const { needsStateDir, maxObjectBytes } = adapter.capabilities;
  if (plan.dataSizeBytes > maxObjectBytes)
    throw invalid(`--data-size-kb: objects of this adapter have at most ${maxObjectBytes} bytes`);
  const stateDir = join(stateRoot, spec.id);
  if (needsStateDir) mkdirSync(stateDir, { mode: 0o700 });
  const note = (message: string, fields?: Readonly<Record<string, unknown>>): void => {
    process.stderr.write(
      `${spec.id}: ${message}${fields === undefined ? "" : ` ${JSON.stringify(fields)}`}\n`,
    );
  };
  const log: AdapterLog = { debug() {}, info() {}, warn: note, error: note };
  const signal = AbortSignal.timeout(OPEN_TIMEOUT_MS);
  await adapter.open({ id: spec.id, stateDir: needsStateDir ? stateDir : null, log, signal });
}

function report(flags: BenchFlags, config: Figures, operations: readonly Figures[]): void {
  const sections = Object.fromEntries(operations.map((figures, index) => [`op_${index}`, figures]));
  const asJson = flags.json === true || flags.format === "json";
  const text = asJson
    ? JSON.stringify({ title: TITLE, metrics: { config, ...sections } }, null, 2)
    : [TITLE, rows(config), ...operations.map(rows)].join("\n\n");
  if (flags.output !== undefined) {
    try {
      writeFileSync(flags.output, `${text}\n`);
    } catch (error) {
      throw new CacheError(
        "INVALID_ARGUMENT",
        `--output ${flags.output} cannot be written: ${messageOf(error)}`,
        {
          cause: error,
        },
      );
    }
  }
  if (flags.quiet !== true) say(text);
}

function rows(figures: Figures): string {
  return table(Object.entries(figures).map(([name, value]) => [name, String(value)]));
}

function conclude({ verified, problem }: L2BenchOutcome, quiet: boolean): void {
  if (verified !== null && verified.wrong === 0 && !quiet)
    process.stderr.write(`verified: ${verified.keys} objects of the last round are equal\n`);
  const wrong =
    verified !== null && verified.wrong > 0
      ? `${verified.wrong} of ${verified.keys} objects of the last round were loaded with other bytes than were stored`
      : problem;
  if (wrong === null) return;
  process.stderr.write(`error: ${wrong}\n`);
  process.exitCode = EXIT.failed;
}

function invalid(text: string): CacheError {
  return new CacheError("INVALID_ARGUMENT", text);
}

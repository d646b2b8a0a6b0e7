import { isCacheError, L2_API_VERSION, messageOf } from "@cache/contracts";
import { readFileSync } from "node:fs";
import { type BenchmarkRow, benchmarkAdapter } from "../benchmark.ts";
import { runL2AdapterLaws } from "../law-report.ts";
import { type Arguments, parseArguments, USAGE } from "./arguments.ts";
import { findAdapter } from "./find-adapter.ts";
import { type Leftovers, masked, placesFrom } from "./places.ts";
import { type ConformanceReport, renderReport } from "./render-report.ts";

function versionOfSuite(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

async function makeReport(given: Arguments, progress: (line: string) => void): Promise<ConformanceReport> {
  const { config } = given;
  const found = await findAdapter(given.packageName, given.type, process.cwd());
  const leftovers: Leftovers = { places: 0 };
  const factory = placesFrom(found.registration, config, given.secrets, leftovers);
  await (await factory()).dispose(); // a configuration that cannot work is said once, not for each law
  const laws = await runL2AdapterLaws({
    factory,
    seed: given.seed,
    only: given.laws,
    lawDeadlineMs: given.deadlineMs,
    onResult: ({ id, outcome, message }) =>
      progress(`${outcome} ${id}${message === undefined ? "" : `: ${message}`}`),
  });
  let benchmark: readonly BenchmarkRow[] | null = null;
  let benchmarkError: string | null = null;
  if (given.benchmark && laws.failed === 0) {
    try {
      benchmark = await benchmarkAdapter(factory);
    } catch (error) {
      benchmarkError = messageOf(error);
    }
  }
  return {
    package: found.package.name,
    version: found.package.version,
    type: found.registration.type,
    conformance: versionOfSuite(),
    adapterApi: L2_API_VERSION,
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    config: masked(config),
    laws,
    benchmark,
    benchmarkError,
    placesLeftBehind: leftovers.places,
  };
}

/** Where the program writes. */
export interface Output {
  /** The report, or the usage. Waits until it is written: the program ends right after. */
  out(text: string): Promise<void>;
  /** What went wrong. */
  err(text: string): Promise<void>;
  /** One line a law, while they run. */
  progress(line: string): void;
}

/** The exit code of `cache-conformance` with these arguments. */
export async function run(words: readonly string[], output: Output): Promise<number> {
  try {
    const given = parseArguments(words);
    if (given === null) {
      await output.out(USAGE);
      return 0;
    }
    const report = await makeReport(given, (line) => output.progress(line));
    await output.out(given.json ? `${JSON.stringify(report, null, 2)}\n` : renderReport(report));
    return report.laws.failed === 0 && report.benchmarkError === null ? 0 : 1;
  } catch (error) {
    const code = isCacheError(error) ? `${error.code}: ` : "";
    await output.err(`cache-conformance: ${code}${messageOf(error)}\n`);
    return 2;
  }
}

function write(stream: NodeJS.WriteStream, text: string): Promise<void> {
  return new Promise((resolve) => {
    stream.write(text, () => resolve());
  });
}

/** The program. It ends itself: an adapter that failed may have left handles open. */
export async function main(words: readonly string[]): Promise<never> {
  const code = await run(words, {
    out: (text) => write(process.stdout, text),
    err: (text) => write(process.stderr, text),
    progress(line) {
      if (process.stderr.isTTY) process.stderr.write(`${line}\n`);
    },
  });
  process.exit(code);
}

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { run } from "../src/cli/main.ts";
import { type ConformanceReport, renderReport } from "../src/cli/render-report.ts";
import { places } from "./cache-l2-toy/index.ts";

const TOY = fileURLToPath(new URL("./cache-l2-toy", import.meta.url));

async function command(
  ...words: string[]
): Promise<{ code: number; out: string; err: string; lines: string[] }> {
  let out = "";
  let err = "";
  const lines: string[] = [];
  const code = await run(words, {
    out: async (text) => void (out += text),
    err: async (text) => void (err += text),
    progress: (line) => void lines.push(line),
  });
  return { code, out, err, lines };
}

let directory = "";
beforeAll(async () => (directory = await mkdtemp(join(tmpdir(), "conformance-cli-"))));
afterAll(() => rm(directory, { recursive: true, force: true }));

let report: ConformanceReport;

test("an adapter that keeps every law: exit code 0, law by law, skips counted, a benchmark", async () => {
  const config = JSON.stringify({ place: "kv/{id}", api_token: "hunter2" });
  const { code, out, lines } = await command(TOY, "--config", config, "--seed", "7", "--json");
  expect(out).not.toContain("hunter2");
  report = JSON.parse(out) as ConformanceReport;
  expect(report).toMatchObject({
    package: "cache-l2-toy",
    version: "1.2.3",
    type: "toy",
    config: { place: "kv/{id}", api_token: "***" },
    laws: { seed: 7, skipped: 2, failed: 0, capabilities: { persistent: true } },
    benchmarkError: null,
    placesLeftBehind: 0,
  });
  expect(report.laws.held).toBe(report.laws.laws.length - 2);
  expect(lines.length).toBe(report.laws.laws.length);
  expect(report.benchmark?.map(({ objectBytes }) => objectBytes)).toEqual([65_536, 1_048_576]);
  expect(code).toBe(0);
  // Every law had a place of its own, which was emptied after it.
  expect(places.size).toBeGreaterThan(40);
  expect([...places.values()].reduce((sum, objects) => sum + objects.size, 0)).toBe(0);
});

test("the report in Markdown has a row for each law and names what was skipped and why", () => {
  const text = renderReport(report);
  expect(text).toContain("## Conformance: cache-l2-toy 1.2.3, type `toy`");
  expect(text).toMatch(/\*\*\d+ laws held, 2 skipped, 0 failed\.\*\*.*seed 7\./);
  expect(text).toContain("Skipped: 1 by `shared: false`, 1 by `quarantine: false`.");
  expect(text.match(/^\| `[a-z]+\.[a-z-]+` \| /gm)?.length).toBe(report.laws.laws.length);
  expect(text).toMatch(/^\| 32 of 64 KiB \| [\d.]+ ms \(\d+ MiB\/s\) \| [\d.]+ ms \| /m);
});

test("a law that fails, and a place that cannot be emptied, stand in the report", () => {
  const [first, ...rest] = report.laws.laws;
  const failed = { ...first!, outcome: "failed" as const, message: "a | b\nc" };
  const text = renderReport({
    ...report,
    laws: { ...report.laws, failed: 1, laws: [failed, ...rest] },
    benchmark: null,
    placesLeftBehind: 3,
  });
  expect(text).toContain("| **failed**: a \\| b c |");
  expect(text).toContain("3 places could not be emptied");
  expect(text).not.toContain("Benchmark");
});

test.each([
  [[], /name one package, not 0/],
  [["a", "b"], /name one package, not 2/],
  [[TOY, "--nonsense"], /INVALID_ARGUMENT: Unknown option '--nonsense'/],
  [[TOY, "--config", "{"], /--config is not JSON/],
  [[TOY, "--config", "[]"], /--config is not a JSON object/],
  [[TOY, "--seed", "x"], /--seed "x" is not a whole number/],
  [[TOY, "--law", "no.such"], /--law no.such: there is manifest.truthful, /],
  [[TOY, "--secret-env", "NO_SUCH_VARIABLE_HERE"], /no such variable is set/],
  [[TOY, "--config", '{"place":"one"}'], /put \{dir\} .* or \{id\} .* into a value of --config/],
  [[TOY, "--config", '{"place":1}'], /INVALID_CONFIG: place: /],
  [["cache-l2-nobody"], /no adapter package cache-l2-nobody is installed here/],
  [["./nowhere"], /has no package.json/],
  [[TOY, "--type", "other"], /ADAPTER_TYPE_UNKNOWN/],
])("what cannot be tried ends with exit code 2 and the fix: %j", async (words, message) => {
  const { code, out, err } = await command(...words);
  expect(err).toMatch(message);
  expect(out).toBe("");
  expect(code).toBe(2);
});

test("one law alone, and the report says so", async () => {
  const { code, out } = await command(
    TOY,
    "--config",
    '{"place":"{id}"}',
    "--law",
    "miss.zero-bits",
    "--no-benchmark",
  );
  expect(out).toMatch(/\*\*1 laws held, 0 skipped, 0 failed; \d+ not tried\.\*\*/);
  expect(code).toBe(0);
});

test("--help, and a configuration from a file", async () => {
  expect(await command("--help")).toMatchObject({ code: 0, out: expect.stringContaining("usage:") });
  const file = join(directory, "config.json");
  await writeFile(file, '{"place":7}');
  expect((await command(TOY, "--config-file", file)).err).toMatch(/INVALID_CONFIG: place/);
  expect((await command(TOY, "--config-file", file, "--config", "{}")).err).toMatch(/give one/);
});

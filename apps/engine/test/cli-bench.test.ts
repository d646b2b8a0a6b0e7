import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { expectedHits, lookupKeys, transferKeys } from "../src/bench/l2-plan.ts";
import { operationFigures, percentile } from "../src/bench/l2-result.ts";

const BIN = fileURLToPath(new URL("../bin/cache-engine.js", import.meta.url));
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "cli-bench-"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function bench(words: readonly string[], env: Record<string, string> = {}) {
  const result = spawnSync(process.execPath, [BIN, "bench", "l2", ...words], {
    cwd: directory,
    encoding: "utf8",
    env: { ...process.env, NODE_OPTIONS: "", ...env },
  });
  return { code: result.status, out: result.stdout, err: result.stderr };
}

const PLAN = {
  numKeys: 8,
  inFlight: 2,
  dataSizeBytes: 64 * 1024,
  rounds: 2,
  warmupRounds: 1,
  lookupMaxHitRate: 0.5,
  verify: true,
  only: null,
};

/** The keys of LMCache 0.5.6's JSON, as it printed them for a store, a lookup and a load. */
const CONFIG_KEYS = [
  "l2_adapter_json",
  "num_keys",
  "in_flight",
  "keys_per_round",
  "data_size_kb",
  "data_per_round_mb",
  "measurement_rounds",
  "warmup_rounds",
  "lookup_max_hit_rate",
];
const TRANSFER_KEYS = [
  "operation",
  "rounds",
  "rounds_timed_out",
  "keys_per_round",
  "total_keys",
  "total_success",
  "duration_avg_ms",
  "duration_min_ms",
  "duration_max_ms",
  "duration_p50_ms",
  "duration_p99_ms",
  "duration_std_ms",
  "throughput_avg_mbps",
  "throughput_min_mbps",
  "throughput_max_mbps",
  "ops_per_sec_avg",
  "latency_per_key_ms",
];
const LOOKUP_KEYS = [...TRANSFER_KEYS, "expected_max_hit_rate", "expected_hit_count", "actual_hit_rate"];

test("bench l2 on fs: LMCache's JSON on stdout and in the file, its key names on disk, exit 0", () => {
  const base = join(directory, "fs");
  const output = join(directory, "result.json");
  const words = ["--num-keys", "8", "--in-flight", "2", "--data-size-kb", "64", "--l1-align-bytes", "4096"];
  const more = ["--rounds", "2", "--lookup-max-hit-rate", "0.5", "--no-skip-verify", "--format", "json"];
  const spec = JSON.stringify({ type: "fs", base_path: base });
  const { code, out, err } = bench([...words, ...more, "--output", output], { L2_ADAPTER_JSON: spec });
  expect([code, err]).toEqual([0, "verified: 16 objects of the last round are equal\n"]);
  expect(readFileSync(output, "utf8")).toBe(out);
  const { title, metrics } = JSON.parse(out) as {
    title: string;
    metrics: Record<string, Record<string, unknown>>;
  };
  expect(title).toBe("L2 Adapter Benchmark Result");
  expect(Object.keys(metrics)).toEqual(["config", "op_0", "op_1", "op_2"]);
  expect(Object.keys(metrics["config"]!)).toEqual(CONFIG_KEYS);
  expect(Object.keys(metrics["op_0"]!)).toEqual(TRANSFER_KEYS);
  expect(Object.keys(metrics["op_1"]!)).toEqual(LOOKUP_KEYS);
  expect(Object.keys(metrics["op_2"]!)).toEqual(TRANSFER_KEYS);
  const common = { rounds: 2, rounds_timed_out: 0, keys_per_round: 16, total_keys: 32 };
  expect(metrics["op_0"]).toMatchObject({ ...common, operation: "Store", total_success: 32 });
  expect(metrics["op_1"]).toMatchObject({
    ...common,
    operation: "Lookup",
    total_success: 16,
    actual_hit_rate: 0.5,
  });
  expect(metrics["op_2"]).toMatchObject({ ...common, operation: "Load", total_success: 32 });
  const files = readdirSync(base).filter((name) => name.endsWith(".data"));
  expect(files).toHaveLength(48);
  expect(files.sort()[1]).toBe("bench-model@0x00000001@0@00000000000000000000000000000001.data");
});

test("--only store, then --only load meets the same keys; quiet says nothing", () => {
  const spec = JSON.stringify({ type: "fs", base_path: join(directory, "only") });
  const words = ["--l2-adapter", spec, "--num-keys", "4", "--data-size-kb", "4"];
  expect(bench([...words, "--only", "store", "-q"])).toEqual({ code: 0, out: "", err: "" });
  const { code, out } = bench([...words, "--only", "load"]);
  expect(code).toBe(0);
  expect(out).toMatch(/^operation +Load\n[^]*^total_success +4$/m);
  expect(out).not.toContain("lookup_max_hit_rate");
});

test("an adapter that loads other bytes is caught, and one whose stores fail", () => {
  const folder = join(directory, "node_modules", "cache-l2-liar");
  mkdirSync(folder, { recursive: true });
  const contracts = new URL("../../../packages/contracts/dist/index.js", import.meta.url).href;
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ name: "cache-l2-liar", version: "1.0.0", type: "module", exports: "./index.js" }),
  );
  writeFileSync(
    join(folder, "index.js"),
    `import { Bitmap, CacheError, registerL2Adapter } from "${contracts}";
    const full = (list) => Bitmap.full(list.length);
    const adapter = ({ fails }) => ({
      capabilities: { maxBatchKeys: 3, maxObjectBytes: 2 ** 20, needsStateDir: false },
      location: "nowhere", async open() {}, unlock() {}, async close() {},
      async store(keys) {
        if (!fails) return { stored: full(keys), failed: new Map(), bytesTransferred: 0 };
        return { stored: new Bitmap(keys.length), failed: new Map([[0, new CacheError("BACKEND_FULL", "no room")]]) };
      },
      async lookupAndLock(keys) { return full(keys); },
      async load(keys, into) { if (keys.length > 3) throw new Error("too many"); into[0].bytes[1] = 99; return full(keys); },
    });
    registerL2Adapter({ types: ["liar"], apiVersion: 1, packageName: "cache-l2-liar",
      configSchema: { safeParse: (data) => ({ success: true, data }), parse: (data) => data }, create: adapter });`,
  );
  const root = ["--adapter-root", "node_modules", "--num-keys", "8", "--data-size-kb", "4"];
  const liar = bench(["--l2-adapter", '{"type":"liar"}', "--no-skip-verify", ...root]);
  expect(liar.err).toBe(
    "error: 8 of 8 objects of the last round were loaded with other bytes than were stored\n",
  );
  expect(liar.code).toBe(1);
  const full = bench(["--l2-adapter", '{"type":"liar","fails":true}', "--only", "store", ...root]);
  expect([full.code, full.err]).toEqual([1, "error: a store failed: no room\n"]);
  expect(bench(["--l2-adapter", '{"type":"liar"}', ...root, "--data-size-kb", "2048"]).err).toContain(
    "objects of this adapter have at most 1048576 bytes",
  );
});

test.each([
  [[], "give --l2-adapter (or L2_ADAPTER_JSON)"],
  [["--l2-adapter", "{"], "--l2-adapter: invalid JSON"],
  [["--l2-adapter", '{"type":"fs"}'], "base_path is required"],
  [["--l2-adapter", "{}", "--rounds", "0"], "--rounds '0' must be a whole number from 1"],
  [
    ["--l2-adapter", "{}", "--lookup-max-hit-rate", "2"],
    "--lookup-max-hit-rate '2' must be a number from 0 to 1",
  ],
  [
    ["--l2-adapter", "{}", "--data-size-kb", "3", "--l1-align-bytes", "4096"],
    "is no multiple of --l1-align-bytes",
  ],
  [["--l2-adapter", "{}", "--flamegraph", "on"], "--flamegraph on is refused here"],
  [["--l2-adapter", "{}", "--l1-use-hugepages"], "--l1-use-hugepages is refused here"],
  [
    ["--l2-adapter", '{"type":"fs","base_path":"x"}', "--num-keys", "100000", "--data-size-kb", "4096"],
    "bytes of buffers",
  ],
])("%j fails with one line and exit code 2", (words, text) => {
  const { code, err } = bench(words, { L2_ADAPTER_JSON: "" });
  expect(err).toContain(text);
  expect(err.trim().split("\n")).toHaveLength(1);
  expect(code).toBe(2);
});

test("rounds use fresh keys, and a lookup's misses are keys of no round", () => {
  const hash = (round: readonly (readonly { kvRank: number }[])[]) =>
    round.map((batch) => batch.map((k) => k.kvRank));
  expect(hash(transferKeys(PLAN, 1))).toEqual([
    [16, 17, 18, 19, 20, 21, 22, 23],
    [24, 25, 26, 27, 28, 29, 30, 31],
  ]);
  expect(hash(lookupKeys(PLAN, 1))).toEqual([
    [8, 9, 10, 11, 12, 13, 14, 15],
    [56, 57, 58, 59, 60, 61, 62, 63],
  ]);
  // LMCache 0.5.6 printed 5 for 8 keys, 2 rounds, 1 warm-up round and a rate of 0.5.
  expect(expectedHits({ ...PLAN, inFlight: 1 })).toBe(5);
});

test("figures are LMCache's: nearest rank, deviation of a sample, MiB a second", () => {
  expect(percentile([3, 1, 2, 4], 50)).toBe(2);
  expect(percentile([1, 2, 3], 99)).toBe(3);
  const result = { operation: "Store" as const, seconds: [0.5, 1.5], successes: [16, 15], timedOut: 1 };
  expect(operationFigures(PLAN, result)).toMatchObject({
    rounds: 3,
    rounds_timed_out: 1,
    total_keys: 48,
    total_success: 31,
    duration_avg_ms: 1000,
    duration_p50_ms: 500,
    duration_std_ms: 707.11,
    throughput_avg_mbps: 1.33,
    ops_per_sec_avg: 21.33,
    latency_per_key_ms: 62.5,
  });
});

import { readFileSync, writeFileSync } from "node:fs";
import { afterEach, expect, test } from "vitest";
import type { Metric } from "../src/metrics/exposition.ts";
import { metricsText } from "../src/metrics/exposition.ts";
import { NOT_EXPOSED } from "../src/metrics/lmcache-metrics.ts";
import { Metrics } from "../src/metrics/metrics.ts";
import { BoundedLabel, Histogram, LabelledCounter } from "../src/metrics/series.ts";
import { type HttpEngine, RPC_STATUS, startHttpEngine } from "./http-engine.ts";

const PAGE = new URL("../../../docs/reference/metrics.md", import.meta.url);
/** What a stock `lmcache server` exposed: `tools/peers/http_replies.py --write`. */
const RECORDED = (
  JSON.parse(readFileSync(new URL("./fixtures/http-replies.json", import.meta.url), "utf8")) as {
    metrics: Record<string, { type: string; labels: string[] }>;
  }
).metrics;
/** Names of LMCache that a quiet server does not show: a series there begins with its first figure. */
const SHOWN_LATER = [
  "l1_eviction_loop_ticks_total",
  "l1_eviction_loop_triggered_total",
  "l1_allocation_failure_chunks_total",
  "l1_read_failure_chunks_total",
  "l2_evicted_objects_chunks_total",
  "l2_prefetch_failure_chunks_total",
  "lookup_early_exit_requests_total",
  "num_chunks_loaded_total",
  "timeouts_total",
  "event_bus_subscriber_exceptions_total",
  "l1_chunk_lifetime_seconds",
  "l1_chunk_idle_before_evict_seconds",
  "l1_chunk_reuse_gap_seconds",
  "l1_chunk_evict_reuse_gap_seconds",
  "real_reuse_gap_seconds",
  "real_reuse_gap_objects",
  "num_inflight_l2_stores",
  "num_inflight_l2_loads",
  "inflight_load_memory_usage_bytes",
];

const HTTP_FIGURES = { connections: 1, answers: { 200: 3 }, refusals: { host: 1 } };

let engine: HttpEngine | null = null;
afterEach(async () => {
  await engine?.stop();
  engine = null;
});

async function start(saltLabel = false): Promise<HttpEngine> {
  engine = await startHttpEngine({ withFs: true, saltLabel });
  return engine;
}

/** Value of a series as `/metrics` shows it; null where there is none. */
function valueIn(text: string, series: string): number | null {
  const line = text.split("\n").find((one) => one.startsWith(`${series} `));
  return line === undefined ? null : Number(line.slice(series.length + 1));
}

function collect({ manager, counters }: HttpEngine): Metric[] {
  return new Metrics({
    manager,
    rpc: () => RPC_STATUS,
    http: () => HTTP_FIGURES,
    counters,
    version: "1",
  }).collect();
}

test("stores, loads, lookups and evictions are counted", async () => {
  const { ask, store, load } = await start();
  await store("org/model");
  expect(await load("org/model")).toBe(2);
  await ask("POST", "/cache/clear", "{}");
  expect(await load("org/model")).toBe(2);
  expect(await load("org/unknown")).toBe(0);
  expect((await ask("POST", "/cache/clear", "{}", { "content-type": "text/plain" })).status).toBe(415);
  await ask("GET", "/status");
  const { text, type } = await ask("GET", "/metrics");
  expect(type).toBe("text/plain");
  const wanted: Record<string, number> = {
    'lmcache_mp_l1_write_chunks_total{l1_tag="_default"}': 4,
    'lmcache_mp_l1_read_chunks_total{l1_tag="_default"}': 4,
    'lmcache_mp_l1_evicted_chunks_total{l1_tag="_default"}': 2,
    'lmcache_mp_l2_store_completed_objects_chunks_total{l2_name="fs"}': 2,
    'lmcache_mp_l2_store_throughput_GB_per_second_count{l2_name="fs"}': 1,
    lmcache_mp_l2_prefetch_lookup_requests_total: 1,
    lmcache_mp_l2_prefetch_lookup_objects_chunks_total: 2,
    'lmcache_mp_l2_prefetch_load_completed_chunks_total{l2_name="fs"}': 2,
    'lmcache_mp_l2_load_completed_requests_total{l2_name="fs"}': 1,
    'lmcache_mp_l2_usage_bytes{l2_name="fs"}': 8_192,
    'lmcache_mp_inflight_load_memory_usage_bytes{l2_name="fs",adapter_index="0"}': 0,
    'lmcache_mp_lookup_requested_tokens_total{model_name="org/model"}': 1_024,
    'lmcache_mp_lookup_hit_l1_tokens_total{model_name="org/model"}': 512,
    'lmcache_mp_lookup_hit_l2_tokens_total{model_name="org/model"}': 512,
    'lmcache_mp_lookup_early_exit_requests_total{reason="unknown_model"}': 1,
    lmcache_mp_num_chunks_loaded_total: 4,
    'lmcache_mp_l1_chunk_lifetime_seconds_count{l1_tag="_default"}': 2,
    'lmcache_mp_l1_chunk_reuse_gap_seconds_bucket{l1_tag="_default",le="+Inf"}': 4,
    cache_engine_healthy: 1,
    'cache_engine_l2_breaker_open{l2_name="fs"}': 0,
    'cache_engine_rpc_requests_total{operation="lookup"}': 2,
    cache_engine_rpc_message_bytes_max: 67_108_864,
    'cache_engine_http_answers_total{status="200"}': 2,
    'cache_engine_http_refusals_total{reason="content_type"}': 1,
    cache_engine_http_connections: 1,
    cache_engine_sessions_ended_for_room_total: 0,
    'cache_engine_l2_waiting_operations{l2_name="fs"}': 0,
  };
  const given = Object.fromEntries(Object.keys(wanted).map((series) => [series, valueIn(text, series)]));
  expect(given).toEqual(wanted);
});

test("a reset sets counters and histograms to zero, gauges stay", async () => {
  const { ask, store } = await start();
  await store("org/model");
  expect((await ask("POST", "/metrics/reset")).text).toBe("ok");
  const { text } = await ask("GET", "/metrics");
  expect(valueIn(text, 'lmcache_mp_l1_write_chunks_total{l1_tag="_default"}')).toBe(0);
  expect(valueIn(text, 'lmcache_mp_l2_store_throughput_GB_per_second_count{l2_name="fs"}')).toBe(0);
  expect(valueIn(text, 'lmcache_mp_l2_usage_bytes{l2_name="fs"}')).toBe(8_192);
});

test("tenants are a label only when asked for, and not without bound", async () => {
  const plain = await start();
  await plain.store("org/model", "tenant-1");
  expect((await plain.ask("GET", "/metrics")).text).not.toContain("tenant-1");
  await plain.stop();
  const { ask, store, load } = await start(true);
  await store("org/model", "tenant-1");
  await ask("PUT", "/quota/tenant-1", JSON.stringify({ limit_gb: (3 * 4096) / 2 ** 30 }));
  const used = (await ask("GET", "/metrics")).text;
  expect(valueIn(used, 'cache_engine_tenant_l1_bytes{cache_salt="tenant-1"}')).toBe(8_192);
  expect(valueIn(used, 'cache_engine_tenant_limit_bytes{cache_salt="tenant-1"}')).toBe(3 * 4096);
  await load("org/model", "tenant-1");
  await ask("POST", "/cache/clear", "{}");
  const { text } = await ask("GET", "/metrics");
  const labels = 'l1_tag="_default",cache_salt="tenant-1"';
  expect(valueIn(text, `lmcache_mp_l1_write_chunks_total{${labels}}`)).toBe(2);
  expect(valueIn(text, `lmcache_mp_l1_read_chunks_total{${labels}}`)).toBe(2);
  expect(valueIn(text, `lmcache_mp_l1_evicted_chunks_total{${labels}}`)).toBe(2);
  expect(valueIn(text, 'cache_engine_l1_evictions_total{reason="clear"}')).toBe(2);

  const label = new BoundedLabel(true);
  const values = Array.from({ length: 150 }, (_, i) => label.of(`tenant-${i}`));
  expect(new Set(values).size).toBe(101);
  expect(values.at(-1)).toBe("@other");
  expect(label.of("tenant-3")).toBe("tenant-3");
});

test("series, histograms and odd label values are written as Prometheus reads them", () => {
  const histogram = new Histogram([1, 2]);
  for (const value of [0.5, 1, 1.5, 9]) histogram.observe(value);
  const counter = new LabelledCounter();
  counter.add(1, { a: 'x"\\\n', b: "" });
  const text = metricsText(
    [
      { name: "h", help: "H.", type: "histogram", labels: [], samples: [histogram.sample({})] },
      { name: "c_total", help: "C.", type: "counter", labels: ["a"], samples: counter.samples() },
    ],
    new Map(),
  );
  expect(text).toBe(
    [
      "# HELP h H.",
      "# TYPE h histogram",
      'h_bucket{le="1"} 2',
      'h_bucket{le="2"} 3',
      'h_bucket{le="+Inf"} 4',
      "h_sum 12",
      "h_count 4",
      "# HELP c_total C.",
      "# TYPE c_total counter",
      'c_total{a="x\\"\\\\\\n"} 1',
      "",
    ].join("\n"),
  );
});

test("every metric that a stock server exposed is here with its type and labels, or documented as absent", async () => {
  const engineNow = await start(true);
  const ours = new Map(collect(engineNow).map((metric) => [metric.name, metric]));
  for (const [name, wanted] of Object.entries(RECORDED)) {
    if (name.replace("lmcache_mp_", "") in NOT_EXPOSED) {
      expect(ours.has(name), name).toBe(false);
      continue;
    }
    const metric = ours.get(name);
    expect(metric?.type, name).toBe(wanted.type);
    for (const label of wanted.labels) expect(metric?.labels, name).toContain(label);
  }
  for (const name of SHOWN_LATER)
    expect(ours.has(`lmcache_mp_${name}`) !== name in NOT_EXPOSED, name).toBe(true);
});

test("a series has no label that its metric does not declare", async () => {
  const engineNow = await start(true);
  await engineNow.store("org/model", "tenant-1");
  await engineNow.load("org/model", "tenant-1");
  for (const { name, labels, samples } of collect(engineNow)) {
    for (const sample of samples) {
      for (const label of Object.keys(sample.labels)) expect(labels, name).toContain(label);
    }
  }
});

// `UPDATE_DOCS=1 npx vitest run apps/engine/test/metrics.test.ts` writes the tables anew.
test("docs/reference/metrics.md has every metric that is exposed, and no other", async () => {
  const metrics = collect(await start());
  const row = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const exposed = (prefix: string): string[] => [
    "| metric | type | labels | meaning |",
    "|---|---|---|---|",
    ...metrics
      .filter(({ name }) => name.startsWith(prefix))
      .map(({ name, type, labels, help }) => row([`\`${name}\``, type, labels.join(", ") || "-", help])),
  ];
  const absent = Object.entries(NOT_EXPOSED).map(([name, why]) => row([`\`lmcache_mp_${name}\``, why]));
  const tables: Record<string, readonly string[]> = {
    lmcache: exposed("lmcache_mp_"),
    own: exposed("cache_engine_"),
    absent: ["| metric | why it is not there |", "|---|---|", ...absent],
  };
  let page = readFileSync(PAGE, "utf8");
  for (const [name, lines] of Object.entries(tables)) {
    const block = new RegExp(`<!-- ${name}:begin -->\\n([\\s\\S]*?)\\n?<!-- ${name}:end -->`);
    if (process.env["UPDATE_DOCS"] === "1") {
      page = page.replace(block, () => `<!-- ${name}:begin -->\n${lines.join("\n")}\n<!-- ${name}:end -->`);
      writeFileSync(PAGE, page);
    }
    expect(block.exec(page)?.[1]).toBe(lines.join("\n"));
  }
});

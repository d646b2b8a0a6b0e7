#!/usr/bin/env node
/**
 * The longest pause of the engine's event loop while LMCache's client stores and loads in bulk, for each L2 adapter: the whole engine.
 *
 *   node bench/engine-pauses.mjs [--peers DIR] [--only fs,redis,…] [--megabytes 1024] [--kib 1024,64] [--json] [--explain]
 *
 * --explain tells what ran in the longest pauses, and slows the engine down.
 * --peers is a Python environment with LMCache 0.5.6 (tools/peers/setup.sh; default .peers). What an adapter needs is
 * started here; redis needs a redis-server in the PATH. Build first.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { machineFacts, peerEnvironment, ROOT, say } from "./lib/common.mjs";
import { backendNamed } from "./lib/l2-backends.mjs";
import { longestPauses, MONITOR_FLAG, pauseText, startIdle } from "./lib/pauses.mjs";

const { values: options } = parseArgs({
  options: {
    peers: { type: "string", default: process.env.CACHE_PEERS_DIR ?? join(ROOT, ".peers") },
    only: { type: "string", default: "fs,redis,nixl_store,nixl_store_dynamic,hfbucket" },
    megabytes: { type: "string", default: "1024" },
    kib: { type: "string", default: "1024,64" },
    json: { type: "boolean", default: false },
    explain: { type: "boolean", default: false },
  },
});
const peers = resolve(options.peers);
// NIXL is found by the python3 in the PATH.
process.env.PATH = `${join(peers, "bin")}${delimiter}${process.env.PATH}`;

/** One engine, one adapter, one size of objects. */
function measure(adapter, kib, place) {
  const pauseFile = join(place, `pauses-${kib}.txt`);
  const words = [JSON.stringify(adapter), options.megabytes, kib].map(String);
  const explained = join(place, `explained-${kib}.txt`);
  const env = { ...peerEnvironment(), PEERS_PAUSES: pauseFile, NODE_OPTIONS: MONITOR_FLAG };
  if (options.explain) {
    env.NODE_OPTIONS += ` --import=${new URL("./lib/explain-pauses.mjs", import.meta.url).href}`;
    env.CACHE_BENCH_EXPLAIN = explained;
  }
  const script = join(ROOT, "bench", "engine_pauses.py");
  const idleFile = join(place, `idle-${kib}.txt`);
  const endIdle = startIdle(idleFile);
  const done = spawnSync(join(peers, "bin", "python"), [script, ...words], { encoding: "utf8", env });
  endIdle();
  if (done.status !== 0) throw new Error(`${script} ended with ${done.status}: ${done.stderr.slice(-800)}`);
  if (done.stderr !== "") process.stderr.write(done.stderr);
  if (options.explain) say(readFileSync(explained, "utf8"));
  const [[pause], [idle]] = [longestPauses(pauseFile), longestPauses(idleFile)];
  return { kib: Number(kib), ...JSON.parse(done.stdout.trim().split("\n").at(-1)), pause, idle };
}

const results = [];
if (!options.json) say(machineFacts());
for (const name of options.only.split(",")) {
  const place = mkdtempSync(join(tmpdir(), "cache-bench-pauses-"));
  let stop = () => {};
  try {
    const backend = await backendNamed(name).start(place);
    stop = backend.stop;
    for (const kib of options.kib.split(",")) {
      const result = { adapter: name, ...measure(backend.adapter, kib, place) };
      results.push(result);
      if (options.json) continue;
      say(
        `${name.padEnd(14)} ${kib.padStart(5)} KiB  store ${result.store_mib_s} MiB/s  load ${result.load_mib_s} MiB/s  ` +
          `failed ${result.failed}  missed ${result.missed}\n` +
          `${"".padEnd(25)} longest pause ${pauseText(result.pause)}; of a program that does nothing ${pauseText(result.idle)}`,
      );
    }
  } finally {
    stop();
    rmSync(place, { recursive: true, force: true });
  }
}
if (options.json) say(JSON.stringify(results));

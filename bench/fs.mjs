#!/usr/bin/env node
/**
 * The fs adapter next to LMCache's `fs` and `fs_native`: `bench l2` of each, taking turns, in one run.
 *
 *   node bench/fs.mjs [--peers DIR] [--dir DIR] [--reps 3] [--shapes 96x1024,512x64] [--json]
 *
 * --peers is a Python environment with LMCache 0.5.6 (tools/peers/setup.sh; default .peers); --dir a directory on the
 * file system to measure (default: the system's temporary directory). Build first. Ratios are peer time / our time,
 * paired in each repetition: above 1 we are faster.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { machineFacts, median, peerEnvironment, ratioText, ROOT, say, spread } from "./lib/common.mjs";
import { fileLimits } from "./lib/limits.mjs";

const { values: options } = parseArgs({
  options: {
    peers: { type: "string", default: process.env.CACHE_PEERS_DIR ?? join(ROOT, ".peers") },
    dir: { type: "string", default: tmpdir() },
    reps: { type: "string", default: "3" },
    rounds: { type: "string", default: "5" },
    shapes: { type: "string", default: "96x1024,64x4096,512x64" },
    json: { type: "boolean", default: false },
  },
});
const lmcache = join(resolve(options.peers), "bin", "lmcache");
const ours = [process.execPath, join(ROOT, "apps/engine/bin/cache-engine.js")];
const OPERATIONS = ["Store", "Load", "Lookup"];

/** name: how its command line begins, and its adapter. */
const CONTENDERS = {
  "@cache/l2-fs": { command: ours, adapter: { type: "fs" } },
  "LMCache fs": { command: [lmcache], adapter: { type: "fs" } },
  "LMCache fs_native": { command: [lmcache], adapter: { type: "fs_native", num_workers: 4 } },
};

/** p50 of each operation in milliseconds. */
function measure({ command, adapter }, { keys, kib }) {
  const directory = mkdtempSync(join(options.dir, "cache-bench-fs-"));
  const output = join(directory, "result.json");
  const spec = JSON.stringify({ ...adapter, base_path: join(directory, "data") });
  const words = ["bench", "l2", "--l2-adapter", spec, "--num-keys", keys, "--data-size-kb", kib];
  const more = ["--l1-align-bytes", "4096", "--rounds", options.rounds, "--warmup-rounds", "2"];
  const last = [
    "--lookup-max-hit-rate",
    "1.0",
    "--no-skip-verify",
    "--format",
    "json",
    "--output",
    output,
    "-q",
  ];
  try {
    const [program, ...first] = command;
    const done = spawnSync(program, [...first, ...words, ...more, ...last].map(String), {
      encoding: "utf8",
      env: peerEnvironment(),
    });
    if (done.status !== 0)
      throw new Error(`${program} ended with ${done.status}: ${done.stderr.slice(-800)}`);
    const { metrics } = JSON.parse(readFileSync(output, "utf8"));
    const operations = Object.values(metrics).filter((section) => "operation" in section);
    return Object.fromEntries(operations.map((section) => [section.operation, section.duration_p50_ms]));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function parseShape(text) {
  const [keys, kib] = text.split("x").map(Number);
  if (!(keys > 0 && kib > 0)) throw new Error(`--shapes: '${text}' is no shape like 96x1024 (keys x KiB)`);
  return { name: `${keys} x ${kib >= 1024 ? `${kib / 1024} MiB` : `${kib} KiB`}`, keys, kib };
}

const names = Object.keys(CONTENDERS);
const report = { machine: machineFacts(), limits: fileLimits(options.dir), shapes: [] };
for (const shape of options.shapes.split(",").map(parseShape)) {
  const samples = Object.fromEntries(names.map((name) => [name, []]));
  for (let rep = 0; rep < Number(options.reps); rep++) {
    // Who begins changes from repetition to repetition: nobody always finds the disk as another left it.
    for (let turn = 0; turn < names.length; turn++) {
      const name = names[(rep + turn) % names.length];
      process.stderr.write(`${shape.name}, repetition ${rep + 1}: ${name}\n`);
      samples[name].push(measure(CONTENDERS[name], shape));
    }
  }
  report.shapes.push({ shape, samples });
}
if (options.json) say(JSON.stringify(report, null, 2));
else print(report);

function print({ machine, limits, shapes }) {
  say(`${machine}\n\nLimits of the machine, one thread, best of 5:`);
  for (const [what, gbps] of Object.entries(limits)) say(`  ${what}: ${gbps.toFixed(1)} GB/s`);
  for (const { shape, samples } of shapes) {
    say(
      `\n${shape.name}: median of ${options.reps} p50, with GB/s; ratio = peer time / our time [least..most]`,
    );
    for (const operation of OPERATIONS) {
      const own = samples[names[0]].map((sample) => sample[operation]);
      const cells = names.map((name) => {
        const times = samples[name].map((sample) => sample[operation]);
        const gbps = (shape.keys * shape.kib * 1024) / (median(times) / 1000) / 1e9;
        const rate = operation === "Lookup" ? "" : ` (${gbps.toFixed(2)})`;
        const ratio =
          name === names[0] ? "" : `  ratio ${ratioText(spread(times.map((time, i) => time / own[i])))}`;
        return `  ${name.padEnd(18)} ${median(times).toFixed(2).padStart(9)} ms${rate}${ratio}`;
      });
      say(`${operation}\n${cells.join("\n")}`);
    }
  }
}

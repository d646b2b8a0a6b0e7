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
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { machineFacts, ROOT, say } from "./lib/common.mjs";
import { contest, OURS, parseShape, printContest } from "./lib/l2-contest.mjs";
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
const machine = machineFacts();
const limits = fileLimits(options.dir);
const shapes = await contest({
  contenders: {
    "@cache/l2-fs": { command: OURS, adapter: { type: "fs" } },
    "LMCache fs": { command: [lmcache], adapter: { type: "fs" } },
    "LMCache fs_native": { command: [lmcache], adapter: { type: "fs_native", num_workers: 4 } },
  },
  shapes: options.shapes.split(",").map(parseShape),
  reps: Number(options.reps),
  rounds: options.rounds,
  place() {
    const directory = mkdtempSync(join(options.dir, "cache-bench-fs-"));
    return {
      config: { base_path: join(directory, "data") },
      end: () => rmSync(directory, { recursive: true, force: true }),
    };
  },
});
if (options.json) say(JSON.stringify({ machine, limits, shapes }, null, 2));
else {
  say(`${machine}\n\nLimits of the machine, one thread, best of 5:`);
  for (const [what, gbps] of Object.entries(limits)) say(`  ${what}: ${gbps.toFixed(1)} GB/s`);
  printContest(shapes, options.reps);
}

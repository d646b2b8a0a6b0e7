#!/usr/bin/env node
/**
 * The nixl adapters next to LMCache's `nixl_store` and `nixl_store_dynamic`: `bench l2` of each, taking turns, both
 * through the same NIXL library on one filesystem.
 *
 *   node bench/nixl.mjs [--peers DIR] [--dir DIR] [--reps 3] [--rounds 5] [--shapes 96x1024,64x4096,512x64] [--json]
 *     [--only static,dynamic] [--file-mib 16]
 *
 * --peers is a Python environment with LMCache 0.5.6 and NIXL (tools/peers/setup.sh; default .peers); --dir a directory
 * on the filesystem to measure (default: the system's temporary directory); --file-mib the length of the files of the
 * static pools. Build first. Ratios are peer time / our time, paired in each repetition: above 1 we are faster.
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
    only: { type: "string", default: "static,dynamic" },
    "file-mib": { type: "string", default: "16" },
    json: { type: "boolean", default: false },
  },
});
const bin = join(resolve(options.peers), "bin");
// Both sides use the library of the peers' environment.
process.env.PATH = `${bin}:${process.env.PATH}`;
const lmcache = [join(bin, "lmcache")];
const WARMUP_ROUNDS = 2;
const fileBytes = Number(options["file-mib"]) * 2 ** 20;

const shapes = options.shapes.split(",").map(parseShape);
/** Bytes of the largest run, all rounds: no round deletes anything. */
const mostBytes = Math.max(
  ...shapes.map(({ keys, kib }) => keys * kib * 1024 * (Number(options.rounds) + WARMUP_ROUNDS)),
);
const TYPES = {
  static: {
    type: "nixl_store",
    backend: "POSIX",
    pool_size: Math.ceil(mostBytes / fileBytes) + 1,
    backend_params: { use_direct_io: "false", file_size: String(fileBytes) },
  },
  dynamic: {
    type: "nixl_store_dynamic",
    backend: "POSIX",
    backend_params: { use_direct_io: "false", max_capacity_gb: String(Math.ceil((2 * mostBytes) / 2 ** 30)) },
  },
};

const machine = machineFacts();
const limits = fileLimits(options.dir);
const report = [];
for (const kind of options.only.split(",")) {
  const adapter = TYPES[kind];
  if (adapter === undefined) throw new Error(`--only: there is no '${kind}', only static and dynamic`);
  const results = await contest({
    contenders: {
      [`@cache/l2-nixl ${adapter.type}`]: { command: OURS, adapter },
      [`LMCache ${adapter.type}`]: { command: lmcache, adapter },
    },
    shapes,
    reps: Number(options.reps),
    rounds: options.rounds,
    async place() {
      const directory = mkdtempSync(join(options.dir, "cache-bench-nixl-"));
      const backend_params = { ...adapter.backend_params, file_path: join(directory, "data") };
      return { config: { backend_params }, end: () => rmSync(directory, { recursive: true, force: true }) };
    },
  });
  report.push({ kind, results });
}
if (options.json) say(JSON.stringify({ machine, limits, report }, null, 2));
else {
  say(`${machine}\n\nLimits of the machine, one thread, best of 5:`);
  for (const [what, gbps] of Object.entries(limits)) say(`  ${what}: ${gbps.toFixed(1)} GB/s`);
  for (const { kind, results } of report) {
    say(`\n${kind}`);
    printContest(results, options.reps);
  }
}

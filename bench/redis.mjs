#!/usr/bin/env node
/**
 * The redis adapter next to LMCache's `resp` (C++, 8 threads): `bench l2` of each, taking turns on one redis-server.
 *
 *   node bench/redis.mjs [--peers DIR] [--reps 3] [--rounds 5] [--shapes 96x1024,64x4096,512x64] [--workers 8] [--json]
 *
 * --peers is a Python environment with LMCache 0.5.6 (tools/peers/setup.sh; default .peers). redis-server comes from
 * the PATH, listens on loopback and writes nothing to disk; it is emptied before each run. Build first. Ratios are
 * peer time / our time, paired in each repetition: above 1 we are faster.
 */
import { spawnSync } from "node:child_process";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { machineFacts, ROOT, say } from "./lib/common.mjs";
import { contest, OURS, parseShape, printContest } from "./lib/l2-contest.mjs";
import { startRedis } from "./lib/redis.mjs";

const { values: options } = parseArgs({
  options: {
    peers: { type: "string", default: process.env.CACHE_PEERS_DIR ?? join(ROOT, ".peers") },
    reps: { type: "string", default: "3" },
    rounds: { type: "string", default: "5" },
    shapes: { type: "string", default: "96x1024,64x4096,512x64" },
    workers: { type: "string", default: "8" },
    json: { type: "boolean", default: false },
  },
});
const bin = join(resolve(options.peers), "bin");
const shapes = options.shapes.split(",").map(parseShape);

/** GB/s that one stream on loopback carries in pieces of that size: no client of a Redis here can be faster. */
function loopback(kib) {
  const script = join(ROOT, "bench", "lib", "loopback.py");
  const done = spawnSync(join(bin, "python"), [script, String(kib * 1024)], { encoding: "utf8" });
  if (done.status !== 0) throw new Error(`${script}: ${done.stderr.slice(-400)}`);
  return Number(done.stdout);
}

const machine = machineFacts();
const limits = Object.fromEntries(
  [...new Set(shapes.map(({ kib }) => kib))].map((kib) => [
    `loopback, one stream, ${kib} KiB`,
    loopback(kib),
  ]),
);
const server = await startRedis();
try {
  const adapter = { host: "127.0.0.1", port: server.port, num_workers: Number(options.workers) };
  const results = await contest({
    contenders: {
      "@cache/l2-redis": { command: OURS, adapter: { type: "redis", ...adapter } },
      "LMCache resp": { command: [join(bin, "lmcache")], adapter: { type: "resp", ...adapter } },
    },
    shapes,
    reps: Number(options.reps),
    rounds: options.rounds,
    async place() {
      await server.empty();
      return { config: {}, end: () => {} };
    },
  });
  if (options.json) say(JSON.stringify({ machine, redis: server.version, limits, shapes: results }, null, 2));
  else {
    say(`${machine}, Redis ${server.version}\n\nLimits of the machine, best of 5:`);
    for (const [what, gbps] of Object.entries(limits)) say(`  ${what}: ${gbps.toFixed(1)} GB/s`);
    printContest(results, options.reps);
  }
} finally {
  server.stop();
}

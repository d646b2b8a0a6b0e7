#!/usr/bin/env node
/**
 * RPC latency of the engine next to `lmcache server`: see rpc.py, which does the work.
 *
 *   node bench/rpc.mjs [--peers DIR] [--reps 5] [--cycle-seconds 3] [--only 1k,128k,cycles-1,cycles-8,inline]
 *                      [--kinds engine,lmcache,floor] [--profile DIR]
 *
 * Also prints the longest pause of the engine's event loop. --profile writes a CPU profile of the engine and prints
 * where its time went; profiling slows it down, so take figures without it. Build first.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { machineFacts, peerEnvironment, ROOT, say } from "./lib/common.mjs";
import { longestPauses, MONITOR_FLAG, pauseText, startIdle } from "./lib/pauses.mjs";
import { hottest } from "./lib/profile.mjs";

const { values: options } = parseArgs({
  options: {
    peers: { type: "string", default: process.env.CACHE_PEERS_DIR ?? join(ROOT, ".peers") },
    reps: { type: "string", default: "5" },
    "cycle-seconds": { type: "string", default: "3" },
    only: { type: "string" },
    kinds: { type: "string" },
    profile: { type: "string" },
  },
});
const pauses = mkdtempSync(join(tmpdir(), "cache-bench-pauses-"));
const pauseFile = join(pauses, "pauses.txt");
const idleFile = join(pauses, "idle.txt");
const endIdle = startIdle(idleFile);
const nodeFlags = [MONITOR_FLAG];
if (options.profile !== undefined) {
  mkdirSync(options.profile, { recursive: true });
  nodeFlags.push("--cpu-prof", `--cpu-prof-dir=${resolve(options.profile)}`);
}
// NODE_OPTIONS takes no --cpu-prof: the engine's Node is a script that adds the flags.
const node = join(pauses, "node.sh");
const quoted = [process.execPath, ...nodeFlags].map((word) => `'${word.replaceAll("'", "'\\''")}'`);
writeFileSync(node, `#!/bin/sh\nexec ${quoted.join(" ")} "$@"\n`, { mode: 0o700 });
say(machineFacts());
try {
  const passed = ["reps", "cycle-seconds", "only", "kinds"].flatMap((name) =>
    options[name] === undefined ? [] : [`--${name}`, options[name]],
  );
  const done = spawnSync(
    join(resolve(options.peers), "bin", "python"),
    [join(ROOT, "bench", "rpc.py"), ...passed],
    { stdio: "inherit", env: { ...peerEnvironment(), PEERS_PAUSES: pauseFile, PEERS_NODE: node } },
  );
  for (const pause of longestPauses(pauseFile))
    say(`event loop of an engine: longest pause ${pauseText(pause)}`);
  for (const pause of longestPauses(idleFile)) say(`of a program that does nothing: ${pauseText(pause)}`);
  if (options.profile !== undefined) {
    for (const name of readdirSync(options.profile).filter((file) => file.endsWith(".cpuprofile"))) {
      say(`\n${name}: self time`);
      for (const { share, where } of hottest(join(options.profile, name)))
        say(`  ${share.toFixed(1).padStart(5)} %  ${where}`);
    }
  }
  process.exitCode = done.status ?? 1;
} finally {
  endIdle();
  rmSync(pauses, { recursive: true, force: true });
}

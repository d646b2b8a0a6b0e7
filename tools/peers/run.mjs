#!/usr/bin/env node
/**
 * Checks against the real, unmodified LMCache clients: `npm run test:peers -- [--peers DIR] [--only NAME]… [--list]`.
 *
 * Each check is a Python program (`pack` and `publish`: Node programs) that starts its own engines on free ports, with pools and directories of its own, and
 * prints a line a check: `ok`, `FAIL` or `skip`. A name with `:no-koffi` is the same check with the engine's koffi off.
 * Environment: CACHE_PEERS_DIR (as --peers, default `.peers`), CACHE_PEERS_COMPARE=1 (also measures `lmcache server`),
 * PEERS_SERVER=lmcache (runs the checks against the reference instead; kill drills cannot pass there).
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const here = dirname(fileURLToPath(import.meta.url));
const repo = resolve(here, "..", "..");

/** name: [program, arguments, limit in seconds]. */
const checks = {
  drive: ["drive.py", [], 600],
  adapters: ["vllm_adapters.py", [], 300],
  kill_drill: ["kill_drill.py", ["raw", "raw-l2"], 900],
  kill_adapters: ["kill_drill.py", ["adapters", "adapters-wiped"], 900],
  kill_writer: ["kill_drill.py", ["writer"], 300],
  kill_dtype: ["kill_drill.py", ["dtype"], 300],
  pressure: ["pressure.py", [], 600],
  adapters_runtime: ["adapters_runtime.py", [], 900],
  kv_events: ["kv_events.py", [], 600],
  hostile: ["hostile.py", [], 900],
  hostile_state: ["hostile_state.py", [], 600],
  fs_interop: ["fs_interop.py", [], 300],
  redis_interop: ["redis_interop.py", [], 300],
  nixl_interop: ["nixl_interop.py", [], 600],
  redis_trouble: ["redis_trouble.py", [], 900],
  hf_interop: ["hf_interop.py", [], 600],
  vectors: ["vectors.py", [], 120],
  bench_server: ["bench_server.py", [], 600],
  start_time: ["start_time.py", [], 600],
  pack: ["../pack/check.mjs", [], 900],
  soak: ["soak.py", [], 3000],
  publish: ["../pack/publish.mjs", [], 900],
};
const withoutKoffi = [
  "drive",
  "adapters",
  "kill_drill",
  "kill_adapters",
  "kill_writer",
  "kill_dtype",
  "pressure",
];
for (const name of withoutKoffi) checks[`${name}:no-koffi`] = checks[name];

const { values: options } = parseArgs({
  options: {
    peers: { type: "string" },
    only: { type: "string", multiple: true, default: [] },
    list: { type: "boolean", default: false },
    "no-build": { type: "boolean", default: false },
  },
});
if (options.list) {
  console.log(Object.keys(checks).join("\n"));
  process.exit(0);
}
const unknown = options.only.filter((name) => !(name in checks));
if (unknown.length > 0) {
  console.error(`no check named ${unknown.join(", ")}; there are: ${Object.keys(checks).join(", ")}`);
  process.exit(2);
}

const peers = resolve(options.peers ?? process.env.CACHE_PEERS_DIR ?? join(repo, ".peers"));
const python = join(peers, "bin", "python");
const prefix = `peers${process.pid}x`;
const scratch = mkdtempSync(join(tmpdir(), `${prefix}-`));
const groups = new Set();
const counts = { passed: 0, failed: 0, skipped: 0 };

/** Ends every process group that was started here, and removes its pools and directories. */
function cleanUp() {
  for (const pid of groups) {
    try {
      process.kill(-pid, "SIGKILL");
    } catch {
      // gone already
    }
  }
  groups.clear();
  rmSync(scratch, { recursive: true, force: true });
  if (!existsSync("/dev/shm")) return;
  for (const name of readdirSync("/dev/shm")) {
    if (name.startsWith(`lmcache_l1_pool_${prefix}`)) rmSync(join("/dev/shm", name), { force: true });
  }
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.once(signal, () => {
    cleanUp();
    process.exit(130);
  });
}
process.once("exit", cleanUp);

function must(command, args) {
  const done = spawnSync(command, args, { cwd: repo, stdio: "inherit" });
  if (done.status !== 0) {
    console.error(`${command} ${args.join(" ")} failed (${done.error?.message ?? `status ${done.status}`})`);
    process.exit(1);
  }
}

/** Every package and app that is built. */
function projects() {
  return ["packages", "apps"]
    .flatMap((folder) => readdirSync(join(repo, folder)).map((name) => join(folder, name)))
    .filter((folder) => existsSync(join(repo, folder, "tsconfig.json")));
}

function count(line) {
  if (line.startsWith("ok ")) counts.passed += 1;
  else if (line.startsWith("FAIL ")) counts.failed += 1;
  else if (line.startsWith("skip ")) counts.skipped += 1;
}

/** Runs one check in a process group of its own, which is ended with it. */
function run(name) {
  const [program, args, seconds] = checks[name];
  const failedBefore = counts.failed;
  const begin = process.hrtime.bigint();
  console.log(`\n== ${name}`);
  const words = program.endsWith(".mjs")
    ? [process.execPath, join(here, program), "--peers", peers, ...args]
    : [python, "-W", "ignore", join(here, program), ...args];
  const child = spawn(words[0], words.slice(1), {
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      ...process.env,
      PATH: [join(peers, "bin"), process.env.PATH].join(delimiter),
      PYTHONPATH: [join(here, "shim"), here].join(delimiter),
      PYTHONDONTWRITEBYTECODE: "1",
      LMCACHE_DISABLE_BANNER: "1",
      LMCACHE_TRACK_USAGE: "false",
      PEERS_PREFIX: `${prefix}${name.replace(/\W/g, "")}`,
      PEERS_TMP: scratch,
      PEERS_NODE: process.execPath,
      ...(name.endsWith(":no-koffi") ? { CACHE_ENGINE_NO_KOFFI: "1" } : {}),
    },
  });
  groups.add(child.pid);
  const lastErrors = [];
  createInterface({ input: child.stdout }).on("line", (line) => {
    count(line);
    console.log(line);
  });
  createInterface({ input: child.stderr }).on("line", (line) => {
    lastErrors.push(line);
    if (lastErrors.length > 25) lastErrors.shift();
  });
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    process.kill(-child.pid, "SIGKILL");
  }, seconds * 1000);
  return new Promise((done) => {
    child.on("close", (status, signal) => {
      clearTimeout(timer);
      const broken = late ? `no end after ${seconds} s` : `ended with ${signal ?? status}`;
      if (late || signal !== null || (status !== 0 && !(status === 3 && counts.failed > failedBefore))) {
        counts.failed += 1;
        console.log(`FAIL ${name}: ${broken}\n${lastErrors.join("\n")}`);
      }
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // the group is gone
      }
      groups.delete(child.pid);
      console.log(`     ${name}: ${(Number(process.hrtime.bigint() - begin) / 1e9).toFixed(1)} s`);
      done();
    });
  });
}

must("bash", [join(here, "setup.sh"), peers]);
if (!options["no-build"] && process.env.PEERS_SERVER !== "lmcache") {
  must("npx", ["tsc", "-b", ...projects()]);
}
/** A quarter of an hour: run only where it is asked for. */
const onlyByName = new Set(["soak"]);
const everyDay = Object.keys(checks).filter((name) => !onlyByName.has(name));
for (const name of options.only.length > 0 ? options.only : everyDay) await run(name);
console.log(`\n${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exit(counts.failed > 0 ? 1 : 0);

// `npm start`: installs and builds what is missing, then runs the engine. Words after `--` go to `serve`.
import { spawn } from "node:child_process";
import { existsSync, statfsSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { build, install, ROOT, staleFolders } from "./lib.mjs";

refuseTakenFlags();
install();
if (staleFolders().length > 0) build();

// The default L2 is an fs adapter in the state directory, of at most this size. A `--l2-adapter` replaces it.
const size = defaultL2SizeGb();
const args = [join(ROOT, "apps/engine/bin/cache-engine.js"), "serve"];
if (size > 0 && !process.env.CACHE_ENGINE_DEFAULT_L2_SIZE_GB) args.push("--default-l2-size-gb", String(size));
const engine = spawn(process.execPath, [...args, ...process.argv.slice(2)], { stdio: "inherit" });
// The terminal sends SIGINT to the engine itself; what is sent to this process alone is passed on.
process.on("SIGINT", () => undefined);
process.on("SIGTERM", () => engine.kill("SIGTERM"));
// npm does not pass a SIGTERM on. When it is gone, nobody is left who could stop the engine.
const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent) engine.kill("SIGTERM");
}, 500).unref();
engine.on("error", (error) => {
  console.error(`error INTERNAL: the engine cannot be run: ${error.message}`);
  process.exit(1);
});
engine.on("exit", (code, signal) => process.exit(code ?? (signal === "SIGKILL" ? 137 : 1)));

/** Without `--` npm takes flags for its own settings, and the engine would start without them. */
function refuseTakenFlags() {
  const flags = ["port", "http-port", "host", "http-host", "config", "l1-size-gb", "l2-adapter", "state-dir"];
  const taken = flags.filter((flag) => process.env[`npm_config_${flag.replaceAll("-", "_")}`] !== undefined);
  if (process.env.npm_lifecycle_event !== "start" || taken.length === 0) return;
  const names = taken.map((flag) => `--${flag}`).join(", ");
  console.error(`error INVALID_ARGUMENT: npm took ${names} for itself; flags of the engine go after '--':`);
  console.error(`  npm start -- ${taken.map((flag) => `--${flag} …`).join(" ")}`);
  process.exit(2);
}

/** 10 GiB, or half of what the disk has free if that is less. */
function defaultL2SizeGb() {
  let directory = process.env.XDG_STATE_HOME || join(homedir(), ".local", "state");
  while (!existsSync(directory)) directory = dirname(directory);
  const { bavail, bsize } = statfsSync(directory);
  return Math.min(10, Math.floor(((bavail * bsize) / 2 ** 30) * 5) / 10);
}

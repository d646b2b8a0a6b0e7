import { cpus, loadavg, totalmem } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Root of the clone. */
export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** What stands above every result. */
export function machineFacts() {
  const gib = (totalmem() / 2 ** 30).toFixed(0);
  const load = loadavg()
    .map((value) => value.toFixed(1))
    .join(" ");
  return `${cpus().length} x ${cpus()[0]?.model ?? "?"}, ${gib} GiB, Node ${process.versions.node}, load ${load} at ${new Date().toISOString()}`;
}

/** Environment of LMCache's programs: quiet, and with the stand-in for a module that its import wants. */
export function peerEnvironment() {
  const shim = join(ROOT, "tools", "peers", "shim");
  const path = process.env.PYTHONPATH ? `${shim}${delimiter}${process.env.PYTHONPATH}` : shim;
  const quiet = { LMCACHE_DISABLE_BANNER: "1", LMCACHE_TRACK_USAGE: "false", LMCACHE_LOG_LEVEL: "ERROR" };
  return { ...process.env, ...quiet, PYTHONPATH: path };
}

/** The middle one, of an even number the lower of the two. */
export function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)];
}

/** Median, least and most. */
export function spread(values) {
  return { median: median(values), least: Math.min(...values), most: Math.max(...values) };
}

/** E.g. `1.25 [0.90..1.40]`. */
export function ratioText({ median: middle, least, most }) {
  return `${middle.toFixed(2)} [${least.toFixed(2)}..${most.toFixed(2)}]`;
}

/** Writes a line of the report. */
export function say(line) {
  process.stdout.write(`${line}\n`);
}

// How long programs held their event loops up, as tools/peers/loop_monitor.mjs in them writes it.
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { ROOT } from "./common.mjs";

/** For Node's command line: the program then writes its pauses to the file that PEERS_PAUSES names. */
export const MONITOR_FLAG = `--import=${pathToFileURL(join(ROOT, "tools", "peers", "loop_monitor.mjs")).href}`;

/** The longest pause of each program, in milliseconds: its own, and with the time in which others had the processor. */
export function longestPauses(file) {
  const longest = new Map();
  const lines = existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : [];
  for (const line of lines.filter((text) => text !== "")) {
    const [pid, wholeMs, ownMs] = line.split(" ").map(Number);
    const before = longest.get(pid) ?? { ownMs: 0, wholeMs: 0 };
    longest.set(pid, {
      ownMs: Math.max(before.ownMs, ownMs),
      wholeMs: Math.max(before.wholeMs, wholeMs),
    });
  }
  return [...longest.values()];
}

/**
 * A program that does nothing, watched in the same way: what it sees is the machine's, not ours. Returns what ends it.
 */
export function startIdle(file) {
  const words = [MONITOR_FLAG, "--eval", "setInterval(() => {}, 1000)"];
  const env = { ...process.env, PEERS_PAUSES: file };
  const child = spawn(process.execPath, words, { stdio: "ignore", env });
  const end = () => child.kill("SIGKILL");
  process.once("exit", end);
  return () => {
    process.off("exit", end);
    end();
  };
}

/** A pause, in words. */
export function pauseText({ ownMs, wholeMs }) {
  return `${ownMs.toFixed(1)} ms (${wholeMs.toFixed(1)} ms with the time in which other programs had its processor)`;
}

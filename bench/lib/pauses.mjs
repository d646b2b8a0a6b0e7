// How long programs held their event loops up, as tools/peers/loop_monitor.mjs in them writes it.
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

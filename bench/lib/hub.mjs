import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { ROOT } from "./common.mjs";

/** The test Hub of `tools/hub` in a process of its own: its URL, and what ends it. */
export async function startHub() {
  const hub = spawn(process.execPath, [join(ROOT, "tools", "hub", "serve.mjs")], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  process.once("exit", () => hub.kill());
  const [url] = await once(createInterface({ input: hub.stdout }), "line");
  return { url, stop: () => hub.kill() };
}

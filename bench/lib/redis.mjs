import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A port that nobody listens on at this moment. */
async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Sends one command and waits for its short reply. */
function command(port, words) {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ port, host: "127.0.0.1" });
    socket.once("error", reject);
    socket.once("data", (data) => {
      socket.destroy();
      const text = data.toString();
      if (text.startsWith("-")) reject(new Error(text));
      else resolve(text);
    });
    socket.write(words.map((word) => `${word}`).join(" ") + "\r\n");
  });
}

/**
 * A redis-server of its own, from the PATH, that writes nothing to disk.
 *
 * @throws Error with what to install where there is none.
 */
export async function startRedis() {
  if (spawnSync("redis-server", ["--version"]).status !== 0)
    throw new Error("there is no redis-server in the PATH: apt-get install redis-server");
  const port = await freePort();
  const directory = mkdtempSync(join(tmpdir(), "cache-bench-redis-"));
  const words = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", directory];
  const child = spawn("redis-server", words.map(String), { stdio: "ignore" });
  const stop = () => {
    child.kill("SIGKILL");
    rmSync(directory, { recursive: true, force: true });
  };
  process.once("exit", stop);
  for (const deadline = performance.now() + 10_000; ; ) {
    try {
      await command(port, ["PING"]);
      break;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  const info = await command(port, ["INFO", "server"]);
  return {
    port,
    version: /redis_version:(\S+)/.exec(info)?.[1] ?? "?",
    empty: () => command(port, ["FLUSHALL"]),
    stop,
  };
}

import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const BIN = fileURLToPath(new URL("../bin/cache-engine.js", import.meta.url));
const ENV = { ...process.env, NODE_OPTIONS: "" };

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}

test("serve: banner, ping, a held state directory, clean stop, purge", async () => {
  const directory = mkdtempSync(join(tmpdir(), "serve-"));
  const [port, httpPort] = [await freePort(), await freePort()];
  const pool = `/dev/shm/lmcache_l1_pool_cache_engine_${port}`;
  const state = ["--port", String(port), "--state-dir", join(directory, "state")];
  const words = ["serve", ...state, "--http-port", String(httpPort), "--l1-size-gb", "0.01"];
  const engine = spawn(process.execPath, [BIN, ...words], { env: ENV, stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise<number | null>((resolve) => engine.once("exit", resolve));
  let out = "";
  let log = "";
  const ready = new Promise<void>((resolve) => {
    engine.stdout.on("data", (part: Buffer) => {
      out += part.toString();
      if (out.includes("ready in")) resolve();
    });
  });
  engine.stderr.on("data", (part: Buffer) => (log += part.toString()));
  try {
    await Promise.race([ready, ended.then(() => Promise.reject(new Error(`the engine ended: ${log}`)))]);
    expect(out).toContain(`tcp://127.0.0.1:${port}`);
    expect(existsSync(pool)).toBe(true);
    const run = (...args: string[]) =>
      spawnSync(process.execPath, [BIN, ...args], { env: ENV, encoding: "utf8" });
    const urls = ["--url", `http://127.0.0.1:${httpPort}`, "--rpc-url", `tcp://127.0.0.1:${port}`];
    expect(JSON.parse(run("ping", "--json", ...urls).stdout)).toMatchObject({ ok: true });
    expect(run("purge", ...state).status).toBe(4);
    engine.kill("SIGTERM");
    expect(await ended).toBe(0);
    expect(out.trim().split("\n").at(-1)).toBe(
      `stopped; the pool ${pool} is kept for the next start; free it with: npx @cache/engine purge --port ${port}`,
    );
    for (const line of log.trim().split("\n"))
      expect(JSON.parse(line)).toMatchObject({ instance: String(port) });
    expect(run("purge", ...state).stdout).toBe(`removed ${pool}\n`);
    expect(existsSync(pool)).toBe(false);
  } finally {
    engine.kill("SIGKILL");
    rmSync(pool, { force: true });
    rmSync(directory, { recursive: true, force: true });
  }
});

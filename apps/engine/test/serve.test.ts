import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { freePort } from "../../../tools/testing/src/free-port.ts";

const BIN = fileURLToPath(new URL("../bin/cache-engine.js", import.meta.url));
const ENV = { ...process.env, NODE_OPTIONS: "" };

test("serve: banner, ping, a held state directory, clean stop, purge", async () => {
  const directory = mkdtempSync(join(tmpdir(), "serve-"));
  const [port, httpPort] = [await freePort(), await freePort()];
  const name = `serve_test_${port}`;
  const pool = `/dev/shm/lmcache_l1_pool_${name}`;
  const state = ["--port", String(port), "--state-dir", join(directory, "state")];
  const words = [
    "serve",
    ...state,
    "--http-port",
    String(httpPort),
    "--l1-size-gb",
    "0.01",
    "--shm-name",
    name,
  ];
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
    const url = ["--url", `http://127.0.0.1:${httpPort}`];
    const rpc = { ok: true, url: `tcp://127.0.0.1:${port}` };
    expect(JSON.parse(run("ping", "--json", ...url).stdout)).toMatchObject({ ok: true, rpc });
    const held = run("purge", ...state);
    expect(held.status).toBe(4);
    expect(held.stderr).toMatch(
      / is locked by process \d+ \(.*\); nothing was removed: stop that engine first/,
    );
    expect(held.stderr).not.toContain("another path");
    const again = run(...words);
    expect(again.status).toBe(4);
    expect(again.stderr).toContain(`another engine uses the state directory ${join(directory, "state")}`);
    engine.kill("SIGTERM");
    expect(await ended).toBe(0);
    const farewell = `stopped; the pool ${pool} is kept for the next start; free it with: npx @cache/engine purge `;
    const last = out.trim().split("\n").at(-1) ?? "";
    expect(last).toBe(`${farewell}${state.join(" ")}`);
    for (const line of log.trim().split("\n"))
      expect(JSON.parse(line)).toMatchObject({ instance: String(port) });
    expect(run("purge", ...last.slice(farewell.length).split(" ")).stdout).toBe(`removed ${pool}\n`);
    expect(existsSync(pool)).toBe(false);
  } finally {
    engine.kill("SIGKILL");
    rmSync(pool, { force: true });
    rmSync(directory, { recursive: true, force: true });
  }
});

test("serve: a start that cannot succeed names the cause and leaves no pool", async () => {
  const directory = mkdtempSync(join(tmpdir(), "serve-"));
  const [port, httpPort] = [await freePort(), await freePort()];
  const words = ["serve", "--port", String(port), "--http-port", String(httpPort), "--l1-size-gb", "0.01"];
  const start = (adapter: object) =>
    spawnSync(
      process.execPath,
      [BIN, ...words, "--state-dir", join(directory, "state"), "--l2-adapter", JSON.stringify(adapter)],
      { env: ENV, encoding: "utf8" },
    );
  try {
    const eviction = { eviction_policy: "LRU" };
    const unbounded = start({ type: "fs", base_path: join(directory, "l2"), eviction });
    expect(unbounded.status).toBe(2);
    expect(unbounded.stderr).toMatch(/INVALID_CONFIG.*max_capacity_gb/);
    writeFileSync(join(directory, "file"), "");
    const misplaced = start({ type: "fs", base_path: join(directory, "file", "l2") });
    expect(misplaced.status).not.toBe(0);
    expect(misplaced.stderr).toContain(join(directory, "file"));
    expect(existsSync(`/dev/shm/lmcache_l1_pool_cache_engine_${port}`)).toBe(false);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

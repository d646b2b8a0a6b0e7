import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { freePort } from "../../../tools/testing/src/free-port.ts";
import { nodeVersion, sharedMemory, userLimits } from "../src/cli/doctor/machine.ts";
import { pool, rpcAddress, stateDirectory } from "../src/cli/doctor/places.ts";
import type { EngineConfig } from "../src/config/engine-config.ts";
import { configJsonSchema } from "../src/config/json-schema.ts";
import { loadConfig } from "../src/config/load-config.ts";
import { optionInfos } from "../src/config/options.ts";

const BIN = fileURLToPath(new URL("../bin/cache-engine.js", import.meta.url));
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "cli-doctor-"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function cli(words: readonly string[], env: Record<string, string> = {}) {
  const result = spawnSync(process.execPath, [BIN, ...words], {
    cwd: directory,
    encoding: "utf8",
    env: { ...process.env, NODE_OPTIONS: "", XDG_STATE_HOME: join(directory, "state"), ...env },
  });
  return { code: result.status, out: result.stdout, err: result.stderr };
}

interface Doctor {
  readonly ok: boolean;
  readonly checks: readonly { name: string; verdict: string; detail: string; fix: string | null }[];
}

const NAMES = [
  ...["config", "node", "platform", "koffi", "zeromq", "flock", "shm", "memory", "limits", "pool"],
  ...["client-proof", "state", "rpc", "http", "adapters", "l2 fs"],
];

test("doctor: one line a check, all checks in JSON, exit 0, nothing left behind", async () => {
  const ports = ["--port", String(await freePort()), "--http-port", String(await freePort())];
  const adapter = ["--l2-adapter", JSON.stringify({ type: "fs", base_path: join(directory, "data") })];
  const words = ["doctor", ...ports, "--l1-size-gb", "0.01", ...adapter];
  const asJson = cli([...words, "--json"], { CACHE_ENGINE_NO_KOFFI: "1" });
  const { ok, checks } = JSON.parse(asJson.out) as Doctor;
  expect(checks.filter(({ verdict }) => verdict === "fail")).toEqual([]);
  expect([asJson.code, ok]).toEqual([0, true]);
  expect([...new Set(checks.map(({ name }) => name))]).toEqual(NAMES);
  expect(checks.find(({ name }) => name === "koffi")).toMatchObject({
    verdict: "warn",
    fix: "unset CACHE_ENGINE_NO_KOFFI",
  });
  for (const { verdict, fix } of checks) expect(fix === null).toBe(verdict === "ok");
  const { code, out, err } = cli(words);
  expect([code, err]).toEqual([0, ""]);
  expect(out).toMatch(/^ok +koffi +loaded/m);
  expect(out.trim().split("\n").at(-1)).toMatch(/^0 failed, \d+ with a warning, \d+ good$/);
  expect(readdirSync(directory)).toEqual([]);
  expect(cli(["doctor", ...ports, "--l1-size-gb", "0.01", ...adapter, "--open-adapters"]).out).toMatch(
    /^ok +l2 fs +@cache\/l2-fs .*; opened /m,
  );
});

test("doctor: what keeps the engine from serving is a FAIL with its fix, exit 1", async () => {
  const taken = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
  const { port } = taken.address() as AddressInfo;
  try {
    const words = ["--port", String(port), "--http-port", String(await freePort()), "--l1-size-gb", "60000"];
    const { code, out } = cli(["doctor", ...words, "--l2-adapter", '{"type":"mooncake"}']);
    expect(code).toBe(1);
    expect(out).toMatch(/^FAIL +shm +.*fix: a smaller --l1-size-gb/m);
    expect(out).toMatch(/^FAIL +memory +.*fix: a smaller --l1-size-gb/m);
    expect(out).toMatch(/^FAIL +rpc +.*taken by something that is no engine.*fix: another --port/m);
    expect(out).toMatch(/^FAIL +l2 mooncake +ADAPTER_TYPE_UNKNOWN: .*cache-l2-mooncake/m);
  } finally {
    await new Promise((resolve) => taken.close(resolve));
  }
});

test("doctor: a wrong configuration is a finding, and the machine is looked at all the same", () => {
  const { code, out } = cli(["doctor", "--json", "--port", "x"]);
  expect(code).toBe(1);
  const { ok, checks } = JSON.parse(out) as Doctor;
  expect(ok).toBe(false);
  expect(checks.map(({ name }) => name)).toEqual(["config", "node", "platform", "koffi"]);
  expect(checks[0]).toMatchObject({ verdict: "fail", detail: expect.stringContaining("--port") as string });
});

async function configOf(flags: Record<string, string>): Promise<EngineConfig> {
  return (await loadConfig({ flags: { l1_size_gb: "1", ...flags }, environment: {} })).config;
}

test("each check tells good from bad", async () => {
  const config = await configOf({});
  expect(nodeVersion("20.19.0").verdict).toBe("ok");
  expect(nodeVersion("20.18.9").verdict).toBe("fail");
  expect(nodeVersion("24.0.0").verdict).toBe("ok");
  expect(sharedMemory(config.l1, directory)).toMatchObject({
    verdict: "fail",
    detail: `${directory} is no tmpfs`,
  });
  expect(sharedMemory(config.l1, join(directory, "absent")).verdict).toBe("fail");
  expect(sharedMemory((await configOf({ shm_name: "" })).l1).verdict).toBe("warn");
  const limits = (name: string, value: number) => userLimits(config.l1, new Map([[name, value]])).verdict;
  expect(limits("Max file size", 2 ** 20)).toBe("fail");
  expect(limits("Max address space", 2 ** 30)).toBe("fail");
  expect(limits("Max open files", 256)).toBe("warn");
  expect(limits("Max open files", 65_536)).toBe("ok");
  expect(userLimits(config.l1, null).verdict).toBe("warn");
  expect((await rpcAddress({ ...config.rpc, host: "192.0.2.1" })).verdict).toBe("fail");
});

test("permissions of state directory and pool", async () => {
  const state = join(directory, "permissions");
  expect(stateDirectory(state)).toMatchObject({
    verdict: "ok",
    detail: expect.stringContaining("(will be made)") as string,
  });
  mkdirSync(state, { mode: 0o755 });
  chmodSync(state, 0o755);
  expect(stateDirectory(state)).toMatchObject({ verdict: "warn", fix: `chmod 0700 ${state}` });
  chmodSync(state, 0o700);
  expect(stateDirectory(state).verdict).toBe("ok");
  expect(stateDirectory(null).verdict).toBe("warn");
  const file = join(state, "file");
  writeFileSync(file, "");
  expect(stateDirectory(file).verdict).toBe("fail");
  const name = `doctor-test-${process.pid}`;
  const path = `/dev/shm/lmcache_l1_pool_${name}`;
  const config = await configOf({ shm_name: name });
  expect(pool(config).detail).toContain("(will be made)");
  try {
    writeFileSync(path, "x");
    chmodSync(path, 0o644);
    expect(pool(config)).toMatchObject({ verdict: "warn", fix: `chmod 600 ${path}` });
    chmodSync(path, 0o600);
    expect(pool(config).verdict).toBe("ok");
  } finally {
    rmSync(path, { force: true });
  }
});

test("config schema: every option with its choices; with --adapters the keys of the installed ones", () => {
  const plain = JSON.parse(cli(["config", "schema"]).out) as ReturnType<typeof configJsonSchema>;
  expect(plain).toEqual(JSON.parse(JSON.stringify(configJsonSchema([]))));
  expect(plain["additionalProperties"]).toBe(false);
  for (const { key } of optionInfos()) expect(plain.properties).toHaveProperty(key);
  expect(plain.properties?.["eviction_policy"]).toMatchObject({ enum: ["LRU", "noop"] });
  expect(plain.properties?.["prometheus_port"]).toMatchObject({ deprecated: true });
  expect(plain.properties?.["transport"]).toMatchObject({ enum: ["zmq"] });
  expect(plain.properties).not.toHaveProperty("server_module");
  expect(plain.properties?.["l2_adapter"]?.anyOf?.[1]).toMatchObject({ required: ["type"] });
  const { code, out, err } = cli(["config", "schema", "--adapters"]);
  expect([code, err]).toEqual([0, ""]);
  const items = (JSON.parse(out) as ReturnType<typeof configJsonSchema>).properties?.["l2_adapter"]
    ?.anyOf?.[1];
  const rules = items?.["allOf"] as { if: unknown; then: ReturnType<typeof configJsonSchema> }[];
  const fs = rules.find((rule) => JSON.stringify(rule.if).includes('"fs"'))?.then;
  expect(fs?.["additionalProperties"]).toBe(false);
  expect(fs?.required).toContain("base_path");
  expect(Object.keys(fs?.properties ?? {})).toEqual(
    expect.arrayContaining(["type", "id", "eviction", "max_capacity_gb"]),
  );
});

import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { rpcPing } from "../src/cli/rpc-ping.ts";

const BIN = fileURLToPath(new URL("../bin/cache-engine.js", import.meta.url));
const CONTRACTS = fileURLToPath(new URL("../../../packages/contracts", import.meta.url));

let directory: string;
beforeAll(() => {
  directory = realpathSync(mkdtempSync(join(tmpdir(), "cli-")));
  adapter("@x/cache-l2-toy", {
    cacheL2: { types: ["toy"], apiVersion: 1 },
    source: `import { registerL2Adapter } from "@cache/contracts";
      const parse = (raw) => Object.keys(raw).every((key) => key === "size" || key === "password")
        ? { success: true, data: raw }
        : { success: false, error: { issues: [{ code: "unrecognized_keys", keys: ["siez"], path: [], message: "" }] } };
      registerL2Adapter({ types: ["toy"], apiVersion: 1, packageName: "@x/cache-l2-toy",
        configSchema: { safeParse: parse, def: { shape: { size: 1, password: 1 } } }, create: () => ({}) });`,
  });
  adapter("cache-l2-bomb", { source: "throw new Error('imported')" });
  const contracts = join(directory, "node_modules/@cache/contracts");
  mkdirSync(contracts, { recursive: true });
  cpSync(join(CONTRACTS, "dist"), join(contracts, "dist"), { recursive: true });
  writeFileSync(
    join(contracts, "package.json"),
    '{"name":"@cache/contracts","type":"module","exports":"./dist/index.js"}',
  );
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function adapter(name: string, { source, ...json }: { source: string; cacheL2?: unknown }): void {
  const folder = join(directory, "node_modules", name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ name, version: "1.0.0", type: "module", ...json }),
  );
  writeFileSync(join(folder, "index.js"), source);
}

/** Runs the built command as a user would; vitest's own conditions must not reach it. */
function cli(words: readonly string[], env: Record<string, string> = {}) {
  const clean = Object.fromEntries(
    Object.entries(process.env).filter(([key]) => !key.startsWith("CACHE_ENGINE_")),
  );
  const environment = { ...clean, NODE_OPTIONS: "", XDG_STATE_HOME: join(directory, "state"), ...env };
  const result = spawnSync(process.execPath, [BIN, ...words], {
    cwd: directory,
    encoding: "utf8",
    env: environment,
  });
  return { code: result.status, out: result.stdout, err: result.stderr };
}

test("adapters lists what is installed without importing it, and prints the roots", () => {
  const { code, out } = cli(["adapters"]);
  expect(code).toBe(0);
  expect(out).toMatch(/^toy +@x\/cache-l2-toy +1\.0\.0 +ok/m);
  expect(out).toMatch(/^bomb +cache-l2-bomb +1\.0\.0 +no manifest/m);
  expect(out).toMatch(/^fs +@cache\/l2-fs/m);
  expect(out).toContain(`${join(directory, "node_modules")} (start-directory)`);
  expect(out).toMatch(/packages \(clone\)/);
});

test("adapters --json with a root of its own and an allow list", () => {
  const words = ["adapters", "--json", "--adapter-root", "node_modules", "--adapter-allow", "cache-l2-bomb"];
  const { packages, roots } = JSON.parse(cli(words).out) as {
    packages: { name: string; allowed: boolean }[];
    roots: { origin: string }[];
  };
  expect(packages.map(({ name, allowed }) => [name, allowed])).toEqual([
    ["@x/cache-l2-toy", false],
    ["cache-l2-bomb", true],
  ]);
  expect(roots).toMatchObject([{ origin: "option" }]);
});

test("adapters show prints the options of the schema", () => {
  const { code, out } = cli(["adapters", "show", "mock"]);
  expect(code).toBe(0);
  expect(out).toMatch(/^max_size_gb +number +required +Capacity/m);
});

test("config check prints values with their origin, loads the adapter and masks secrets", () => {
  const json = '{"type":"toy","size":1,"password":"hunter2"}';
  const words = ["config", "check", "--port", "6400", "--prometheus-port", "9", "--l2-adapter", json];
  const { code, out, err } = cli(words, { CACHE_ENGINE_CHUNK_SIZE: "16" });
  expect([code, err]).toEqual([0, ""]);
  expect(out).toMatch(/^port +flag +6400$/m);
  expect(out).toMatch(/^chunk_size +environment +16$/m);
  expect(out).toMatch(/^http_port +default +8080$/m);
  expect(out).toContain('adapter toy: @x/cache-l2-toy 1.0.0 {"size":1,"password":"***"}');
  expect(out).toContain("--prometheus-port has no effect");
  expect(out).not.toContain("hunter2");
  const asJson = cli([...words, "--json"]).out;
  expect(JSON.parse(asJson)).toMatchObject({ ok: true, config: { rpc: { port: 6400 } } });
  expect(asJson).not.toContain("hunter2");
});

test.each([
  [
    ["serve", "--l1-sise-gb", "1"],
    "error INVALID_ARGUMENT: unknown option '--l1-sise-gb'; did you mean '--l1-size-gb'?",
  ],
  [["srve"], "error INVALID_ARGUMENT: unknown command 'srve'; did you mean 'serve'?"],
  [["serve", "--port", "x"], "error INVALID_CONFIG: --port:"],
  [
    ["config", "check", "--l2-adapter", '{"type":"toy","siez":1}'],
    "--l2-adapter #1 ('toy'): unknown key 'siez' (did you mean 'size'?)",
  ],
  [["config", "check", "--l2-adapter", '{"type":"mooncake"}'], "e.g. cache-l2-mooncake"],
  [["adapters", "show", "mooncake"], "error ADAPTER_TYPE_UNKNOWN:"],
  [["adapters", "--adapter-root", "nowhere"], "error INVALID_CONFIG: adapter root"],
])("%j fails with one line and exit code 2", (words, text) => {
  const { code, err } = cli(words);
  expect(err.trim().split("\n")).toHaveLength(1);
  expect(err).toContain(text);
  expect(err).not.toContain("    at ");
  expect(code).toBe(2);
});

test("a failing import is named with package, type and cause, exit code 1; --verbose adds the stack", () => {
  const words = ["config", "check", "--l2-adapter", '{"type":"bomb"}'];
  const { code, err } = cli(words);
  expect(code).toBe(1);
  expect(err).toMatch(
    /error ADAPTER_LOAD_FAILED: --l2-adapter #1: package cache-l2-bomb \(adapter type 'bomb'\).*imported$/m,
  );
  expect(cli(["--verbose", ...words]).err).toContain("    at ");
});

test("--version, help and no words", () => {
  expect(cli(["--version"])).toMatchObject({ code: 0, out: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) });
  const help = cli(["serve", "--help"]);
  expect(help.code).toBe(0);
  for (const text of ["--l1-size-gb", "CACHE_ENGINE_L1_SIZE_GB", "--journal-fsync"])
    expect(help.out).toContain(text);
  expect(help.out).not.toContain("--prometheus-port");
  expect(cli([])).toMatchObject({ code: 2, out: expect.stringContaining("Usage: cache-engine") });
});

test("ping: exit code 3 and both causes where nobody answers", () => {
  const { code, out } = cli([
    "ping",
    "--json",
    "--url",
    "http://127.0.0.1:9",
    "--rpc-url",
    "tcp://127.0.0.1:9",
  ]);
  expect(code).toBe(3);
  expect(JSON.parse(out)).toMatchObject({ ok: false, http: { ok: false }, rpc: { ok: false } });
});

test.each([
  ["an HTTP server", () => createServer()],
  ["a silent server", () => createTcpServer(() => {})],
])("an RPC ping of %s fails in time", async (_what, make) => {
  const server = make();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await expect(rpcPing(`tcp://127.0.0.1:${port}`, 200)).rejects.toMatchObject({
    code: "BACKEND_UNAVAILABLE",
  });
  server.close();
});

import { spawn } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { requestedAdapter } from "../src/adapters/adapter-request.ts";
import { resolveAdapters } from "../src/adapters/resolve-adapters.ts";
import { requestJson } from "../src/cli/http-client.ts";
import { parseTypedJson } from "../src/config/adapter-json.ts";
import { type ConfigInputs, loadConfig } from "../src/config/load-config.ts";
import { startHttpServer } from "../src/http/server.ts";

const REPO = fileURLToPath(new URL("../../..", import.meta.url));
const PACKAGES = join(REPO, "packages");

let directory: string;
beforeAll(() => {
  directory = realpathSync(mkdtempSync(join(tmpdir(), "helpful-errors-")));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const textOf = async (promise: Promise<unknown>): Promise<string> =>
  await promise.then(
    () => "no error",
    (error: unknown) => String(error),
  );

async function resolved(inputs: Partial<ConfigInputs>): Promise<unknown> {
  const { config } = await loadConfig({ flags: {}, environment: {}, ...inputs });
  return await resolveAdapters(config.l2.adapters, { roots: [PACKAGES], allow: [] });
}
const refused = async (adapter: Record<string, unknown>): Promise<string> =>
  await textOf(resolved({ flags: { l2_adapter: [JSON.stringify(adapter)] } }));

describe("an adapter's bad value", () => {
  test.each([
    [{ type: "fs", base_path: "/d", max_capacity_gb: "200" }, 'no limit); it is "200"'],
    [{ type: "redis", host: "h", port: "6379" }, '65535; it is "6379"'],
    [{ type: "fs", base_path: "/d", max_capacity_gb: -1 }, "; it is -1"],
    [{ type: "fs", base_path: "/d", max_capacity_gb: "x".repeat(60) }, `; it is "${"x".repeat(39)}…`],
    [{ type: "fs", base_path: "/d", shared: "yes" }, '; it is "yes"'],
    [{ type: "redis", host: "h", db: 1 }, "'db' (did you mean 'database_id'?)"],
  ])("is named: %j", async (adapter, text) => {
    expect(await refused(adapter)).toContain(text);
  });

  test.each([
    { type: "redis", host: "h", password: 31_337 },
    { type: "redis", host: "h", password_file: 31_337 },
    { type: "redis", url: "user:31337@h" },
    { type: "redis", host: "u:31337@h" },
    { type: "redis", url: "AKIA31337" },
    { type: "fs", base_path: { inner: 31_337 } },
    { type: "hfbucket", bucket_id: "a/b", token: 31_337 },
    { type: "hfbucket", bucket_id: "a/b", token_env: 31_337 },
    { type: "nixl_store_dynamic", backend: "OBJ", backend_params: { access_key: 31_337 } },
  ])("is not repeated where it may be a secret: %j", async (adapter) => {
    const text = await refused(adapter);
    expect(text).toMatch(/INVALID_CONFIG|--l2-adapter #1/);
    // What an adapter's own message quotes is its affair: `host` says what it was given.
    expect(text.replaceAll(/host "[^"]*"/g, "")).not.toContain("31337");
  });

  test("is looked for where it was written", async () => {
    const file = join(directory, "engine.yaml");
    writeFileSync(file, 'l2_adapter:\n  - { type: fs, base_path: /d, max_capacity_gb: "1" }\n');
    expect(await textOf(resolved({ configFile: file }))).toContain(`l2_adapter #1 in ${file} ('fs'): `);
    writeFileSync(file, "l2_adapter:\n  - { type: fs, base_path: /d }\n  - { type: fs, id: disk }\n");
    expect(await textOf(resolved({ configFile: file }))).toContain(`l2_adapter #2 in ${file} ('fs'): id`);
    const environment = { CACHE_ENGINE_L2_ADAPTER: '{"type":"none"}' };
    expect(await textOf(resolved({ environment }))).toContain("CACHE_ENGINE_L2_ADAPTER #1: no installed");
  });
});

describe("JSON that is none", () => {
  test("is shown, with how a shell wants it", () => {
    const parse = (text: string) => () => parseTypedJson(text, "--l2-adapter #1");
    expect(parse("{'type':'fs'}")).toThrow(/given: \{'type':'fs'\}; .*single quotes around it and double/);
    expect(parse(`{${"x".repeat(100)}`)).toThrow(`given: {${"x".repeat(59)}…;`);
  });

  test.each([
    "{'password':'hunter2'}",
    '{"token" "hunter2"}',
    "{url:redis://u:hunter2@h}",
    "{access_key:hunter2}",
  ])("is not repeated where it may hold a secret: %s", (text) => {
    let thrown: unknown;
    try {
      parseTypedJson(text, "adapters add", "INVALID_ARGUMENT");
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({ code: "INVALID_ARGUMENT" });
    expect(thrown).not.toHaveProperty("cause");
    expect(String(thrown)).toContain("single quotes around it");
    expect(String(thrown)).not.toContain("hunter2");
  });
});

test("a root for paths that does not exist is named as such", async () => {
  const missing = join(directory, "missing");
  const [there, raw] = [join(directory, "there"), { type: "fs", base_path: join(missing, "kv") }];
  mkdirSync(there);
  const discovery = { roots: [PACKAGES], allow: [], pathRoots: [there, missing] };
  const text = await textOf(requestedAdapter(raw, discovery, new Set()));
  expect(text).toContain(`${missing} does not exist: make it first`);
  expect(text).not.toContain(`${there} does not`);
  mkdirSync(missing);
  expect((await requestedAdapter(raw, discovery, new Set())).adapter.spec.own).toEqual({
    base_path: join(missing, "kv"),
  });
});

test("an HTTP address that is not this machine's is a wrong configuration, not one in use", async () => {
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const options = { port: 0, allowedHosts: [], tokenFile: null, view: () => null, log };
  // 192.0.2.0/24 is for documentation: no machine has it.
  await expect(startHttpServer({ ...options, host: "192.0.2.1" })).rejects.toMatchObject({
    code: "INVALID_CONFIG",
    message: expect.stringMatching(/192\.0\.2\.1.*check --http-host/),
  });
});

describe("what a running engine answers", () => {
  async function answered(status: number, body: unknown, token: string | null = null): Promise<unknown> {
    const server = createServer((_, response) => response.writeHead(status).end(JSON.stringify(body)));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    try {
      return await requestJson({ url, timeoutMs: 5_000, token }, "POST", "/adapters", {}).catch(
        (error: unknown) => error,
      );
    } finally {
      server.closeAllConnections();
      server.close();
    }
  }

  test("a 401 says whether a token was sent", async () => {
    const body = { detail: "send the token: Authorization: Bearer TOKEN" };
    expect(String(await answered(401, body))).toMatch(/wants a token: .*--token-file/);
    expect(String(await answered(401, body, "wrong"))).toMatch(/the token of --token-file was not accepted/);
  });

  test("the code of an answer is kept, and one that is unknown is not", async () => {
    const error = { detail: "WRONGPASS", code: "BACKEND_REFUSED" };
    expect(await answered(503, error)).toMatchObject({ code: "BACKEND_REFUSED" });
    expect(await answered(503, { ...error, code: "X" })).toMatchObject({ code: "BACKEND_UNAVAILABLE" });
    expect(await answered(503, "null")).toMatchObject({ code: "BACKEND_UNAVAILABLE" });
  });
});

describe("the command line", () => {
  const BIN = join(REPO, "apps/engine/bin/cache-engine.js");

  async function run(script: string, words: readonly string[], env: Record<string, string> = {}) {
    const child = spawn(process.execPath, [script, ...words], {
      timeout: 20_000,
      env: { ...process.env, NODE_OPTIONS: "", ...env },
    });
    let err = "";
    child.stderr.on("data", (part: Buffer) => (err += part.toString()));
    const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
    return { code, err };
  }

  test("npm's start without -- and `adapters list` are told what was meant", async () => {
    const start = await run(BIN, ["serve", "6391"], { npm_lifecycle_event: "start" });
    expect(start).toMatchObject({ code: 2, err: expect.stringContaining("npm start -- --port 6391") });
    expect((await run(BIN, ["serve", "6391"], { npm_lifecycle_event: "test" })).err).not.toContain(
      "npm start",
    );
    const list = await run(BIN, ["adapters", "list"]);
    expect(list).toMatchObject({ code: 2, err: expect.stringContaining("'adapters' alone lists them") });
  });

  test("npm's start refuses a flag that npm took for itself", async () => {
    const env = { npm_lifecycle_event: "start", npm_config_http_port: "6391" };
    const { code, err } = await run(join(REPO, "tools/dev/start.mjs"), [], env);
    expect(code).toBe(2);
    expect(err).toContain("npm took --http-port for itself");
  });

  test.each(["apps/engine/bin/cache-engine.js", "packages/create-cache-l2/bin/create-cache-l2.js"])(
    "%s says in a clone that is not built to build it",
    async (bin) => {
      const folder = join(directory, basename(bin, ".js"), "bin");
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, "../package.json"), '{"type":"module"}');
      copyFileSync(join(REPO, bin), join(folder, basename(bin)));
      expect(await run(join(folder, basename(bin)), ["--version"])).toEqual({
        code: 1,
        err: "not built: run npm run build in the clone\n",
      });
      // Anything else that is missing stays what it is.
      mkdirSync(join(folder, "../dist/cli"), { recursive: true });
      for (const file of ["cli.js", "cli/main.js"])
        writeFileSync(join(folder, "../dist", file), 'import "no-such-package";');
      expect((await run(join(folder, basename(bin)), ["--version"])).err).toContain("no-such-package");
    },
  );
});

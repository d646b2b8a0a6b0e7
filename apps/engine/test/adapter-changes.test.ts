import { type ChildProcess, spawn } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import { freePort } from "../../../tools/testing/src/free-port.ts";

const BIN = fileURLToPath(new URL("../bin/cache-engine.js", import.meta.url));
const ENV = { ...process.env, NODE_OPTIONS: "" };
const MOCK = { type: "mock", max_size_gb: 1, mock_bandwidth_gb: 1 };

interface Listed {
  readonly id: string;
  readonly stage: string;
  readonly added: boolean;
  readonly location: string;
}

/** The real program with a state directory, an fs adapter on the command line and a root for paths. */
class Engine {
  readonly directory = realpathSync(mkdtempSync(join(tmpdir(), "adapter-changes-")));
  readonly root = join(this.directory, "root");
  readonly state = join(this.directory, "state");
  ports: [number, number] = [0, 0];
  out = "";
  process: ChildProcess | null = null;

  async start(...more: string[]): Promise<void> {
    mkdirSync(this.root, { recursive: true });
    if (this.ports[0] === 0) this.ports = [await freePort(), await freePort()];
    const [port, httpPort] = this.ports.map(String) as [string, string];
    const fs = JSON.stringify({ type: "fs", base_path: join(this.directory, "l2") });
    const words = ["serve", "--port", port, "--http-port", httpPort, "--l1-size-gb", "0.01"];
    words.push("--shm-name", `adapter_changes_${port}`, "--state-dir", this.state, "--l2-adapter", fs);
    const child = spawn(process.execPath, [BIN, ...words, "--adapter-path-root", this.root, ...more], {
      env: ENV,
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.process = child;
    this.out = "";
    await new Promise<void>((resolve, reject) => {
      const read = (part: Buffer): void => {
        this.out += part.toString();
        if (this.out.includes("ready in")) resolve();
      };
      child.stdout.on("data", read);
      child.stderr.on("data", read);
      child.once("exit", () => reject(new Error(`the engine ended: ${this.out}`)));
    });
  }

  async end(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const child = this.process;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await ended;
  }

  get url(): string {
    return `http://127.0.0.1:${this.ports[1]}`;
  }

  async ask(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = { "content-type": "application/json" },
  ): Promise<{ status: number; json: Record<string, unknown> }> {
    const response = await fetch(this.url + path, {
      method,
      headers,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: response.status, json: (await response.json()) as Record<string, unknown> };
  }

  /** Id and stage of each adapter, a `+` behind those that were added. */
  async set(): Promise<string[]> {
    const { json } = await this.ask("GET", "/adapters");
    return (json["adapters"] as Listed[]).map(({ id, stage, added }) => `${id}${added ? "+" : ""} ${stage}`);
  }

  async cli(...words: string[]): Promise<{ code: number | null; out: string; err: string }> {
    const child = spawn(process.execPath, [BIN, ...words, "--url", this.url], { env: ENV });
    let [out, err] = ["", ""];
    child.stdout.on("data", (part: Buffer) => (out += part.toString()));
    child.stderr.on("data", (part: Buffer) => (err += part.toString()));
    const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
    return { code, out, err };
  }
}

let engine: Engine;
beforeEach(async () => {
  engine = new Engine();
  await engine.start();
});
afterEach(async () => {
  await engine.end("SIGKILL");
  rmSync(`/dev/shm/lmcache_l1_pool_adapter_changes_${engine.ports[0]}`, { force: true });
  rmSync(engine.directory, { recursive: true, force: true });
});

test("what is added, drained and removed by command holds over SIGKILL and SIGTERM", {
  timeout: 60_000,
}, async () => {
  const path = join(engine.root, "two");
  const added = await engine.cli("adapters", "add", JSON.stringify({ type: "fs", base_path: path }));
  expect(added).toMatchObject({ code: 0, out: `added fs.2: ${path}\n` });
  const json = await engine.cli("adapters", "add", JSON.stringify(MOCK), "--json");
  expect(JSON.parse(json.out)).toEqual({
    id: "mock",
    type: "mock",
    location: "memory of this process",
    status: "added",
  });
  expect((await engine.cli("adapters", "drain", "fs", "--drain-timeout", "5")).out).toMatch(
    /^fs takes no new stores; all its stores ended, 0 stores given up/,
  );
  const wanted = ["fs draining", "fs.2+ active", "mock+ active"];
  expect(await engine.set()).toEqual(wanted);
  expect((await engine.cli("status")).out).toMatch(/L2 fs +healthy, DRAINING: no new stores/);

  await engine.end("SIGKILL");
  await engine.start();
  expect(await engine.set()).toEqual(wanted);
  expect(engine.out).toContain("added 'fs.2'");

  expect((await engine.cli("adapters", "remove", "mock")).out).toMatch(/^mock is removed, its data stays/);
  const removed = await engine.ask("DELETE", "/adapters/fs?drain_timeout=2");
  expect(removed).toMatchObject({ status: 200, json: { id: "fs", status: "removed", drained: true } });
  expect(await engine.set()).toEqual(["fs.2+ active"]);

  await engine.end("SIGTERM");
  await engine.start();
  expect(await engine.set()).toEqual(["fs.2+ active"]);

  await engine.end("SIGTERM");
  await engine.start("--runtime-adapters", "forget");
  expect(await engine.set()).toEqual(["fs active"]);
});

test("what may not be added is refused, with the reason and without a trace", {
  timeout: 30_000,
}, async () => {
  const outside = await engine.cli("adapters", "add", '{"type":"fs","base_path":"/var/tmp/elsewhere"}');
  expect(outside).toMatchObject({ code: 2, out: "" });
  expect(outside.err).toMatch(/lies below none of --adapter-path-root/);
  const secret = await engine.ask("POST", "/adapters", {
    type: "redis",
    host: "localhost",
    password: "hunter2",
  });
  expect(secret.status).toBe(400);
  expect(secret.json["detail"]).toMatch(/use 'password_file'/);
  const dead = await engine.ask("POST", "/adapters", {
    type: "redis",
    host: "127.0.0.1",
    port: await freePort(),
  });
  expect(dead).toMatchObject({ status: 503, json: { code: "BACKEND_UNAVAILABLE" } });
  const strict = createServer((socket) => {
    socket
      .on("data", () => socket.write("-WRONGPASS invalid username-password pair\r\n"))
      .on("error", () => {});
  });
  await new Promise<void>((resolve) => strict.listen(0, "127.0.0.1", resolve));
  const { port } = strict.address() as AddressInfo;
  writeFileSync(join(engine.root, "password"), "wrong");
  const wrong = { type: "redis", host: "127.0.0.1", port, password_file: join(engine.root, "password") };
  const denied = await engine.cli("adapters", "add", JSON.stringify(wrong));
  expect(denied).toMatchObject({
    code: 1,
    err: expect.stringMatching(/^error BACKEND_REFUSED: .*WRONGPASS/),
  });
  strict.close();
  const twice = await engine.ask("POST", "/adapters", {
    ...MOCK,
    type: "fs",
    id: "fs",
    base_path: engine.root,
  });
  expect(twice.status).toBe(400);
  const sameId = await engine.ask("POST", "/adapters", { type: "fs", id: "fs", base_path: engine.root });
  expect(sameId).toMatchObject({
    status: 409,
    json: { detail: expect.stringMatching(/there is an adapter 'fs'/) },
  });
  expect((await engine.ask("POST", "/adapters", MOCK, {})).status).toBe(415);
  const headers = { "content-type": "application/json", origin: "http://elsewhere.example" };
  expect((await engine.ask("POST", "/adapters", MOCK, headers)).status).toBe(403);
  expect((await engine.ask("DELETE", "/adapters/none")).status).toBe(404);
  expect((await engine.ask("DELETE", "/adapters/fs?drain_timeout=x")).status).toBe(422);
  expect((await engine.ask("POST", "/adapters", [])).status).toBe(422);
  expect(await engine.set()).toEqual(["fs active"]);
  expect(readdirSync(join(engine.state, "adapters"))).toEqual([".made-by-engine", "fs"]);
  await engine.end("SIGTERM");
  const journal = join(engine.state, "journal");
  const bytes = readdirSync(journal).map((name) => readFileSync(join(journal, name), "latin1"));
  for (const text of ["hunter2", '"type"', "max_size_gb"])
    expect(bytes.some((file) => file.includes(text))).toBe(false);
});

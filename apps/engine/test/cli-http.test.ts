import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test } from "vitest";
import { rpcUrlOf } from "../src/cli/ping.ts";

const BIN = fileURLToPath(new URL("../bin/cache-engine.js", import.meta.url));

interface Asked {
  readonly line: string;
  readonly body: string;
  readonly headers: IncomingMessage["headers"];
}

let server: Server | null = null;
afterEach(async () => {
  const running = server;
  server = null;
  if (running === null) return;
  running.closeAllConnections();
  await new Promise((resolve) => running.close(resolve));
});

/** A server that answers from a table of `METHOD path`; what it was asked is in the list. */
async function serve(answer: (line: string) => [number, unknown]): Promise<{ url: string; asked: Asked[] }> {
  const asked: Asked[] = [];
  const listening = createServer((request, response) => {
    let body = "";
    request.on("data", (part: Buffer) => (body += part.toString()));
    request.on("end", () => {
      const line = `${request.method ?? ""} ${request.url ?? ""}`;
      asked.push({ line, body, headers: request.headers });
      const [status, value] = answer(line);
      response.writeHead(status, { "content-type": "application/json" });
      response.end(typeof value === "string" ? value : JSON.stringify(value));
    });
  });
  server = listening;
  await new Promise<void>((resolve) => listening.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${(listening.address() as AddressInfo).port}`, asked };
}

/** Runs the built command; asynchronous, because the server above lives in this process. */
async function cli(...words: string[]): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [BIN, ...words], { env: { ...process.env, NODE_OPTIONS: "" } });
  let [out, err] = ["", ""];
  child.stdout.on("data", (part: Buffer) => (out += part.toString()));
  child.stderr.on("data", (part: Buffer) => (err += part.toString()));
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, out, err };
}

const STATUS = {
  is_healthy: true,
  version: "1.2.3",
  pid: 7,
  uptime_seconds: 200,
  active_sessions: 4,
  non_cuda_context_meta: { "99": { model_name: "m/n", world_size: 2, dtype: "bfloat16", silent_seconds: 3 } },
  storage_manager: {
    l1_manager: {
      memory_total_bytes: 4 * 2 ** 30,
      memory_used_bytes: 2 ** 30,
      memory_usage_ratio: 0.25,
      total_object_count: 12,
    },
    l2_adapters: [
      {
        id: "fs.a",
        is_healthy: false,
        location: "/data",
        current_size_bytes: 2 ** 20,
        max_capacity_bytes: 2 ** 30,
        gate: { breaker: { state: "open" }, stuck: { operations: 2 } },
      },
    ],
    tenants: { alice: { limit_gb: 2, l1_bytes: 1024, l1_objects: 1, l2_bytes: 0 } },
    held_back: { bytes: 4096, tooMuch: true, instances: [{ instance: "99" }] },
    journal: { health: "ok", bytes: 300, segments: 1, directory: "/state/journal" },
  },
  kv_events: { enabled: true, subscribers: 1, log_depth: 5, log_capacity: 10, lost_markers: 2 },
  rpc: { requests: { lookup: 3, ping: 2 }, refusals: { register_kv_cache: 1 }, malformed: 0 },
  http: { connections: 1, answers: { "200": 4, "403": 2 }, refusals: { host: 2 } },
};

test("status says in lines what is there, and as JSON all of it", async () => {
  const { url } = await serve(() => [200, STATUS]);
  const { code, out } = await cli("status", "--url", url);
  expect(code).toBe(0);
  expect(out).toMatch(/^engine +healthy; version 1\.2\.3, pid 7, up 3 min$/m);
  expect(out).toMatch(/^L1 +1 GiB of 4 GiB \(25 %\), 12 objects/m);
  expect(out).toMatch(
    /^L2 fs\.a +UNHEALTHY, \/data, 1 MiB of 1 GiB.*breaker open, 2 operations do not settle/m,
  );
  expect(out).toMatch(/^worker 99 +model m\/n, world size 2, bfloat16, silent 3 s$/m);
  expect(out).toMatch(/^tenant alice +1 KiB in L1 \(1 objects\), 0 bytes in L2, quota 2 GiB$/m);
  expect(out).toMatch(/^held back +4 KiB that workers 99 may still touch; too much/m);
  expect(out).toMatch(/^rpc +4 sessions, 5 requests, 1 refused/m);
  expect(out).toMatch(/^KV events +1 subscribers, 5 of 10 changes kept, 2 times lost$/m);
  expect(out).toMatch(/^http +1 connections, 6 answers, 2 refused \(2 host\)$/m);
  expect(JSON.parse((await cli("status", "--json", "--url", url)).out)).toEqual(STATUS);
});

test("status shows a server that tells little, and ends with 3 for one that is not well", async () => {
  const { url } = await serve(() => [200, { is_healthy: false, unhealthy_reason: "the journal" }]);
  const { code, out } = await cli("status", "--url", url);
  expect(code).toBe(3);
  expect(out).toContain("UNHEALTHY: the journal");
});

test("clear asks for L1, with force and token if told", async () => {
  const directory = mkdtempSync(join(tmpdir(), "cli-http-"));
  const token = join(directory, "token");
  writeFileSync(token, "0123456789abcdef\n");
  try {
    const answer = { status: "ok", cleared: { tier: "l1" } };
    const { url, asked } = await serve(() => [200, answer]);
    expect((await cli("clear", "--url", url)).out).toContain("L1 is cleared; objects that a client");
    expect(asked[0]).toMatchObject({ line: "POST /cache/clear", body: '{"tier":"l1","force":false}' });
    expect(asked[0]?.headers["content-type"]).toBe("application/json");
    const forced = await cli("clear", "--url", url, "--force", "--json", "--token-file", token);
    expect(JSON.parse(forced.out)).toEqual(answer);
    expect(asked[1]?.body).toBe('{"tier":"l1","force":true}');
    expect(asked[1]?.headers.authorization).toBe("Bearer 0123456789abcdef");
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

const entry = (number: number) => ({
  key: {
    chunk_hash_hex: `0${number}`,
    model_name: "m",
    kv_rank: 0x01000100,
    object_group_id: 0,
    cache_salt: "",
  },
  size_bytes: 1024,
});

test("objects follows the pages to the end, and stops at a limit", async () => {
  const { url, asked } = await serve((line) =>
    line.includes("page_token=next")
      ? [200, { adapter: "fs", shared: false, entries: [entry(3)], next_page_token: null }]
      : [200, { adapter: "fs", shared: false, entries: [entry(1), entry(2)], next_page_token: "next" }],
  );
  const all = await cli(
    "objects",
    "--url",
    url,
    "--adapter",
    "fs",
    "--model-name",
    "a b",
    "--page-size",
    "2",
  );
  expect(all.code).toBe(0);
  expect(all.out).toMatch(/^chunk hash +model +kv rank/);
  expect(all.out).toMatch(/^03 +m +0x01000100 +0 +- +1024$/m);
  expect(all.out).toContain("3 objects, 3 KiB in adapter fs\n");
  expect(asked.map(({ line }) => line)).toEqual([
    "GET /cache/objects?tier=l2&page_size=2&adapter=fs&model_name=a+b",
    "GET /cache/objects?tier=l2&page_size=2&adapter=fs&model_name=a+b&page_token=next",
  ]);
  const some = await cli("objects", "--url", url, "--limit", "1");
  expect(some.out).toContain("1 objects, 1 KiB in adapter fs; there are more: raise --limit 1");
  const lines = (await cli("objects", "--url", url, "--json")).out.trim().split("\n");
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([entry(1), entry(2), entry(3)]);
});

test("objects does not ask for one page for ever", async () => {
  const { url } = await serve(() => [200, { adapter: "fs", entries: [entry(1)], next_page_token: "again" }]);
  const { code, err } = await cli("objects", "--url", url);
  expect(code).toBe(1);
  expect(err).toContain("names the same page again: 'again'");
});

test.each([
  [404, { detail: "Not Found" }, 1, "error UNSUPPORTED: the server at", "has no GET /cache/objects"],
  [400, { detail: "no adapter 'x'" }, 2, "error INVALID_ARGUMENT:", "no adapter 'x'"],
  [404, { detail: "no L2 adapter 'x'" }, 2, "error INVALID_ARGUMENT:", "answered 404: no L2 adapter 'x'"],
  [503, { detail: "no L2 adapters configured" }, 1, "error UNSUPPORTED:", "start it with --l2-adapter"],
  [503, { error: "starting" }, 1, "error BACKEND_UNAVAILABLE:", "answered 503: starting"],
  [422, { detail: [{ msg: "too large" }] }, 2, "error INVALID_ARGUMENT:", "too large"],
  [403, { detail: "send a token" }, 1, "error BACKEND_REFUSED:", "send a token"],
  [200, "no JSON", 1, "error BACKEND_UNAVAILABLE:", "answered no JSON"],
  [200, { hello: 1 }, 1, "error BACKEND_UNAVAILABLE:", "no page of objects"],
] as const)("an answer of %i %j is one clear line", async (status, body, exit, ...texts) => {
  const { url } = await serve(() => [status, body]);
  const { code, err } = await cli("objects", "--url", url);
  expect(code).toBe(exit);
  expect(err.trim().split("\n")).toHaveLength(1);
  for (const text of texts) expect(err).toContain(text);
});

test.each([["status"], ["clear"], ["objects"]])("%s ends with 3 where nobody answers", async (command) => {
  const { url } = await serve(() => [200, {}]);
  await new Promise((resolve) => server?.close(resolve));
  server = null;
  const { code, err } = await cli(command, "--url", url);
  expect(code).toBe(3);
  expect(err).toContain(`${url} does not answer`);
});

test.each([
  [["status", "--url", "nowhere"], "--url 'nowhere' is no address"],
  [["status", "--timeout-ms", "0"], "--timeout-ms '0' must be a whole number"],
  [["objects", "--page-size", "5001"], "--page-size '5001' must be a whole number from 1 to 5000"],
  [["clear", "--token-file", "/nowhere/token"], "--token-file /nowhere/token cannot be read"],
  [["ping", "--url", "nowhere"], "--url 'nowhere' is no address"],
  [["ping", "--rpc-url", "nowhere"], "--rpc-url 'nowhere' is no address"],
  [["status", "--port", "5655"], "'status' asks a running engine by its HTTP address: --url http://"],
  [["ping", "--http-port=8085"], "'ping' asks a running engine by its HTTP address: --url http://"],
  [["purge", "--url", "http://127.0.0.1:1"], "'purge' takes the flags of 'serve', e.g. --port or"],
  [["config", "check", "--url", "x"], "'check' takes the flags of 'serve', e.g. --port or"],
  [["status", "--tmeout-ms", "1"], "did you mean '--timeout-ms'?"],
])("%j is refused before anything is sent", async (words, text) => {
  const { code, err } = await cli(...words);
  expect(code).toBe(2);
  expect(err).toContain(text);
});

describe("ping", () => {
  /** A TCP server that speaks ZMQ and answers each message with a fixed one. */
  async function rpc(answer: number): Promise<{ port: number; close: () => void }> {
    const greeting = Buffer.alloc(64);
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting.write("NULL", 12, "latin1");
    const listening = createTcpServer((socket) => {
      socket.on("error", () => undefined);
      socket.write(Buffer.concat([greeting, Buffer.from([0x04, 6, 5]), Buffer.from("READY")]));
      let bytes = 0;
      socket.on("data", (part: Buffer) => {
        bytes += part.length;
        // Greeting, READY, then the call.
        if (bytes > 100) socket.write(Buffer.from([1, 1, 0, 1, 1, 0, 0, 1, answer]));
      });
    });
    await new Promise<void>((resolve) => listening.listen(0, "127.0.0.1", resolve));
    const { port } = listening.address() as AddressInfo;
    return { port, close: () => listening.close() };
  }

  const engine = (port: number, status = 200) =>
    serve((line) =>
      line === "GET /healthcheck"
        ? [status, status === 200 ? { status: "healthy" } : { status: "unhealthy", reason: "starting" }]
        : [status, status === 200 ? { mp: { host: "127.0.0.1", port } } : { error: "starting" }],
    );

  test("asks RPC where the engine says that it listens", async () => {
    const wire = await rpc(0xc3);
    const { url } = await engine(wire.port);
    const { code, out } = await cli("ping", "--url", url);
    expect(out).toMatch(new RegExp(`^http ${url}  healthy`, "m"));
    expect(out).toMatch(new RegExp(`^rpc  tcp://127\\.0\\.0\\.1:${wire.port}  healthy`, "m"));
    expect(code).toBe(0);
    wire.close();
  });

  test("asks RPC alone where only its address is given", async () => {
    const [good, bad] = [await rpc(0xc3), await rpc(0xc2)];
    const well = await cli("ping", "--json", "--rpc-url", `tcp://127.0.0.1:${good.port}`);
    expect(JSON.parse(well.out)).toMatchObject({ ok: true, http: null, rpc: { ok: true } });
    const unwell = await cli("ping", "--rpc-url", `tcp://127.0.0.1:${bad.port}`);
    expect(unwell).toMatchObject({ code: 3, out: expect.stringContaining("answered false") });
    good.close();
    bad.close();
  });

  test("says why it does not ask RPC", async () => {
    const { url } = await engine(1, 503);
    const starting = await cli("ping", "--url", url);
    expect(starting.code).toBe(3);
    expect(starting.out).toContain("HTTP 503: starting");
    expect(starting.out).toMatch(/^rpc +- +not asked: .*--rpc-url$/m);
  });
});

test.each([
  ["127.0.0.1", "http://127.0.0.1:8080", "tcp://127.0.0.1:5655"],
  ["127.0.0.1", "http://localhost:8080", "tcp://127.0.0.1:5655"],
  ["127.0.0.1", "http://node7:8080", "tcp://node7:5655"],
  ["0.0.0.0", "http://node7:8080", "tcp://node7:5655"],
  ["::", "http://[fe80::1]:8080", "tcp://[fe80::1]:5655"],
  ["10.0.0.5", "http://127.0.0.1:8080", "tcp://10.0.0.5:5655"],
])("an engine whose RPC listens on %s and that is asked at %s has it at %s", (host, url, wanted) => {
  expect(rpcUrlOf({ mp: { host, port: 5655 } }, url)).toBe(wanted);
});

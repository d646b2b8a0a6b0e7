import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { EngineView } from "../src/engine-seam.ts";
import { hostAllowed, isLoopbackAddress } from "../src/http/guard.ts";
import { HttpCounts } from "../src/http/http-counts.ts";
import { allRoutes } from "../src/http/routes/more-routes.ts";
import { type HttpServer, startHttpServer } from "../src/http/server.ts";

const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const JSON_TYPE = { "content-type": "application/json" };

let cleared: unknown[];
let healthy: boolean;
let view: EngineView | null;
let server: HttpServer;
let counts: HttpCounts;

async function start(tokenFile: string | null = null): Promise<void> {
  server = await startHttpServer({
    host: "127.0.0.1",
    port: 0,
    allowedHosts: ["cache.example"],
    tokenFile,
    view: () => view,
    log,
    counts,
  });
}

beforeEach(async () => {
  cleared = [];
  healthy = true;
  counts = new HttpCounts();
  const asked: Pick<EngineView, "health" | "status" | "clear"> = {
    health: () => (healthy ? { healthy } : { healthy, reason: "the journal cannot be written" }),
    status: () => ({ is_healthy: healthy, chunk_size: 256 }),
    clear: (request) => {
      cleared.push(request);
      return Promise.resolve();
    },
  };
  // The routes of this test ask for nothing else.
  view = asked as EngineView;
  await start();
});
afterEach(() => server.close());

interface Answer {
  readonly status: number;
  readonly body: unknown;
}

function ask(
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body = "",
  as: "json" | "text" = "json",
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = request(new URL(path, server.address), { method, headers, agent: false }, (response) => {
      let text = "";
      response.on("data", (part: Buffer) => (text += part.toString()));
      response.on("end", () =>
        resolve({
          status: response.statusCode ?? 0,
          body: text === "" || as === "text" ? text : JSON.parse(text),
        }),
      );
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

test("the routes answer in LMCache's shapes", async () => {
  expect(await ask("GET", "/")).toEqual({ status: 200, body: { status: "ok", service: "LMCache HTTP API" } });
  expect(await ask("GET", "/healthcheck?x=1")).toEqual({ status: 200, body: { status: "healthy" } });
  expect(await ask("GET", "/status")).toEqual({ status: 200, body: { is_healthy: true, chunk_size: 256 } });
  expect(await ask("GET", "/nothing")).toEqual({ status: 404, body: { detail: "Not Found" } });
  expect(await ask("GET", "/__proto__")).toEqual({ status: 404, body: { detail: "Not Found" } });
  expect(await ask("DELETE", "/status")).toEqual({ status: 405, body: { detail: "Method Not Allowed" } });
});

test("the healthcheck says why not", async () => {
  healthy = false;
  expect(await ask("GET", "/healthcheck")).toEqual({
    status: 503,
    body: { status: "unhealthy", reason: "the journal cannot be written" },
  });
  view = null;
  expect(await ask("GET", "/healthcheck")).toEqual({
    status: 503,
    body: { status: "unhealthy", reason: "starting" },
  });
  expect((await ask("GET", "/status")).status).toBe(503);
  expect((await ask("POST", "/cache/clear", JSON_TYPE)).status).toBe(503);
});

test("clear: with and without a body, and every wrong one", async () => {
  expect(await ask("POST", "/cache/clear", JSON_TYPE)).toEqual({
    status: 200,
    body: { status: "ok", cleared: { tier: "l1" } },
  });
  expect((await ask("POST", "/cache/clear", JSON_TYPE, '{"tier":"l1","force":true}')).status).toBe(200);
  expect(cleared).toEqual([
    { tier: "l1", force: false },
    { tier: "l1", force: true },
  ]);
  expect(await ask("POST", "/cache/clear", JSON_TYPE, '{"tier":"l2"}')).toEqual({
    status: 400,
    body: { detail: "tier 'l2' not supported; only 'l1'" },
  });
  for (const body of ['{"tier":"l3"}', '{"force":"yes"}', "[]", "{"]) {
    expect(await ask("POST", "/cache/clear", JSON_TYPE, body)).toMatchObject({
      status: 422,
      body: { detail: [{}] },
    });
  }
  expect((await ask("POST", "/cache/clear", JSON_TYPE, " ".repeat(70_000))).status).toBe(413);
  expect(cleared).toHaveLength(2);
});

test.each([
  ["a foreign Host", { ...JSON_TYPE, host: "evil.example" }, 403],
  ["a Host that only begins like loopback", { ...JSON_TYPE, host: "127.0.0.1.evil.example" }, 403],
  ["a foreign Origin", { ...JSON_TYPE, origin: "http://evil.example" }, 403],
  ["the origin null", { ...JSON_TYPE, origin: "null" }, 403],
  ["a cross-site fetch", { ...JSON_TYPE, "sec-fetch-site": "cross-site" }, 403],
  ["no content type", {}, 415],
  ["a form", { "content-type": "application/x-www-form-urlencoded" }, 415],
  ["a content type that only begins like JSON", { "content-type": "application/jsonp" }, 415],
])("a change with %s is refused and changes nothing", async (_what, headers, status) => {
  const answer = await ask("POST", "/cache/clear", headers, "{}");
  expect(answer).toMatchObject({ status, body: { detail: expect.any(String) } });
  expect(cleared).toEqual([]);
});

test("a change with a configured Host or its own Origin is accepted", async () => {
  expect((await ask("POST", "/cache/clear", { ...JSON_TYPE, host: "cache.example:80" })).status).toBe(200);
  const own = new URL(server.address).host;
  expect(
    (await ask("POST", "/cache/clear", { ...JSON_TYPE, host: own, origin: `http://${own}` })).status,
  ).toBe(200);
});

test("with a token file changes need the token, reads do not", async () => {
  await server.close();
  const directory = mkdtempSync(join(tmpdir(), "token-"));
  const file = join(directory, "token");
  try {
    writeFileSync(file, "0123456789abcdef\n");
    await start(file);
    expect((await ask("GET", "/status")).status).toBe(200);
    expect((await ask("POST", "/cache/clear", JSON_TYPE)).status).toBe(401);
    expect((await ask("POST", "/cache/clear", { ...JSON_TYPE, authorization: "Bearer wrong" })).status).toBe(
      401,
    );
    expect(
      (await ask("POST", "/cache/clear", { ...JSON_TYPE, authorization: "Bearer 0123456789abcdef" })).status,
    ).toBe(200);
    writeFileSync(file, "short");
    await expect(start(file)).rejects.toMatchObject({ code: "INVALID_CONFIG" });
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("an address in use is a typed error that names the flag", async () => {
  const port = Number(new URL(server.address).port);
  const options = { host: "127.0.0.1", port, allowedHosts: [], tokenFile: null, view: () => view, log };
  await expect(startHttpServer(options)).rejects.toMatchObject({
    code: "ADDRESS_IN_USE",
    message: expect.stringContaining("--http-port"),
  });
});

test("which hosts and addresses are loopback", () => {
  for (const host of ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080", "[::1]"]) {
    expect(hostAllowed(host, []), host).toBe(true);
  }
  for (const host of [undefined, "", "10.0.0.1", "localhost.evil", "[::2]", "127.evil"])
    expect(hostAllowed(host, [])).toBe(false);
  expect(isLoopbackAddress("::ffff:127.0.0.1")).toBe(true);
  expect(isLoopbackAddress("::ffff:10.0.0.1")).toBe(false);
});

test("a level is set only by one who may change something", async () => {
  const path = "/loglevel?logger_name=any&level=debug";
  expect(await ask("GET", "/loglevel", {}, "", "text")).toMatchObject({ status: 200 });
  expect((await ask("GET", path, { host: "evil.example" })).status).toBe(403);
  expect(await ask("GET", path, {}, "", "text")).toMatchObject({ status: 200 });
});

test("values of other programs' environment variables and secrets are not shown", async () => {
  process.env["CACHE_ENGINE_TEST_PASSWORD"] = "hunter2";
  process.env["SOMEBODY_ELSES"] = "private";
  try {
    const { body } = await ask("GET", "/env", {}, "", "text");
    expect(JSON.parse(String(body))).toMatchObject({
      CACHE_ENGINE_TEST_PASSWORD: "***",
      SOMEBODY_ELSES: "***",
    });
  } finally {
    delete process.env["CACHE_ENGINE_TEST_PASSWORD"];
    delete process.env["SOMEBODY_ELSES"];
  }
});

test("the OpenAPI document describes every route", async () => {
  const { body } = await ask("GET", "/openapi.json");
  const { paths } = body as { paths: Record<string, Record<string, { responses: object }>> };
  const given = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
  expect(given.toSorted()).toEqual(allRoutes.map(({ method, path }) => `${method} ${path}`).toSorted());
  expect(paths["/quota/{cache_salt}"]?.["put"]).toMatchObject({
    parameters: [{ name: "cache_salt", in: "path" }],
    requestBody: { content: { "application/json": { schema: { required: ["limit_gb"] } } } },
    security: [{}, { token: [] }],
  });
});

test("a large body is taken only where many keys or tokens may come", async () => {
  const long = JSON.stringify({ keys: [], padding: "x".repeat(100_000) });
  expect((await ask("PUT", "/quota/a", JSON_TYPE, long)).status).toBe(413);
  view = { ...view, adapters: () => [] } as unknown as EngineView;
  expect((await ask("POST", "/cache/prefetches", JSON_TYPE, long)).status).toBe(422);
});

/** What a server sends to these bytes until it closes. */
function raw(bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(server.address).port), "127.0.0.1", () => socket.write(bytes));
    let text = "";
    socket.on("data", (part: Buffer) => (text += part.toString()));
    socket.on("close", () => resolve(text));
    socket.on("error", reject);
  });
}

test("every refused request is counted by its reason, and answered", async () => {
  const json = { "content-type": "application/json" };
  expect((await ask("POST", "/cache/clear", { ...json, host: "evil.example" }, "{}")).status).toBe(403);
  expect((await ask("POST", "/cache/clear", { ...json, origin: "http://evil.example" }, "{}")).status).toBe(
    403,
  );
  expect((await ask("POST", "/cache/clear", { ...json, "sec-fetch-site": "cross-site" }, "{}")).status).toBe(
    403,
  );
  expect((await ask("POST", "/cache/clear", { "content-type": "text/plain" }, "{}")).status).toBe(415);
  expect((await ask("POST", "/cache/clear", json, " ".repeat(70_000))).status).toBe(413);
  expect(await raw("NONSENSE\r\n\r\n")).toMatch(/^HTTP\/1\.1 400 /);
  expect(await raw(`GET / HTTP/1.1\r\nhost: x\r\nlong: ${"x".repeat(40_000)}\r\n\r\n`)).toMatch(
    /^HTTP\/1\.1 431 /,
  );
  expect((await ask("GET", "/healthcheck")).status).toBe(200);
  expect(counts.figures()).toMatchObject({
    answers: { 200: 1, 403: 3, 413: 1, 415: 1 },
    refusals: { host: 1, origin: 2, content_type: 1, body: 1, malformed: 2 },
  });
  expect(cleared).toEqual([]);
});

test("a client that is refused and does not close its side keeps no connection", async () => {
  const port = Number(new URL(server.address).port);
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true }, () =>
    socket.write("NONSENSE\r\n\r\n"),
  );
  socket.on("error", () => undefined);
  socket.resume();
  await once(socket, "end");
  await vi.waitFor(() => expect(counts.figures()).toMatchObject({ connections: 0 }), 5_000);
  socket.destroy();
});

test("a body that is nested deeply is refused: it could not be told in a reply", async () => {
  const nested = (levels: number) => `{"tier":${'{"a":'.repeat(levels)}1${"}".repeat(levels)}}`;
  for (const levels of [64, 9_000]) {
    expect(await ask("POST", "/cache/clear", JSON_TYPE, nested(levels))).toMatchObject({
      status: 422,
      body: { detail: [{ type: "json_invalid", msg: "JSON is nested deeper than 64 levels" }] },
    });
  }
  expect(await ask("POST", "/cache/clear", JSON_TYPE, nested(3))).toMatchObject({
    status: 422,
    body: { detail: [{ type: "enum" }] },
  });
  expect(cleared).toEqual([]);
});

test("a reply that cannot be written ends the connection", async () => {
  view = { ...view, status: () => ({ journal_position: 1n }) } as unknown as EngineView;
  await expect(ask("GET", "/status")).rejects.toThrow(/hang up|ECONNRESET/);
});

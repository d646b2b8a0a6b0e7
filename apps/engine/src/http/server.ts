// node:http and not Fastify: for these routes Fastify costs 100 ms and 18 MB of the start (measured on Node 20).
import { type AdapterLog, CacheError, messageOf } from "@cache/contracts";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { EngineView } from "../engine-seam.ts";
import { refuseChange } from "./guard.ts";

/** Longest request body, in bytes. */
const BODY_BYTES_MAX = 64 * 1024;
/** Time for a request to arrive, in milliseconds. */
const REQUEST_TIMEOUT_MS = 10_000;
const CONNECTIONS_MAX = 256;

/** Where and for whom to serve. */
export interface HttpServerOptions {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  /** See {@link refuseChange}. */
  readonly allowedHosts: readonly string[];
  readonly tokenFile: string | null;
  /** The engine; null while it starts: the healthcheck answers 503. */
  readonly view: () => EngineView | null;
  readonly log: AdapterLog;
}

/** A listening server. */
export interface HttpServer {
  /** E.g. `http://127.0.0.1:8080`. */
  readonly address: string;
  /** Refuses new connections and ends the open ones. Idempotent. */
  close(): Promise<void>;
}

interface Reply {
  readonly status: number;
  readonly body: unknown;
}

interface Route {
  readonly changes: boolean;
  readonly handle: (view: EngineView | null, body: string) => Reply | Promise<Reply>;
}

const STARTING: Reply = { status: 503, body: { status: "unhealthy", reason: "starting" } };

const ROUTES: Readonly<Record<string, Readonly<Record<string, Route>>>> = {
  "/": {
    GET: {
      changes: false,
      handle: () => ({ status: 200, body: { status: "ok", service: "LMCache HTTP API" } }),
    },
  },
  "/healthcheck": { GET: { changes: false, handle: healthcheck } },
  "/status": {
    GET: {
      changes: false,
      handle: (view) =>
        view === null ? { status: 503, body: { error: "starting" } } : { status: 200, body: view.status() },
    },
  },
  "/cache/clear": { POST: { changes: true, handle: clear } },
};

/**
 * Serves LMCache's management routes that the engine has.
 *
 * @throws CacheError `ADDRESS_IN_USE` if the address cannot be bound, `INVALID_CONFIG` for the token file.
 */
export async function startHttpServer(options: HttpServerOptions): Promise<HttpServer> {
  const guard = { allowedHosts: options.allowedHosts, token: readToken(options.tokenFile) };
  const server = createServer((request, response) => {
    answer(request, options.view, guard)
      .catch((error: unknown): Reply => {
        options.log.error("an HTTP request failed", { path: request.url, error: messageOf(error) });
        return { status: 500, body: { detail: "Internal Server Error" } };
      })
      .then((reply) => send(request, response, reply))
      .catch((error: unknown) =>
        options.log.warn("an HTTP reply could not be sent", { error: messageOf(error) }),
      );
  });
  server.headersTimeout = REQUEST_TIMEOUT_MS;
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.maxConnections = CONNECTIONS_MAX;
  await listen(server, options);
  const { address, family, port } = server.address() as AddressInfo;
  return {
    address: `http://${family === "IPv6" ? `[${address}]` : address}:${port}`,
    close: () => close(server),
  };
}

async function answer(
  request: IncomingMessage,
  view: () => EngineView | null,
  guard: Parameters<typeof refuseChange>[1],
): Promise<Reply> {
  const path = (request.url ?? "/").split("?", 1)[0] ?? "/";
  const methods = Object.hasOwn(ROUTES, path) ? ROUTES[path] : undefined;
  if (methods === undefined) return { status: 404, body: { detail: "Not Found" } };
  const method = request.method === "HEAD" ? "GET" : (request.method ?? "");
  const route = Object.hasOwn(methods, method) ? methods[method] : undefined;
  if (route === undefined) return { status: 405, body: { detail: "Method Not Allowed" } };
  if (route.changes) {
    const refusal = refuseChange(request, guard);
    if (refusal !== null) return { status: refusal.status, body: { detail: refusal.detail } };
  }
  const body = await readBody(request);
  if (body === null)
    return { status: 413, body: { detail: `the body is longer than ${BODY_BYTES_MAX} bytes` } };
  return await route.handle(view(), body);
}

function healthcheck(view: EngineView | null): Reply {
  if (view === null) return STARTING;
  const health = view.health();
  return health.healthy
    ? { status: 200, body: { status: "healthy" } }
    : { status: 503, body: { status: "unhealthy", reason: health.reason ?? "unknown" } };
}

async function clear(view: EngineView | null, body: string): Promise<Reply> {
  let fields: unknown = {};
  try {
    if (body.trim() !== "") fields = JSON.parse(body);
  } catch {
    return invalid("json_invalid", ["body"], "JSON decode error");
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    return invalid("model_attributes_type", ["body"], "Input should be an object");
  }
  const { tier = "l1", force = false } = fields as Record<string, unknown>;
  if (tier === "l2") return { status: 400, body: { detail: "tier 'l2' not supported; only 'l1'" } };
  if (tier !== "l1") return invalid("literal_error", ["body", "tier"], "Input should be 'l1' or 'l2'");
  if (typeof force !== "boolean")
    return invalid("bool_type", ["body", "force"], "Input should be a valid boolean");
  if (view === null) return { status: 503, body: { detail: "starting" } };
  await view.clear({ tier, force });
  return { status: 200, body: { status: "ok", cleared: { tier } } };
}

/** A validation error in the shape that LMCache's clients know. */
function invalid(type: string, loc: readonly string[], msg: string): Reply {
  return { status: 422, body: { detail: [{ type, loc, msg }] } };
}

async function readBody(request: IncomingMessage): Promise<string | null> {
  if (Number(request.headers["content-length"] ?? 0) > BODY_BYTES_MAX) return null;
  const parts: Buffer[] = [];
  let length = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    length += part.length;
    if (length > BODY_BYTES_MAX) return null;
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

function send(request: IncomingMessage, response: ServerResponse, reply: Reply): void {
  const text = JSON.stringify(reply.body);
  response.statusCode = reply.status;
  response.setHeader("content-type", "application/json");
  response.setHeader("content-length", Buffer.byteLength(text));
  response.setHeader("x-content-type-options", "nosniff");
  // What was not read would be taken for the next request.
  if (!request.complete) response.setHeader("connection", "close");
  response.end(request.method === "HEAD" ? undefined : text);
}

function readToken(file: string | null): string | null {
  if (file === null) return null;
  let token: string;
  try {
    token = readFileSync(file, "utf8").trim();
  } catch (error) {
    throw new CacheError("INVALID_CONFIG", `--http-token-file ${file} cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (token.length >= 16) return token;
  throw new CacheError(
    "INVALID_CONFIG",
    `--http-token-file ${file}: the token must have at least 16 characters`,
  );
}

async function listen(server: Server, { host, port }: { host: string; port: number }): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const text = `HTTP server: ${host}:${port} cannot be bound: ${error.message}; choose another --http-port or --http-host`;
      reject(new CacheError("ADDRESS_IN_USE", text, { cause: error }));
    });
    server.listen({ host, port }, resolve);
  });
}

async function close(server: Server): Promise<void> {
  if (!server.listening) return;
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

// node:http and not Fastify: for these routes Fastify costs 100 ms and 18 MB of the start (measured on Node 20).
import { CacheError, type CacheErrorCode, isCacheError, messageOf } from "@cache/contracts";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { EngineView } from "../engine-seam.ts";
import { readBody } from "./body.ts";
import { refuseChange } from "./guard.ts";
import { HttpCounts } from "./http-counts.ts";
import { json, type LeveledLog, matchPath, type Reply, type Route } from "./route.ts";
import { firstRoutes } from "./routes/first-routes.ts";

/** Longest request body, in bytes, where a route says nothing else. */
const BODY_BYTES_MAX = 64 * 1024;
/** Time for a request to arrive, in milliseconds. */
const REQUEST_TIMEOUT_MS = 10_000;
const CONNECTIONS_MAX = 256;
/** How often late requests are looked for, in milliseconds; Node's default would let them hold all connections for 30 s more. */
const LATE_CHECK_MS = 1000;
/** From an answer that ends a connection until it is closed, in milliseconds. */
const LINGER_MS = 1000;

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
  /** Its level can be asked and set at `/loglevel`, where it has one. */
  readonly log: LeveledLog;
  /** Where to count; the engine shows it in `/status` and `/metrics`. */
  readonly counts?: HttpCounts;
}

/** A listening server. */
export interface HttpServer {
  /** E.g. `http://127.0.0.1:8080`. */
  readonly address: string;
  /** Refuses new connections and ends the open ones. Idempotent. */
  close(): Promise<void>;
}

interface Found {
  readonly route: Route;
  readonly params: Readonly<Record<string, string>>;
}

/** Status of an error that a route did not turn into a reply itself. */
const STATUS_BY_CODE: Readonly<Partial<Record<CacheErrorCode, number>>> = {
  INVALID_ARGUMENT: 400,
  INVALID_KEY: 400,
  INVALID_CONFIG: 400,
  ADAPTER_TYPE_UNKNOWN: 400,
  ADAPTER_TYPE_CONFLICT: 400,
  ADAPTER_API_INCOMPATIBLE: 400,
  ADAPTER_LOAD_FAILED: 400,
  ADAPTER_NOT_REGISTERED: 400,
  CONFLICT: 409,
  UNSUPPORTED: 503,
  ADAPTER_CLOSED: 503,
  BACKEND_UNAVAILABLE: 503,
  BACKEND_REFUSED: 503,
  BACKEND_FULL: 503,
  ABORTED: 503,
  BREAKER_OPEN: 503,
  LIMIT_REACHED: 503,
  DEGRADED: 503,
};

/**
 * Serves LMCache's management API and `/openapi.json`.
 *
 * @throws CacheError `ADDRESS_IN_USE` if another process has the address, `INVALID_CONFIG` for one that cannot be bound
 *   otherwise and for the token file.
 */
export async function startHttpServer(options: HttpServerOptions): Promise<HttpServer> {
  const counts = options.counts ?? new HttpCounts();
  const guard = { allowedHosts: options.allowedHosts, token: readToken(options.tokenFile) };
  const server = createServer({ connectionsCheckingInterval: LATE_CHECK_MS }, (request, response) => {
    answer(request, { ...options, counts }, guard)
      .catch((error: unknown) => failed(error, request, options.log))
      .then((reply) => {
        counts.answered(reply.status);
        send(request, response, reply);
      })
      .catch((error: unknown) => {
        options.log.warn("an HTTP reply could not be sent", { error: messageOf(error) });
        // Never leave a client waiting for what will not come.
        response.destroy();
      });
  });
  server.headersTimeout = REQUEST_TIMEOUT_MS;
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.maxConnections = CONNECTIONS_MAX;
  watch(server, counts);
  await listen(server, options);
  const { address, family, port } = server.address() as AddressInfo;
  return {
    address: `http://${family === "IPv6" ? `[${address}]` : address}:${port}`,
    close: () => close(server),
  };
}

/** Counts what comes to no route, and answers it as Node does. */
function watch(server: Server, counts: HttpCounts): void {
  server.on("connection", (socket) => {
    counts.connections++;
    socket.once("close", () => counts.connections--);
  });
  server.on("drop", () => counts.refused("connections"));
  server.on("clientError", (error: NodeJS.ErrnoException, socket) => {
    if (error.code === "ECONNRESET" || !socket.writable) {
      socket.destroy();
      return;
    }
    const late = error.code === "ERR_HTTP_REQUEST_TIMEOUT";
    counts.refused(late ? "timeout" : "malformed");
    const long = error.code === "HPE_HEADER_OVERFLOW";
    const status = late
      ? "408 Request Timeout"
      : long
        ? "431 Request Header Fields Too Large"
        : "400 Bad Request";
    socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\n\r\n`);
    // A client that does not close its side would keep the place of another; at once, it might not see the answer.
    setTimeout(() => socket.destroy(), LINGER_MS).unref();
  });
}

async function answer(
  request: IncomingMessage,
  { view, log, counts }: HttpServerOptions & { readonly counts: HttpCounts },
  guard: Parameters<typeof refuseChange>[1],
): Promise<Reply> {
  const [path = "/", search = ""] = splitOnce(request.url ?? "/", "?");
  const method = request.method === "HEAD" ? "GET" : (request.method ?? "");
  const found = await find(path, method);
  if (typeof found === "number")
    return json(found, { detail: found === 404 ? "Not Found" : "Method Not Allowed" });
  const { route, params } = found;
  const query = new URLSearchParams(search);
  if (route.changes === true || (typeof route.changes === "function" && route.changes(query))) {
    const refusal = refuseChange(request, guard);
    if (refusal !== null) {
      counts.refused(refusal.reason);
      return json(refusal.status, { detail: refusal.detail });
    }
  }
  const bytesMax = route.bodyBytesMax ?? BODY_BYTES_MAX;
  const body = await readBody(request, bytesMax);
  if (body === null) {
    counts.refused("body");
    return json(413, { detail: `the body is longer than ${bytesMax} bytes` });
  }
  if (route.starting === null) return await route.handle({ view: view(), log }, { params, query, body });
  const engine = view();
  if (engine === null) return json(503, { [route.starting]: "starting" });
  return await route.handle({ view: engine, log }, { params, query, body });
}

/** The route of a path and method; 404 for an unknown path, 405 for a method that it has not. */
async function find(path: string, method: string): Promise<Found | 404 | 405> {
  const first = match(firstRoutes, path, method);
  if (first !== 404) return first;
  const { moreRoutes } = await import("./routes/more-routes.ts");
  return match(moreRoutes, path, method);
}

function match(routes: readonly Route[], path: string, method: string): Found | 404 | 405 {
  let known = false;
  for (const route of routes) {
    const params = matchPath(route.path, path);
    if (params === null) continue;
    if (route.method === method) return { route, params };
    known = true;
  }
  return known ? 405 : 404;
}

function failed(error: unknown, request: IncomingMessage, log: LeveledLog): Reply {
  const status = isCacheError(error) ? STATUS_BY_CODE[error.code] : undefined;
  if (isCacheError(error) && status !== undefined)
    return json(status, { detail: messageOf(error), code: error.code });
  log.error("an HTTP request failed", { path: request.url, error: messageOf(error) });
  return json(500, { detail: "Internal Server Error" });
}

function splitOnce(text: string, mark: string): string[] {
  const at = text.indexOf(mark);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function send(request: IncomingMessage, response: ServerResponse, reply: Reply): void {
  const isText = "text" in reply;
  const text = isText ? reply.text : JSON.stringify(reply.body);
  response.statusCode = reply.status;
  const type = isText ? (reply.contentType ?? "text/plain; charset=utf-8") : "application/json";
  response.setHeader("content-type", type);
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
      const isTaken = error.code === "EADDRINUSE";
      const fix = isTaken ? "choose another --http-port or --http-host" : "check --http-host and --http-port";
      const text = `HTTP server: ${host}:${port} cannot be bound: ${error.message}; ${fix}`;
      reject(new CacheError(isTaken ? "ADDRESS_IN_USE" : "INVALID_CONFIG", text, { cause: error }));
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

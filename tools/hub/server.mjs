// A Hugging Face Hub for tests: buckets and the Xet store behind them, in memory, for the unmodified Python
// huggingface_hub (with hf_xet) and @huggingface/hub. Any answer can be replaced, cut short, held back or broken.
import { createServer } from "node:http";
import { Buckets, json, refusal } from "./buckets.mjs";
import { Cas } from "./cas.mjs";
import { FormatError } from "./xet-format.mjs";

const BODY_BYTES_MAX = 128 * 1024 * 1024;

async function readBody(request) {
  const parts = [];
  let length = 0;
  for await (const part of request) {
    length += part.length;
    if (length > BODY_BYTES_MAX) throw new FormatError("the body is too long");
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** What a request is about, for faults and counts. */
function kindOf(method, path) {
  const api = /^\/api\/buckets\/[^/]+\/[^/]+(\/[^/?]*)?/.exec(path);
  if (api !== null) {
    const names = { "/xet-read-token": "read-token", "/xet-write-token": "write-token" };
    if (api[1] !== undefined) return names[api[1]] ?? api[1].slice(1);
    return { POST: "create", DELETE: "remove" }[method] ?? "info";
  }
  if (path.startsWith("/buckets/")) return "resolve";
  const [, name = "unknown"] = /^\/(?:v[12]\/)?([a-z-]+)/.exec(path) ?? [];
  const names = { chunks: "dedup", "xorb-grants": "grant", xorbs: "xorb", shards: "shard" };
  return { ...names, reconstructions: "reconstruction", "xorb-bytes": "xorb-bytes" }[name] ?? "unknown";
}

function casAnswer(cas, { method, path, query, headers, body, origin }) {
  const bytes = /^\/xorb-bytes\/([0-9a-f]{64})$/.exec(path);
  if (bytes !== null && method === "GET") {
    const found = cas.signedBytes(bytes[1], query, headers.range);
    if (found === null) return refusal(403, "AccessDenied", "the signature does not fit");
    const { part, range, total } = found;
    const facts = { "content-range": `bytes ${range.start}-${range.end}/${total}`, "accept-ranges": "bytes" };
    return { status: 206, headers: { "content-type": "application/octet-stream", ...facts }, body: part };
  }
  const writes = method === "POST";
  if (!cas.allows(headers.authorization, writes ? "write" : "read")) {
    return refusal(401, "Unauthorized", "the access token is void");
  }
  const xorb = /^\/v1\/xorbs\/default\/([0-9a-f]{64})$/.exec(path);
  if (xorb !== null && writes) return json(200, { was_inserted: cas.putXorb(xorb[1], body) });
  if (path === "/v1/shards" && writes) {
    cas.putShard(body);
    return json(200, { result: 1 });
  }
  const file = /^\/(v[12])\/reconstructions\/([0-9a-f]{64})$/.exec(path);
  if (file !== null && method === "GET") {
    const answer = cas.reconstruction(file[1], file[2], headers.range, origin);
    if (answer === null) return refusal(404, "NotFound", "no such file");
    return answer === undefined ? refusal(416, "RangeNotSatisfiable", "beyond the file") : json(200, answer);
  }
  return refusal(404, "NotFound", "no such route"); // global dedup, grants, v2 of shards: clients fall back
}

/** Sends an answer, or what a fault makes of it. */
async function send(response, answer, fault) {
  let { status, headers, body } = { ...answer, ...fault?.answer };
  if (fault?.rewrite !== undefined) body = Buffer.from(fault.rewrite(body));
  const sent = fault?.sendBytes === undefined ? body : body.subarray(0, fault.sendBytes);
  response.writeHead(status, { "content-length": String(body.length), ...headers });
  if (fault?.sendBytes === undefined) {
    response.end(body);
    return;
  }
  await new Promise((resolve) => response.write(sent.length > 0 ? sent : Buffer.alloc(0), resolve));
  response.flushHeaders();
  // The body stays incomplete: the connection ends, or nothing more comes.
  if (fault.ending === "reset") response.socket?.resetAndDestroy();
  else if (fault.ending === "end") response.socket?.end();
}

/**
 * Starts the server on a loopback address.
 *
 * @param options.port 0 for any free one
 * @param options.token the only token that is let in; null lets everybody in
 * @param options.pageSize most entries in one page of a listing
 * @param options.tokenSeconds how long Xet tokens are good
 */
export async function startHub({ port = 0, token = null, pageSize = 1000, tokenSeconds = 3600 } = {}) {
  const cas = new Cas();
  const buckets = new Buckets(cas, { pageSize, tokenSeconds });
  const requests = [];
  const held = [];
  const hub = { url: "", port: 0, token, fault: null, hold: null, requests, cas, buckets };

  async function answer(request) {
    const { method, path, headers } = request;
    const open = token === null || headers.authorization === `Bearer ${hub.token}`;
    const api = /^\/api\/buckets\/([^/]+\/[^/]+)(\/.*)?$/.exec(path);
    const resolve = /^\/buckets\/([^/]+\/[^/]+)\/resolve\/(.+)$/.exec(path);
    if ((api !== null || resolve !== null) && !open) {
      return refusal(401, "Unauthorized", "Invalid username or password.");
    }
    if (api !== null) return buckets.api(api[1], api[2] ?? "", request);
    if (resolve !== null && (method === "HEAD" || method === "GET")) {
      return buckets.resolve(resolve[1], decodeURIComponent(resolve[2]), request);
    }
    return casAnswer(cas, request);
  }

  async function handle(incoming, response) {
    const [path, search = ""] = incoming.url.split("?", 2);
    const { method, headers } = incoming;
    const request = {
      method,
      path,
      headers,
      query: new URLSearchParams(search),
      origin: hub.url,
      body: null,
    };
    const kind = kindOf(method, path);
    requests.push({ kind, method, path, headers });
    if (requests.length > 10_000) requests.shift();
    const fault = hub.fault?.({ kind, method, path, headers }) ?? null;
    if (fault?.ending === "reset" && fault.sendBytes === undefined && fault.answer === undefined) {
      incoming.socket.resetAndDestroy();
      return;
    }
    request.body = await readBody(incoming);
    if (hub.hold?.({ kind, method, path, headers }) === true)
      await new Promise((resolve) => held.push(resolve));
    if (fault?.stall === true) return; // until the client, or close, ends the connection
    let result;
    try {
      // What is refused is not done.
      result = fault?.answer?.status >= 400 ? json(fault.answer.status, {}) : await answer(request);
    } catch (error) {
      if (!(error instanceof FormatError || error instanceof URIError)) throw error;
      result = refusal(400, "BadRequest", error.message);
    }
    await send(response, result, fault);
  }

  const server = createServer((incoming, response) => {
    handle(incoming, response).catch((error) => {
      if (!response.headersSent) response.writeHead(500, { "content-type": "text/plain" });
      response.end(String(error));
    });
  });
  server.keepAliveTimeout = 30_000;
  await new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  hub.port = server.address().port;
  hub.url = `http://127.0.0.1:${hub.port}`;
  /** How many requests of a kind came, since the last `requests.length = 0`. */
  hub.count = (kind) => requests.filter((request) => request.kind === kind).length;
  /** Lets go on what was held back. */
  hub.release = () => {
    hub.hold = null;
    for (const goOn of held.splice(0)) goOn();
  };
  /** Forgets buckets, objects, faults and requests. */
  hub.clear = () => {
    buckets.clear();
    cas.clear();
    hub.fault = null;
    requests.length = 0;
  };
  hub.close = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(() => resolve()));
  };
  return hub;
}

import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What a test makes of a request; null: answer as an honest server would. */
export interface Fault {
  readonly status?: number;
  /** Send only so many bytes of an object, and call that the whole. */
  readonly shortenTo?: number;
  /** Wait for this before answering. */
  readonly until?: Promise<unknown>;
}

export const ACCESS_KEY = "AKIDTESTTESTTEST";
export const SECRET_KEY = "s3cr3t/Key+that-stands-nowhere";

/** The part of S3 that the OBJ plugin uses, in memory: buckets, PUT, GET with ranges, HEAD. */
export class S3Server {
  readonly port: number;
  readonly objects = new Map<string, Buffer>();
  readonly requests: string[] = [];
  /** Asked for each request on an object. */
  fault: (method: string, key: string) => Fault | null = () => null;
  readonly #close: () => Promise<void>;

  private constructor(port: number, close: () => Promise<void>) {
    this.port = port;
    this.#close = close;
  }

  static async start(): Promise<S3Server> {
    let server: S3Server | null = null;
    const http = createServer((request, response) => {
      void server?.handle(request, response).catch(() => response.destroy());
    });
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    server = new S3Server((http.address() as AddressInfo).port, async () => {
      http.closeAllConnections();
      await new Promise((resolve) => http.close(resolve));
    });
    return server;
  }

  /** Ends it. */
  stop(): Promise<void> {
    return this.#close();
  }

  /** Parameters of the OBJ plugin for a bucket here. */
  parameters(bucket = "kvcache"): Record<string, string> {
    return {
      access_key: ACCESS_KEY,
      secret_key: SECRET_KEY,
      bucket,
      endpoint_override: `http://127.0.0.1:${this.port}`,
      scheme: "http",
      region: "us-east-1",
      use_virtual_addressing: "false",
      // By default the plugin has a thread for every two processors: one request that hangs would hold up all others.
      num_threads: "8",
    };
  }

  private async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", headers } = request;
    const [bucket = "", ...rest] = decodeURIComponent((request.url ?? "/").split("?")[0] ?? "")
      .slice(1)
      .split("/");
    const key = rest.join("/");
    const body = await read(request);
    this.requests.push(`${method} ${key}`);
    const fault = this.fault(method, key);
    await fault?.until;
    if (!(headers.authorization ?? "").includes(`Credential=${ACCESS_KEY}/`)) {
      return refuse(response, method, 403, "InvalidAccessKeyId");
    }
    if (fault?.status !== undefined) return refuse(response, method, fault.status, "AccessDenied");
    if (bucket !== "kvcache") return refuse(response, method, 404, "NoSuchBucket");
    if (method === "PUT") {
      this.objects.set(key, isChunked(request) ? unchunk(body) : body);
      response.writeHead(200, { etag: etag(body), "content-length": 0 }).end();
      return;
    }
    const object = this.objects.get(key)?.subarray(0, fault?.shortenTo);
    if (object === undefined) return refuse(response, method, 404, "NoSuchKey");
    if (method === "HEAD") {
      response.writeHead(200, { etag: etag(object), "content-length": object.length }).end();
      return;
    }
    const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? "") ?? [];
    if (from === undefined) {
      response.writeHead(200, { etag: etag(object), "content-length": object.length }).end(object);
      return;
    }
    if (Number(from) >= object.length) return refuse(response, method, 416, "InvalidRange");
    const part = object.subarray(Number(from), to === "" || to === undefined ? undefined : Number(to) + 1);
    const range = `bytes ${from}-${Number(from) + part.length - 1}/${object.length}`;
    response
      .writeHead(206, { etag: etag(object), "content-range": range, "content-length": part.length })
      .end(part);
  }
}

function etag(bytes: Buffer): string {
  return `"${createHash("md5").update(bytes).digest("hex")}"`;
}

async function read(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

function isChunked({ headers }: IncomingMessage): boolean {
  const sha = String(headers["x-amz-content-sha256"] ?? "");
  return sha.startsWith("STREAMING-") || (headers["content-encoding"] ?? "").includes("aws-chunked");
}

/** AWS's own chunks inside the body: `LENGTH[;…]\r\nBYTES\r\n`, the last of length 0 with trailers behind it. */
function unchunk(body: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < body.length; ) {
    const end = body.indexOf("\r\n", at);
    const length = Number.parseInt(body.toString("latin1", at, end), 16);
    if (!(length > 0)) break;
    parts.push(body.subarray(end + 2, end + 2 + length));
    at = end + 2 + length + 2;
  }
  return Buffer.concat(parts);
}

function refuse(response: ServerResponse, method: string, status: number, code: string): void {
  const xml = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`;
  const headers = { "content-type": "application/xml", "content-length": Buffer.byteLength(xml) };
  response.writeHead(status, headers).end(method === "HEAD" ? undefined : xml);
}

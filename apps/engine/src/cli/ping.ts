import { CacheError, messageOf } from "@cache/contracts";
import type { Command } from "commander";
import { type HttpTarget, httpTarget, requestJson } from "./http-client.ts";
import { EXIT, say } from "./output.ts";
import { rpcPing } from "./rpc-ping.ts";

interface PingResult {
  readonly ok: boolean;
  /** Null where the address is not known. */
  readonly url: string | null;
  readonly milliseconds: number;
  readonly detail: string;
}

/**
 * `cache-engine ping`: the HTTP healthcheck, and an RPC ping where the engine says that its RPC listens. `--rpc-url`
 * names another address for that; alone it is the only one asked. Exit code 3 if what was asked is not good.
 */
export async function ping(command: Command): Promise<void> {
  const { rpcUrl, json } = command.opts<{ rpcUrl?: string; json?: true }>();
  const target = httpTarget(command);
  if (rpcUrl !== undefined && !/^(?:tcp:\/\/)?[^/]+:\d{1,5}$/.test(rpcUrl)) {
    throw new CacheError("INVALID_ARGUMENT", `--rpc-url '${rpcUrl}' is no address like tcp://127.0.0.1:5555`);
  }
  const rpcAlone = rpcUrl !== undefined && command.getOptionValueSource("url") === "default";
  const http = rpcAlone ? null : await timed(target.url, () => healthcheck(target));
  const rpc = await pingRpc(target, rpcUrl, http?.ok ?? true);
  const ok = (http?.ok ?? true) && rpc.ok;
  if (json === true) say(JSON.stringify({ ok, http, rpc }));
  else {
    if (http !== null) say(line("http", http));
    say(line("rpc", rpc));
  }
  if (!ok) process.exitCode = EXIT.unreachable;
}

async function pingRpc(target: HttpTarget, given: string | undefined, answers: boolean): Promise<PingResult> {
  const ask = (url: string) =>
    timed(url, async () => ((await rpcPing(url, target.timeoutMs)) ? "healthy" : "answered false"));
  if (given !== undefined) return ask(given);
  const unknown = (why: string) => ({ ok: false, url: null, milliseconds: 0, detail: `not asked: ${why}` });
  try {
    return await ask(rpcUrlOf(await requestJson(target, "GET", "/config"), target.url));
  } catch (error) {
    const why = answers ? messageOf(error) : "HTTP tells its address, and does not answer";
    return unknown(`${why}; or name it with --rpc-url`);
  }
}

const LOOPBACK = /^(?:127\.|localhost$|::1$)/;
const ANYWHERE = new Set(["", "*", "0.0.0.0", "::"]);

/** Where an engine's RPC listens, as seen from here: on the host that was asked, unless it names one of its own. */
export function rpcUrlOf(config: unknown, httpUrl: string): string {
  const { host, port } = (config as { mp?: { host?: unknown; port?: unknown } } | null)?.mp ?? {};
  if (typeof host !== "string" || typeof port !== "number") {
    throw new CacheError("BACKEND_UNAVAILABLE", `${httpUrl}/config does not tell the RPC address`);
  }
  const asked = new URL(httpUrl).hostname.replace(/^\[(.*)\]$/, "$1");
  const elsewhere = LOOPBACK.test(host) && !LOOPBACK.test(asked);
  const name = elsewhere || ANYWHERE.has(host) ? asked : host;
  return `tcp://${name.includes(":") ? `[${name}]` : name}:${port}`;
}

async function timed(url: string, ask: () => Promise<string>): Promise<PingResult> {
  const start = performance.now();
  let detail: string;
  try {
    detail = await ask();
  } catch (error) {
    const text = messageOf(error);
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : "";
    detail = text.includes(cause) ? text : `${text}: ${cause}`;
  }
  const milliseconds = Number((performance.now() - start).toFixed(1));
  return { ok: detail === "healthy", url, milliseconds, detail };
}

async function healthcheck({ url, timeoutMs }: HttpTarget): Promise<string> {
  const response = await fetch(new URL("/healthcheck", url), { signal: AbortSignal.timeout(timeoutMs) });
  const body = (await response.json()) as { status?: string; reason?: string };
  return response.ok ? "healthy" : `HTTP ${response.status}: ${body.reason ?? body.status ?? ""}`;
}

function line(name: string, { url, detail, milliseconds }: PingResult): string {
  const time = url === null ? "" : `  (${milliseconds} ms)`;
  return `${name.padEnd(4)} ${url ?? "-"}  ${detail}${time}`;
}

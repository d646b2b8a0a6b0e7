import { CacheError, messageOf } from "@cache/contracts";
import type { Command } from "commander";
import { EXIT, say } from "./output.ts";
import { rpcPing } from "./rpc-ping.ts";

interface PingResult {
  readonly ok: boolean;
  readonly url: string;
  readonly milliseconds: number;
  readonly detail: string;
}

/** `cache-engine ping`: the HTTP healthcheck and an RPC ping. Exit code 3 if either is not good. */
export async function ping(command: Command): Promise<void> {
  const { url, rpcUrl, timeoutMs, json } = command.opts<{
    url: string;
    rpcUrl: string;
    timeoutMs: string;
    json?: true;
  }>();
  const timeout = Number(timeoutMs);
  if (!Number.isInteger(timeout) || timeout < 1 || timeout > 600_000) {
    throw new CacheError("INVALID_ARGUMENT", `--timeout-ms '${timeoutMs}' must be a number from 1 to 600000`);
  }
  const [http, rpc] = await Promise.all([
    timed(url, () => healthcheck(url, timeout)),
    timed(rpcUrl, async () => ((await rpcPing(rpcUrl, timeout)) ? "healthy" : "answered false")),
  ]);
  const ok = http.ok && rpc.ok;
  if (json === true) say(JSON.stringify({ ok, http, rpc }));
  else
    for (const [name, result] of [
      ["http", http],
      ["rpc", rpc],
    ] as const)
      say(line(name, result));
  if (!ok) process.exitCode = EXIT.unreachable;
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

async function healthcheck(url: string, timeoutMs: number): Promise<string> {
  const response = await fetch(new URL("/healthcheck", url), { signal: AbortSignal.timeout(timeoutMs) });
  const body = (await response.json()) as { status?: string; reason?: string };
  return response.ok ? "healthy" : `HTTP ${response.status}: ${body.reason ?? body.status ?? ""}`;
}

function line(name: string, result: PingResult): string {
  return `${name.padEnd(4)} ${result.url}  ${result.detail}  (${result.milliseconds} ms)`;
}

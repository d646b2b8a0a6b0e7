import { CACHE_ERROR_CODES, CacheError, type CacheErrorCode, messageOf } from "@cache/contracts";
import type { Command } from "commander";
import { readFileSync } from "node:fs";
import { EXIT, withExitCode } from "./output.ts";

/** Longest answer that is read, in bytes: a page of 5,000 objects has about 2 MB. */
const ANSWER_BYTES_MAX = 64 * 2 ** 20;
const TIMEOUT_MS_MAX = 600_000;

/** Which engine, and how long to wait for it. */
export interface HttpTarget {
  readonly url: string;
  readonly timeoutMs: number;
  readonly token: string | null;
}

/** Adds the options that {@link httpTarget} reads: the same for every command that asks a running engine. */
export function addHttpOptions(command: Command): Command {
  const timeoutMs = command.name() === "ping" ? "2000" : "10000";
  return command
    .option("--url <url>", "HTTP address of the engine", "http://127.0.0.1:8080")
    .option("--token-file <file>", "file with the bearer token, if the engine has --http-token-file")
    .option("--timeout-ms <n>", "time for each answer, in milliseconds", timeoutMs)
    .option("--json", "print JSON");
}

/**
 * The options of a command that talks to a running engine.
 *
 * @throws CacheError `INVALID_ARGUMENT` for a bad URL, time or token file.
 */
export function httpTarget(command: Command): HttpTarget {
  const options = command.opts<{ url: string; timeoutMs: string; tokenFile?: string }>();
  if (!/^https?:\/\//.test(options.url) || !URL.canParse(options.url)) {
    throw invalid(`--url '${options.url}' is no address like http://127.0.0.1:8080`);
  }
  return {
    url: options.url,
    timeoutMs: wholeNumber("--timeout-ms", options.timeoutMs, 1, TIMEOUT_MS_MAX),
    token: options.tokenFile === undefined ? null : token(options.tokenFile),
  };
}

/**
 * The value of a numeric flag.
 *
 * @throws CacheError `INVALID_ARGUMENT` if it is no whole number in the range.
 */
export function wholeNumber(flag: string, text: string, min: number, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw invalid(`${flag} '${text}' must be a whole number from ${min} to ${max}`);
}

function token(file: string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch (error) {
    throw new CacheError("INVALID_ARGUMENT", `--token-file ${file} cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function invalid(text: string): CacheError {
  return new CacheError("INVALID_ARGUMENT", text);
}

/**
 * Sends a request and gives the JSON of a good answer.
 *
 * @throws CacheError `BACKEND_UNAVAILABLE` (exit code 3) if nobody answers, `UNSUPPORTED` if the server has no such
 *   route, the code that the answer tells, else one for its status, with the server's reason otherwise.
 */
export async function requestJson(
  target: HttpTarget,
  method: "GET" | "POST" | "DELETE",
  path: string,
  body?: unknown,
): Promise<unknown> {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (target.token !== null) headers["authorization"] = `Bearer ${target.token}`;
  let status: number;
  let text: string;
  try {
    const response = await fetch(new URL(path, target.url), {
      method,
      headers,
      signal: AbortSignal.timeout(target.timeoutMs),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    status = response.status;
    text = await boundedText(response);
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : "";
    throw withExitCode(
      EXIT.unreachable,
      new CacheError("BACKEND_UNAVAILABLE", `${target.url} does not answer: ${messageOf(error)}${cause}`, {
        cause: error,
      }),
    );
  }
  if (status >= 200 && status < 300) return parsed(text, target.url);
  throw refusal(status, text, `${method} ${path.split("?", 1)[0] ?? path}`, target);
}

async function boundedText(response: Response): Promise<string> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of response.body ?? []) {
    const bytes = part as Uint8Array;
    length += bytes.length;
    if (length > ANSWER_BYTES_MAX) throw new Error(`the answer is longer than ${ANSWER_BYTES_MAX} bytes`);
    parts.push(bytes);
  }
  return Buffer.concat(parts).toString("utf8");
}

function parsed(text: string, url: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new CacheError("BACKEND_UNAVAILABLE", `${url} answered no JSON: is this an engine's HTTP port?`, {
      cause: error,
    });
  }
}

function refusal(status: number, text: string, route: string, { url, token: sent }: HttpTarget): CacheError {
  // Without a reason of its own, a 404 is about the route and not about what was asked for.
  if (status === 404 && /"detail"\s*:\s*"Not Found"/.test(text)) {
    return new CacheError("UNSUPPORTED", `the server at ${url} has no ${route}; use an engine that has it`);
  }
  const codes: Readonly<Record<number, CacheErrorCode>> = {
    400: "INVALID_ARGUMENT",
    401: "BACKEND_REFUSED",
    403: "BACKEND_REFUSED",
    404: "INVALID_ARGUMENT",
    409: "CONFLICT",
    422: "INVALID_ARGUMENT",
  };
  const code = codeOf(text) ?? codes[status] ?? "BACKEND_UNAVAILABLE";
  const noToken = "the engine wants a token: name the file that has it with --token-file";
  const wrongToken =
    "the token of --token-file was not accepted: it is not that of the engine's --http-token-file";
  const reason = status === 401 ? (sent === null ? noToken : wrongToken) : reasonOf(text);
  return new CacheError(code, `${route} at ${url} answered ${status}: ${reason}`);
}

/** The code of the engine's error in its answer; null if it tells none that this version knows. */
function codeOf(text: string): CacheErrorCode | null {
  try {
    const { code } = (JSON.parse(text) ?? {}) as { code?: unknown };
    return CACHE_ERROR_CODES.find((known) => known === code) ?? null;
  } catch {
    return null;
  }
}

/** `detail`, `error` or `reason` of an answer; LMCache's validation errors are lists of texts. */
function reasonOf(text: string): string {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return text.slice(0, 200);
  }
  const { detail, error, reason } = (body ?? {}) as Record<string, unknown>;
  const said = detail ?? error ?? reason;
  return typeof said === "string" ? said : JSON.stringify(said ?? body).slice(0, 500);
}

import { timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { HttpRefusal } from "./http-counts.ts";

/** Why a request that changes something is refused. */
export interface Refusal {
  readonly status: 401 | 403 | 415;
  readonly reason: HttpRefusal;
  readonly detail: string;
}

/** Who may change something over HTTP. */
export interface GuardOptions {
  /** Hosts beside loopback whose name may stand in `Host`, with or without port. */
  readonly allowedHosts: readonly string[];
  /** Bearer token that changes need; null: none is configured. */
  readonly token: string | null;
}

/**
 * Checks a request that changes something: a `Host` that is loopback or configured (against DNS rebinding), no
 * foreign `Origin`, JSON as content, a token beyond loopback. Null if it may go on.
 */
export function refuseChange(request: IncomingMessage, options: GuardOptions): Refusal | null {
  const { host, origin } = request.headers;
  if (!hostAllowed(host, options.allowedHosts)) {
    return {
      status: 403,
      reason: "host",
      detail: `Host ${JSON.stringify(host ?? "")} may not change anything; allow it with --http-allowed-host`,
    };
  }
  if (origin !== undefined && !sameOrigin(origin, host ?? "")) {
    return { status: 403, reason: "origin", detail: "requests of another origin may not change anything" };
  }
  if (request.headers["sec-fetch-site"] === "cross-site") {
    return { status: 403, reason: "origin", detail: "cross-site requests may not change anything" };
  }
  const length = request.headers["content-length"];
  const hasBody =
    request.headers["transfer-encoding"] !== undefined || (length !== undefined && length !== "0");
  if ((request.method === "POST" || hasBody) && !isJson(request.headers["content-type"])) {
    return { status: 415, reason: "content_type", detail: "send Content-Type: application/json" };
  }
  return refuseWithoutToken(request, options.token);
}

function refuseWithoutToken(request: IncomingMessage, token: string | null): Refusal | null {
  if (token === null) {
    return isLoopbackAddress(request.socket.remoteAddress ?? "")
      ? null
      : {
          status: 403,
          reason: "not_loopback",
          detail: "changes from beyond loopback need a token: start with --http-token-file",
        };
  }
  const sent = /^Bearer (.+)$/i.exec(request.headers.authorization ?? "")?.[1] ?? "";
  const [expected, given] = [Buffer.from(token), Buffer.from(sent)];
  const equal = expected.length === given.length && timingSafeEqual(expected, given);
  return equal
    ? null
    : { status: 401, reason: "token", detail: "send the token: Authorization: Bearer TOKEN" };
}

function isJson(contentType: string | undefined): boolean {
  return /^application\/json\s*(;|$)/i.test(contentType ?? "");
}

/** True for a `Host` header that names this machine's loopback or a configured host. */
export function hostAllowed(host: string | undefined, allowed: readonly string[]): boolean {
  if (host === undefined) return false;
  const name = hostName(host);
  if (name === "localhost" || isLoopbackAddress(name)) return true;
  return allowed.some((entry) => entry.toLowerCase() === host.toLowerCase() || entry.toLowerCase() === name);
}

function hostName(host: string): string {
  const bracketed = /^\[([^\]]*)\](?::\d*)?$/.exec(host);
  return (bracketed?.[1] ?? host.replace(/:\d*$/, "")).toLowerCase();
}

function sameOrigin(origin: string, host: string): boolean {
  try {
    return new URL(origin).host === host.toLowerCase();
  } catch {
    return false;
  }
}

/** True for 127.0.0.0/8 and ::1, also as an IPv4 address in IPv6. */
export function isLoopbackAddress(address: string): boolean {
  const plain = address.toLowerCase().replace(/^::ffff:/, "");
  return plain === "::1" || /^127\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.test(plain);
}

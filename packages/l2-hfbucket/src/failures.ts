import { CacheError, type CacheErrorCode, messageOf } from "@cache/contracts";
import type { HubRequests, HubSession, Refusal } from "./hub-fetch.ts";
import type { Failure } from "./protocol.ts";

const TEXT_MAX = 200;

/** By HTTP status: what to make of it, and what to do about it. */
function verdictOf({ status, errorCode }: Refusal): readonly [CacheErrorCode, string] {
  if (status === 401) return ["BACKEND_REFUSED", "check the access token (token_env, token)"];
  if (status === 403) return ["BACKEND_REFUSED", "give the token the right to read and write this bucket"];
  if (status === 402 || status === 507) {
    return ["BACKEND_FULL", "make room in the bucket, or raise the plan's storage limit"];
  }
  if (status === 404 && errorCode !== "EntryNotFound") {
    return [
      "BACKEND_REFUSED",
      "create the bucket, set create_bucket_if_missing, or use a token that may see the bucket",
    ];
  }
  if (status === 429)
    return ["BACKEND_UNAVAILABLE", "the Hub limits the rate of requests: lower num_workers"];
  if (status >= 500)
    return ["BACKEND_UNAVAILABLE", "the Hub has a problem of its own; look at its status page"];
  return ["BACKEND_UNAVAILABLE", "look whether this version of the adapter still fits the Hub"];
}

/** One line without tokens and without the signatures of URLs. */
export function redact(text: string, session: HubSession): string {
  let clean = text.replaceAll(/\s+/g, " ").replaceAll(/\?[^\s"'<>]*/g, "?***");
  for (const secret of session.secrets) clean = clean.replaceAll(secret, "***");
  clean = clean.replaceAll(/hf_[A-Za-z0-9_]{4,}/g, "***").replaceAll(/Bearer \S+/g, "Bearer ***");
  return clean.length > TEXT_MAX ? `${clean.slice(0, TEXT_MAX)}…` : clean;
}

/** Node's code of a failed connection, e.g. `ECONNREFUSED`; the name of the error if there is none. */
function networkSign(error: unknown): string {
  for (let at = error, depth = 0; depth < 4 && typeof at === "object" && at !== null; depth++) {
    const { code, cause } = at as { readonly code?: unknown; readonly cause?: unknown };
    if (typeof code === "string") return code;
    at = cause;
  }
  return messageOf(error);
}

function isNetworkError(error: unknown): boolean {
  return error instanceof TypeError && /fetch failed|terminated|network/i.test(error.message);
}

function refusalFailure(refusal: Refusal, session: HubSession): Omit<Failure, "perhapsDone"> {
  const [code, remedy] = verdictOf(refusal);
  const { status, kind, text, errorCode } = refusal;
  const isEntry = errorCode === "EntryNotFound" || kind === "cas-read" || kind === "content";
  return {
    code,
    message: `the Hub answered ${status} (${kind}): ${redact(text, session) || "no text"}; ${remedy}`,
    absent: status === 404 ? (isEntry ? "entry" : "bucket") : null,
    details: { status, request: kind },
  };
}

/** What went wrong with a call, without secrets. */
export function failureOf(error: unknown, requests: HubRequests): Failure {
  const { session, signal, refusal, networkError } = requests;
  const perhapsDone = requests.batchSent;
  const plain = { absent: null, perhapsDone, details: {} };
  if (signal.aborted) {
    return { ...plain, code: "ABORTED", message: "the call was ended early: its deadline passed" };
  }
  if (error instanceof ContentError) {
    return { ...plain, code: "DATA_CORRUPT", message: error.message };
  }
  const broken = networkError ?? (isNetworkError(error) ? error : null);
  if (broken !== null) {
    const sign = redact(networkSign(broken), session);
    const message = `${session.settings.endpoint} cannot be reached, or broke off: ${sign}; check the way to it`;
    return { ...plain, code: "BACKEND_UNAVAILABLE", message, details: { sign } };
  }
  if (refusal !== null) return { ...refusalFailure(refusal, session), perhapsDone };
  const message = `an answer of the Hub cannot be used: ${redact(messageOf(error), session)}; try again later`;
  return { ...plain, code: "BACKEND_UNAVAILABLE", message };
}

/** What was loaded is not what the Hub announced. */
export class ContentError extends Error {}

/** A failure as an error. */
export function errorOf({ code, message, absent, perhapsDone, details }: Failure): CacheError {
  const more = { ...(absent === null ? {} : { absent }), ...(perhapsDone ? { perhapsDone } : {}) };
  return new CacheError(code, message, { details: { ...details, ...more } });
}

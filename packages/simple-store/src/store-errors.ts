import { CacheError, type CacheErrorCode, isCacheError, messageOf } from "@cache/contracts";

const FULL = new Set(["ENOSPC", "EDQUOT", "EFBIG", "507"]);
const REFUSED = new Set(["EACCES", "EPERM", "EROFS", "401", "403"]);

interface ClientError {
  readonly code?: unknown;
  readonly status?: unknown;
  readonly statusCode?: unknown;
  readonly $metadata?: { readonly httpStatusCode?: unknown };
}

/** Node's error code or the HTTP status, in the places where client libraries put it. */
function signOf(error: unknown): string {
  if (typeof error !== "object" || error === null) return "";
  const { code, status, statusCode, $metadata } = error as ClientError;
  const sign = status ?? statusCode ?? $metadata?.httpStatusCode ?? code;
  return typeof sign === "number" || typeof sign === "string" ? String(sign) : "";
}

/** Turns what a store throws into our errors, without secrets. */
export class StoreErrors {
  readonly #location: string;
  readonly #secrets: readonly string[];

  constructor(location: string, secrets: readonly string[]) {
    this.#location = location;
    this.#secrets = secrets;
  }

  /** One line without secrets and without the credentials of URLs. */
  redact(text: string): string {
    let clean = text.replaceAll(/:\/\/[^/\s@]*@/g, "://***@");
    for (const secret of this.#secrets) clean = clean.replaceAll(secret, "***");
    return clean.length > 500 ? `${clean.slice(0, 500)}…` : clean;
  }

  /** @param method of the store that threw, e.g. `get`. */
  wrap(error: unknown, method: string): CacheError {
    if (isCacheError(error)) {
      const clean = this.redact(error.message);
      return clean === error.message ? error : new CacheError(error.code, clean, { details: error.details });
    }
    const sign = signOf(error);
    const code: CacheErrorCode = FULL.has(sign)
      ? "BACKEND_FULL"
      : REFUSED.has(sign)
        ? "BACKEND_REFUSED"
        : "BACKEND_UNAVAILABLE";
    const remedy = {
      BACKEND_FULL: "make room or raise its limit",
      BACKEND_REFUSED: "check permissions and credentials",
      BACKEND_UNAVAILABLE: "check the store and the way to it",
    }[code];
    // Of a failed fetch the cause alone says why.
    const cause = error instanceof Error && error.cause instanceof Error ? ` (${error.cause.message})` : "";
    const what = this.redact(messageOf(error) + cause);
    // The client's error may hold requests with credentials: it is no cause that others may log.
    return new CacheError(code, `${method} on ${this.#location} failed: ${what}; ${remedy}`, {
      details: { method, ...(sign === "" ? {} : { sign }) },
    });
  }

  /** A store method answered what its type forbids. */
  misbehaved(method: string, answer: string): CacheError {
    return new CacheError(
      "BACKEND_UNAVAILABLE",
      `${method} on ${this.#location} answered ${answer}: a mistake in the adapter; report it to the package's author`,
      { details: { method } },
    );
  }

  timedOut(method: string, timeoutMs: number): CacheError {
    return new CacheError(
      "BACKEND_UNAVAILABLE",
      `${method} on ${this.#location} did not answer within ${timeoutMs} ms; check the store and the way to it`,
      { details: { method, timeoutMs } },
    );
  }
}

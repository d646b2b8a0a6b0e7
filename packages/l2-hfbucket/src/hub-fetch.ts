import type { ThreadSettings } from "./protocol.ts";

/** Longest answer that is not the bytes of objects. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;
/** A Xet token is renewed so long before it ends, in milliseconds. */
const RENEW_BEFORE_MS = 60_000;
/** For fetching one, in milliseconds. */
const TOKEN_MS = 10_000;
const TOKENS_REMEMBERED = 100;
const BODILESS = new Set([101, 204, 205, 304]);

/** What a request is for. */
export type RequestKind =
  | "bucket"
  | "paths-info"
  | "tree"
  | "batch"
  | "read-token"
  | "write-token"
  | "dedup"
  | "cas-read"
  | "cas-write"
  | "content";

/** A token for the content-addressed store. */
export interface XetToken {
  readonly accessToken: string;
  readonly casUrl: string;
  /** Seconds since the epoch. */
  readonly exp: number;
}

/** An answer with an error status. */
export interface Refusal {
  readonly status: number;
  readonly kind: RequestKind;
  /** `X-Error-Code`. */
  readonly errorCode: string;
  readonly text: string;
}

/** What a request below the Hub's or the store's URL is for. Signed URLs may lead anywhere: the rest is content. */
export function kindOf(url: string, method: string): RequestKind {
  const { pathname } = new URL(url);
  const [, rest] = /\/api\/buckets\/[^/]+\/[^/]+(?:\/([a-z-]+))?/.exec(pathname) ?? [null, null];
  if (rest !== null) {
    const known: readonly RequestKind[] = ["paths-info", "tree", "batch"];
    if (rest === "xet-read-token" || rest === "xet-write-token") return rest.slice(4) as RequestKind;
    return known.find((kind) => kind === rest) ?? "bucket";
  }
  if (/\/v[12]\/(?:chunks|xorbs|shards|reconstructions)(?:\/|$)/.test(pathname)) {
    if (pathname.includes("/reconstructions/")) return "cas-read";
    if (pathname.includes("/chunks/")) return "dedup";
    return method === "POST" ? "cas-write" : "content";
  }
  return "content";
}

/** An error status in answer to a request of ours. */
export class RefusalError extends Error {
  readonly refusal: Refusal;

  constructor(refusal: Refusal) {
    super(`status ${refusal.status}`);
    this.refusal = refusal;
  }
}

/** An answer that is not what it should be. */
export class UnusableError extends Error {}

/** A token that is being fetched, and how many calls wait for it. */
interface TokenFetch {
  readonly answer: Promise<XetToken>;
  readonly controller: AbortController;
  waiting: number;
}

/** What the calls of one thread share: tokens of the content-addressed store. */
export class HubSession {
  readonly settings: ThreadSettings;
  /** Values that must stand in no message. */
  readonly secrets = new Set<string>();
  readonly #tokens = new Map<"read" | "write", XetToken>();
  readonly #fetching = new Map<"read" | "write", TokenFetch>();
  /** A token that the store refused, and the one to send in its place. The library holds on to the first. */
  readonly #replaced = new Map<string, string>();

  constructor(settings: ThreadSettings) {
    this.settings = settings;
    if (settings.token !== null) this.secrets.add(settings.token);
  }

  /** The token to send where the library sends `accessToken`. */
  current(accessToken: string): string {
    return this.#replaced.get(accessToken) ?? accessToken;
  }

  /**
   * A token that is good for at least a minute. Calls share a fetch; one that ends early ends it for itself alone.
   *
   * @throws RefusalError, UnusableError, what `fetch` throws, or the signal's reason.
   */
  async token(scope: "read" | "write", signal: AbortSignal): Promise<XetToken> {
    const known = this.#tokens.get(scope);
    if (known !== undefined && known.exp * 1000 > Date.now() + RENEW_BEFORE_MS) return known;
    const fetching = this.#fetching.get(scope) ?? this.#begin(scope);
    fetching.waiting++;
    let onAbort = (): void => undefined;
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () => reject(new Error("aborted"));
      if (signal.aborted) onAbort();
      else signal.addEventListener("abort", onAbort, { once: true });
    });
    try {
      return await Promise.race([fetching.answer, aborted]);
    } finally {
      signal.removeEventListener("abort", onAbort);
      if (--fetching.waiting === 0) {
        fetching.controller.abort();
        if (this.#fetching.get(scope) === fetching) this.#fetching.delete(scope);
      }
    }
  }

  #begin(scope: "read" | "write"): TokenFetch {
    const controller = new AbortController();
    const answer = this.#fetchToken(
      scope,
      AbortSignal.any([controller.signal, AbortSignal.timeout(TOKEN_MS)]),
    );
    const fetching = { answer, controller, waiting: 0 };
    this.#fetching.set(scope, fetching);
    return fetching;
  }

  async #fetchToken(scope: "read" | "write", signal: AbortSignal): Promise<XetToken> {
    const { endpoint, bucketId, token } = this.settings;
    const headers = token === null ? {} : { authorization: `Bearer ${token}` };
    const url = `${endpoint}/api/buckets/${bucketId}/xet-${scope}-token`;
    const response = await fetch(url, { headers, signal });
    const body = await readBounded(response);
    if (!response.ok) throw new RefusalError(refusalOf(response, `${scope}-token`, body));
    const { accessToken, casUrl, exp } = parseJson(body) ?? {};
    if (typeof accessToken !== "string" || typeof casUrl !== "string" || typeof exp !== "number") {
      throw new UnusableError(`a ${scope} token without accessToken, casUrl or exp`);
    }
    if (!URL.canParse(casUrl)) throw new UnusableError(`a ${scope} token with a casUrl that is no URL`);
    const fresh = { accessToken, casUrl: casUrl.replace(/\/+$/, ""), exp };
    this.#tokens.set(scope, fresh);
    this.#note(accessToken);
    return fresh;
  }

  #note(secret: string): void {
    this.secrets.add(secret);
    if (this.secrets.size <= TOKENS_REMEMBERED) return;
    for (const oldest of this.secrets) {
      if (oldest === this.settings.token) continue;
      this.secrets.delete(oldest);
      return;
    }
  }

  /** A token in place of one that the store refused. @throws as {@link HubSession.token}. */
  async renew(scope: "read" | "write", refused: string, signal: AbortSignal): Promise<void> {
    if (this.#tokens.get(scope)?.accessToken === refused) this.#tokens.delete(scope);
    const { accessToken } = await this.token(scope, signal);
    this.#replaced.set(refused, accessToken);
    this.#note(refused);
    // What stood for another stands for it no more.
    for (const [old, replacement] of this.#replaced) {
      if (replacement === refused) this.#replaced.set(old, accessToken);
      if (this.#replaced.size > TOKENS_REMEMBERED) this.#replaced.delete(old);
    }
  }
}

/** `fetch` for one call of ours: ends with it, bounds answers, and remembers what went wrong. */
export class HubRequests {
  readonly session: HubSession;
  readonly signal: AbortSignal;
  /** The last answer with an error status. */
  refusal: Refusal | null = null;
  /** The last failure below HTTP. */
  networkError: unknown = null;
  /** A change of the bucket was asked for. */
  batchSent = false;
  /** Xet hashes of the files that the last batch named, by path. */
  readonly hashes = new Map<string, string>();
  /** Paths that the last batch did not change, and why. */
  readonly failedPaths = new Map<string, string>();

  constructor(session: HubSession, signal: AbortSignal) {
    this.session = session;
    this.signal = signal;
  }

  /** For the library. */
  readonly fetch: typeof fetch = async (input, init = {}) => {
    const url = input instanceof Request ? input.url : String(input);
    const kind = kindOf(url, init.method ?? "GET");
    if (kind === "write-token") return this.#writeToken();
    if (kind === "batch") this.#noteBatch(init.body);
    let response = await this.#send(url, init, kind);
    const refused = bearerOf(init);
    if (response.status === 401 && refused !== null && isXet(kind)) {
      const scope = kind === "cas-read" ? "read" : "write";
      await this.#noting(this.session.renew(scope, this.session.current(refused), this.signal));
      response = await this.#send(url, init, kind);
    }
    if (response.ok && kind === "content") return response;
    return this.#bounded(response, kind);
  };

  async #send(url: string, init: RequestInit, kind: RequestKind): Promise<Response> {
    const bearer = bearerOf(init);
    const headers = new Headers(init.headers);
    if (bearer !== null && isXet(kind)) {
      headers.set("authorization", `Bearer ${this.session.current(bearer)}`);
    }
    try {
      return await fetch(url, { ...init, headers, signal: this.signal });
    } catch (error) {
      this.networkError = error;
      throw error;
    }
  }

  /** A token for reading. */
  readToken(): Promise<XetToken> {
    return this.#noting(this.session.token("read", this.signal));
  }

  /** The session's token in place of one that the library would fetch, and share between calls that end early. */
  async #writeToken(): Promise<Response> {
    const token = await this.#noting(this.session.token("write", this.signal));
    return Response.json(token);
  }

  /** Remembers why the session has no token. */
  async #noting<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      if (error instanceof RefusalError) this.refusal = error.refusal;
      else if (!(error instanceof UnusableError)) this.networkError = error;
      throw error;
    }
  }

  /** The answer with its body in memory. */
  async #bounded(response: Response, kind: RequestKind): Promise<Response> {
    const body = await this.#noting(readBounded(response));
    // "Nobody has this chunk yet" is no failure.
    if (!response.ok && kind !== "dedup") this.refusal = refusalOf(response, kind, body);
    if (kind === "batch") this.#noteFailedPaths(body);
    const { status, statusText, headers } = response;
    return new Response(BODILESS.has(status) ? null : body, { status, statusText, headers });
  }

  #noteBatch(body: RequestInit["body"]): void {
    this.batchSent = true;
    this.hashes.clear();
    this.failedPaths.clear();
    for (const line of typeof body === "string" ? body.split("\n") : []) {
      const operation = parseJson(Buffer.from(line));
      const { path, xetHash } = operation ?? {};
      if (typeof path === "string" && typeof xetHash === "string") this.hashes.set(path, xetHash);
    }
  }

  #noteFailedPaths(body: Buffer): void {
    const failed = parseJson(body)?.["failed"];
    if (!Array.isArray(failed)) return;
    for (const entry of failed as readonly unknown[]) {
      const { path, error } = (entry ?? {}) as { readonly path?: unknown; readonly error?: unknown };
      if (typeof path === "string")
        this.failedPaths.set(path, typeof error === "string" ? error : "no reason given");
    }
  }
}

/** The body of an answer. @throws UnusableError for one that is too long. */
async function readBounded(response: Response): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of response.body ?? []) {
    length += part.length;
    if (length > ANSWER_BYTES_MAX)
      throw new UnusableError(`an answer of more than ${ANSWER_BYTES_MAX} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts, length);
}

function refusalOf({ status, headers }: Response, kind: RequestKind, body: Buffer): Refusal {
  const said = parseJson(body);
  const text = [said?.["error"], said?.["message"]].find((part): part is string => typeof part === "string");
  return {
    status,
    kind,
    errorCode: headers.get("x-error-code") ?? "",
    text: text ?? headers.get("x-error-message") ?? body.toString("utf8", 0, 200),
  };
}

/** Requests that carry a Xet token. */
function isXet(kind: RequestKind): boolean {
  return kind === "cas-read" || kind === "cas-write" || kind === "dedup";
}

function bearerOf({ headers }: RequestInit): string | null {
  const value = new Headers(headers).get("authorization");
  return value?.startsWith("Bearer ") === true ? value.slice("Bearer ".length) : null;
}

function parseJson(bytes: Buffer): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(bytes.toString("utf8"));
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

/** Why a request was refused before its route saw it. The names are labels of `cache_engine_http_refusals_total`. */
export type HttpRefusal =
  /** The `Host` is neither loopback nor configured. */
  | "host"
  /** A foreign `Origin`, or a browser that says cross-site. */
  | "origin"
  | "content_type"
  /** From beyond loopback, and no token is configured. */
  | "not_loopback"
  /** The token is missing or wrong. */
  | "token"
  /** A body beyond its bound, or all bodies together beyond theirs. */
  | "body"
  /** What came is no HTTP, or its headers are too long. */
  | "malformed"
  /** It did not arrive in time. */
  | "timeout"
  /** One connection too many: closed without a word. */
  | "connections";

/** What an HTTP server counted. */
export interface HttpFigures {
  /** Open connections. */
  readonly connections: number;
  /** Answers by status. */
  readonly answers: Readonly<Record<string, number>>;
  /** Refused requests by {@link HttpRefusal}. */
  readonly refusals: Readonly<Record<string, number>>;
}

/** Counts of the HTTP server; made before it, so that the status can show them. */
export class HttpCounts {
  connections = 0;
  readonly #answers = new Map<string, number>();
  readonly #refusals = new Map<string, number>();

  /** An answer went out. */
  answered(status: number): void {
    this.#answers.set(String(status), (this.#answers.get(String(status)) ?? 0) + 1);
  }

  refused(reason: HttpRefusal): void {
    this.#refusals.set(reason, (this.#refusals.get(reason) ?? 0) + 1);
  }

  /** A plain copy. */
  figures(): HttpFigures {
    return {
      connections: this.connections,
      answers: Object.fromEntries(this.#answers),
      refusals: Object.fromEntries(this.#refusals),
    };
  }
}

/** Counts by name; the set of names is the code's, never a client's. */
class NamedCounts {
  readonly #counts = new Map<string, number>();

  /** Adds one to `name`. */
  add(name: string): void {
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
  }

  /** A plain copy. */
  snapshot(): Record<string, number> {
    return Object.fromEntries(this.#counts);
  }
}

/** What the server counts while it runs. */
export class WireCounters {
  /** Requests by operation; `unknown` for names that are none. */
  readonly requests = new NamedCounts();
  /** Requests that were refused, by reason: an error code, or `not_served`, `unknown_operation`, `internal`. */
  readonly refusals = new NamedCounts();
  /** Messages without a usable uid: dropped without an answer. */
  malformed = 0;
  /** Messages with a payload frame, or a count of frames, beyond its bound. */
  oversized = 0;
  /** Replies that could not be sent: the client was gone or did not read. */
  unsendable = 0;
  /** Replies of turns whose events could not be recorded: sent with degraded values. */
  degraded = 0;
  /** Turns that were committed. */
  turns = 0;
}

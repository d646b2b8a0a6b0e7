import type { GateClock } from "./clock.ts";

/** Where a circuit breaker stands. Times are milliseconds from now. */
export type BreakerState =
  | { readonly state: "closed"; readonly recentFailures: number }
  /** Calls fail at once; the next probe may go in `nextProbeInMs`. */
  | { readonly state: "open"; readonly nextProbeInMs: number }
  /** One probe may go, or is under way. */
  | { readonly state: "half-open"; readonly probing: boolean };

/** Permission for one operation; the probe is the only one while the breaker is half-open. */
export interface BreakerTicket {
  readonly probe: boolean;
}

/** How an operation ended. `neutral` says nothing about the backend: the caller gave up, or asked wrongly. */
export type BreakerVerdict = "success" | "failure" | "neutral";

/** See the options of the same names in `GateOptions`. */
export interface BreakerOptions {
  readonly breakerFailures: number;
  readonly breakerWindowMs: number;
  readonly probeDelaysMs: readonly number[];
  readonly clock: GateClock;
}

/** Who is told what a breaker does. */
export interface BreakerObserver {
  /** It opened, also after a failed probe. */
  opened(): void;
  /** A probe went well. */
  closed(): void;
}

/**
 * A circuit breaker: opens after some failures within a window, then lets single probes through after growing
 * pauses. A probe's success closes it and starts anew. Reports of operations from before it opened are ignored.
 */
export class CircuitBreaker {
  readonly #options: BreakerOptions;
  readonly #observer: BreakerObserver;
  #phase: "closed" | "open" | "half-open" = "closed";
  #failureTimes: number[] = [];
  #openUntil = 0;
  /** Probes that have failed since the breaker was last closed. */
  #failedProbes = 0;
  #probe: BreakerTicket | null = null;

  constructor(options: BreakerOptions, observer: BreakerObserver) {
    this.#options = options;
    this.#observer = observer;
  }

  /** Where it stands now. */
  get state(): BreakerState {
    const now = this.#options.clock.now();
    if (this.#phase === "closed") {
      const recent = this.#failureTimes.filter((at) => now - at < this.#options.breakerWindowMs);
      return { state: "closed", recentFailures: recent.length };
    }
    if (this.#phase === "open" && now < this.#openUntil) {
      return { state: "open", nextProbeInMs: this.#openUntil - now };
    }
    return { state: "half-open", probing: this.#probe !== null };
  }

  /** True if {@link enter} would give a ticket now. */
  canTry(): boolean {
    const now = this.state;
    return now.state === "closed" || (now.state === "half-open" && !now.probing);
  }

  /** A ticket for one operation, or null while the operation must fail at once. */
  enter(): BreakerTicket | null {
    if (!this.canTry()) return null;
    if (this.#phase === "closed") return { probe: false };
    this.#phase = "half-open";
    this.#probe = { probe: true };
    return this.#probe;
  }

  /** True while the holder of a ticket may go on with further calls. */
  allows(ticket: BreakerTicket): boolean {
    return this.#phase === "closed" || (this.#phase === "half-open" && this.#probe === ticket);
  }

  /** Tells how an operation, or a part of it, ended. */
  report(ticket: BreakerTicket, verdict: BreakerVerdict): void {
    if (this.#phase === "closed") {
      if (verdict === "failure") this.#countFailure();
      return;
    }
    if (this.#phase === "open" || this.#probe !== ticket) return;
    this.#probe = null;
    if (verdict === "success") {
      this.#phase = "closed";
      this.#failedProbes = 0;
      this.#failureTimes = [];
      this.#observer.closed();
    } else if (verdict === "failure") {
      this.#failedProbes++;
      this.#open();
    }
  }

  #countFailure(): void {
    const now = this.#options.clock.now();
    this.#failureTimes = this.#failureTimes.filter((at) => now - at < this.#options.breakerWindowMs);
    this.#failureTimes.push(now);
    if (this.#failureTimes.length >= this.#options.breakerFailures) this.#open();
  }

  #open(): void {
    const delays = this.#options.probeDelaysMs;
    const delay = delays[Math.min(this.#failedProbes, delays.length - 1)] ?? 0;
    this.#phase = "open";
    this.#probe = null;
    this.#failureTimes = [];
    this.#openUntil = this.#options.clock.now() + delay;
    this.#observer.opened();
  }
}

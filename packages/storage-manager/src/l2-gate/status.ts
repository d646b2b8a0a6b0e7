import { CACHE_ERROR_CODES, type CacheError, type CacheErrorCode } from "@cache/contracts";
import type { BreakerState } from "./breaker.ts";
import type { GateClock } from "./clock.ts";
import { foreignText, GATE_OPERATIONS, type GateOperation } from "./failures.ts";
import { LatencyHistogram, type LatencySummary } from "./latency.ts";

/** Where a guarded adapter stands in its life. */
export type GatePhase = "new" | "opening" | "open" | "closing" | "closed";

/** An operation whose caller was answered and that still may touch its buffers. */
export interface StuckOperation {
  readonly operation: GateOperation;
  readonly keys: number;
  /** Payload bytes of its buffers, which stay pinned. */
  readonly bytes: number;
  /** Milliseconds since it was called. */
  readonly ageMs: number;
}

/** Counts of operations by their name. */
export type OperationCounts = Readonly<Record<GateOperation, number>>;

/** What an operator sees of the gate: plain JSON, no secrets, of bounded size. */
export interface GateStatus {
  readonly id: string;
  readonly phase: GatePhase;
  readonly breaker: BreakerState;
  /** Called, not answered. */
  readonly inFlight: OperationCounts;
  /** Waiting for room. */
  readonly queued: OperationCounts;
  /** Payload bytes of loads and stores in flight, stuck ones not counted. */
  readonly inFlightBytes: number;
  readonly stuck: {
    readonly operations: number;
    readonly bytes: number;
    /** The oldest, at most 16. */
    readonly oldest: readonly StuckOperation[];
  };
  /** How often each error code occurred since the start; only codes that did. */
  readonly errors: Readonly<Partial<Record<CacheErrorCode, number>>>;
  /** The last one that is not `BREAKER_OPEN`. */
  readonly lastError: {
    readonly code: CacheErrorCode;
    readonly message: string;
    readonly operation: string;
    readonly ageMs: number;
  } | null;
  /** Durations of single calls of the adapter, until they settled. */
  readonly latency: Readonly<Record<GateOperation, LatencySummary>>;
  /** Lock references of lookups that came after the deadline and were given back. */
  readonly lateLocksReleased: number;
}

/** A record with a value for every operation. */
export function perOperation<Value>(
  valueOf: (operation: GateOperation) => Value,
): Record<GateOperation, Value> {
  const record: Partial<Record<GateOperation, Value>> = {};
  for (const operation of GATE_OPERATIONS) record[operation] = valueOf(operation);
  return record as Record<GateOperation, Value>;
}

/** Counts errors and durations in bounded memory. */
export class GateRecorder {
  readonly #clock: GateClock;
  readonly #errors = new Map<CacheErrorCode, number>();
  readonly #latency = perOperation(() => new LatencyHistogram());
  #last: { code: CacheErrorCode; message: string; operation: string; at: number } | null = null;
  lateLocksReleased = 0;

  constructor(clock: GateClock) {
    this.#clock = clock;
  }

  /** Counts one error. */
  error(operation: string, error: CacheError): void {
    this.#errors.set(error.code, (this.#errors.get(error.code) ?? 0) + 1);
    // A refusal by the open breaker would hide the failure that opened it.
    if (error.code === "BREAKER_OPEN") return;
    const message = foreignText(error);
    this.#last = { code: error.code, message, operation, at: this.#clock.now() };
  }

  /** What failed last; null if nothing has. */
  get lastMessage(): string | null {
    return this.#last?.message ?? null;
  }

  /** Counts one duration in milliseconds. */
  duration(operation: GateOperation, ms: number): void {
    this.#latency[operation].add(ms);
  }

  /** Its part of the status. */
  summary(): Pick<GateStatus, "errors" | "lastError" | "latency" | "lateLocksReleased"> {
    const errors: Partial<Record<CacheErrorCode, number>> = {};
    for (const code of CACHE_ERROR_CODES) {
      const count = this.#errors.get(code);
      if (count !== undefined) errors[code] = count;
    }
    const last = this.#last;
    return {
      errors,
      lastError:
        last === null
          ? null
          : {
              code: last.code,
              message: last.message,
              operation: last.operation,
              ageMs: this.#clock.now() - last.at,
            },
      latency: perOperation((operation) => this.#latency[operation].summary()),
      lateLocksReleased: this.lateLocksReleased,
    };
  }
}

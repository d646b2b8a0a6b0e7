import { CacheError } from "@cache/contracts";
import { type GateClock, systemGateClock } from "./clock.ts";

/** What raises which deadline. */
export type DeadlineHints = Readonly<
  Record<"lookup" | "transfer" | "delete" | "list" | "open" | "close", string | null>
>;

/** How long operations may take, how many may run, when the breaker opens. All times in milliseconds. */
export interface GateOptions {
  /** Deadline of one `lookupAndLock`. Default 1,000. */
  readonly lookupDeadlineMs: number;
  /** Fixed part of the deadline of one `load` or `store`. Default 5,000. */
  readonly transferBaseMs: number;
  /** Slowest transfer that is waited for, in bytes per second: a transfer gets base + bytes / this. Default 50e6. */
  readonly transferBytesPerSecond: number;
  /** Deadline of one `delete` or `quarantine`. Default 30,000. */
  readonly deleteDeadlineMs: number;
  /** Deadline of one `listKeys` page. Default 30,000. */
  readonly listDeadlineMs: number;
  /** Deadline of `open`. Default 10,000. */
  readonly openDeadlineMs: number;
  /** How long `close` waits for operations in flight, and then again for the adapter's own close. Default 10,000. */
  readonly closeDeadlineMs: number;
  /** Failures within `breakerWindowMs` that open the breaker. Default 5. */
  readonly breakerFailures: number;
  /** See `breakerFailures`. Default 10,000. */
  readonly breakerWindowMs: number;
  /** Pauses before the first, second … probe; the last one repeats. Default 1,000, 2,000, 4,000 … 30,000. */
  readonly probeDelaysMs: readonly number[];
  /**
   * Most bytes that all stores, and apart from them all loads, have in flight. One operation that is larger
   * runs when no other of its direction does. Default 256 MiB.
   */
  readonly maxInFlightTransferBytes: number;
  /** Most operations in flight: stores, loads, and all others together, each counted apart. Default 64. */
  readonly maxInFlightOperations: number;
  /** Most operations that wait for room, counted as above; more fail with `LIMIT_REACHED`. Default 1,024. */
  readonly maxQueuedOperations: number;
  /** Most calls of the adapter that one operation has open at a time when it had to be split. Default 4. */
  readonly maxParallelBatches: number;
  /** Operations past their deadline that have not settled; with this many, new ones are refused. Default 256. */
  readonly maxStuckOperations: number;
  /** What raises a deadline, for the messages of those that have passed; null: nothing does. Default these options. */
  readonly deadlineHints: DeadlineHints;
  /** Told when the breaker opens, with what failed last; again only after {@link GateOptions.onRecovered}. */
  readonly onTrouble: (lastError: string | null) => void;
  /** Told when the breaker is closed again. */
  readonly onRecovered: () => void;
  /** Time, replaceable in tests. Default real time with unreferenced timers. */
  readonly clock: GateClock;
}

/** The defaults of {@link GateOptions}. */
export const GATE_DEFAULTS: GateOptions = Object.freeze({
  lookupDeadlineMs: 1000,
  transferBaseMs: 5000,
  transferBytesPerSecond: 50e6,
  deleteDeadlineMs: 30_000,
  listDeadlineMs: 30_000,
  openDeadlineMs: 10_000,
  closeDeadlineMs: 10_000,
  breakerFailures: 5,
  breakerWindowMs: 10_000,
  probeDelaysMs: Object.freeze([1000, 2000, 4000, 8000, 16_000, 30_000]),
  maxInFlightTransferBytes: 256 * 1024 * 1024,
  maxInFlightOperations: 64,
  maxQueuedOperations: 1024,
  maxParallelBatches: 4,
  maxStuckOperations: 256,
  deadlineHints: Object.freeze({
    lookup: "raise lookupDeadlineMs",
    transfer: "raise transferBaseMs or lower transferBytesPerSecond",
    delete: "raise deleteDeadlineMs",
    list: "raise listDeadlineMs",
    open: "raise openDeadlineMs",
    close: "raise closeDeadlineMs",
  }),
  onTrouble: () => undefined,
  onRecovered: () => undefined,
  clock: systemGateClock,
});

const POSITIVE = [
  "lookupDeadlineMs",
  "transferBaseMs",
  "transferBytesPerSecond",
  "deleteDeadlineMs",
  "listDeadlineMs",
  "openDeadlineMs",
  "closeDeadlineMs",
  "breakerWindowMs",
] as const;

const WHOLE = [
  "breakerFailures",
  "maxInFlightTransferBytes",
  "maxInFlightOperations",
  "maxParallelBatches",
  "maxStuckOperations",
] as const;

function refuse(option: string, value: unknown, rule: string): CacheError {
  return new CacheError("INVALID_CONFIG", `${option} ${JSON.stringify(value)} is not ${rule}`, {
    details: { option },
  });
}

/**
 * Fills in the defaults and checks the values.
 *
 * @throws CacheError `INVALID_CONFIG` naming option, value and rule.
 */
export function gateOptions(given: Partial<GateOptions> = {}): GateOptions {
  const options = { ...GATE_DEFAULTS, ...given };
  for (const name of POSITIVE) {
    const value = options[name];
    if (!Number.isFinite(value) || value <= 0) throw refuse(name, value, "a number above 0");
  }
  for (const name of WHOLE) {
    const value = options[name];
    if (!Number.isSafeInteger(value) || value < 1) throw refuse(name, value, "a whole number of 1 or more");
  }
  const queued = options.maxQueuedOperations;
  if (!Number.isSafeInteger(queued) || queued < 0) {
    throw refuse("maxQueuedOperations", queued, "a whole number of 0 or more");
  }
  const delays = options.probeDelaysMs;
  if (delays.length === 0 || delays.some((delay) => !Number.isFinite(delay) || delay <= 0)) {
    throw refuse("probeDelaysMs", delays, "a list of one or more numbers above 0");
  }
  return Object.freeze({ ...options, probeDelaysMs: Object.freeze([...delays]) });
}

import { CACHE_ERROR_CODES, CacheError, type CacheErrorCode, isCacheError } from "@cache/contracts";

/** The adapter operations that the gate guards. */
export const GATE_OPERATIONS = [
  "store",
  "lookupAndLock",
  "load",
  "delete",
  "quarantine",
  "listKeys",
] as const;

/** One of {@link GATE_OPERATIONS}. */
export type GateOperation = (typeof GATE_OPERATIONS)[number];

/** Codes that say something about a key, an object or the caller, and nothing about the backend's health. */
const NOT_COUNTED: ReadonlySet<CacheErrorCode> = new Set<CacheErrorCode>([
  "BACKEND_FULL",
  "AMBIGUOUS_NAME",
  "INVALID_KEY",
  "INVALID_ARGUMENT",
  "UNSUPPORTED",
  "DATA_CORRUPT",
  "CONFLICT",
]);

const KNOWN_CODES: ReadonlySet<string> = new Set(CACHE_ERROR_CODES);

/** Longest text that is taken over from what an adapter threw, in characters. */
const FOREIGN_TEXT_CHARS_MAX = 300;

/** True if the circuit breaker counts an error with this code. */
export function countsForBreaker(error: CacheError): boolean {
  return !NOT_COUNTED.has(error.code);
}

/** The text of anything that was thrown: one bounded line, without the credentials of a URL. */
export function foreignText(thrown: unknown): string {
  let text: string;
  try {
    const said: unknown = thrown instanceof Error ? thrown.message : thrown;
    text = String(said);
  } catch {
    text = "something that cannot be printed";
  }
  const line = text.slice(0, 4 * FOREIGN_TEXT_CHARS_MAX).replaceAll(/\/\/[^/\s]*@/g, "//***@");
  return line.replaceAll(/\s+/g, " ").slice(0, FOREIGN_TEXT_CHARS_MAX);
}

/** A `CacheError` as it is; anything else as `BACKEND_UNAVAILABLE` that names adapter and operation. */
export function asCacheError(adapterId: string, operation: string, thrown: unknown): CacheError {
  if (isCacheError(thrown) && KNOWN_CODES.has(thrown.code)) return thrown;
  return new CacheError(
    "BACKEND_UNAVAILABLE",
    `L2 adapter ${adapterId}: ${operation} failed: ${foreignText(thrown)}; check its backend`,
    { cause: thrown, details: { adapter: adapterId, operation } },
  );
}

/** An answer that breaks the adapter contract. Counts for the breaker: such an adapter cannot be relied on. */
export function malformedAnswer(adapterId: string, operation: GateOperation, what: string): CacheError {
  return new CacheError(
    "BACKEND_UNAVAILABLE",
    `L2 adapter ${adapterId}: ${operation} answered against the contract: ${what}; ` +
      "fix the adapter (the conformance suite shows it)",
    { details: { adapter: adapterId, operation, malformed: true } },
  );
}

/** A key's object is larger than the adapter takes. */
export function objectTooLarge(adapterId: string, byteLength: number, maxObjectBytes: number): CacheError {
  return new CacheError(
    "UNSUPPORTED",
    `L2 adapter ${adapterId} takes objects of at most ${maxObjectBytes} bytes, not ${byteLength}; ` +
      "use a smaller chunk size or another adapter",
    { details: { adapter: adapterId, byteLength, maxObjectBytes } },
  );
}

/** The adapter does not offer the operation. */
export function notOffered(adapterId: string, operation: GateOperation): CacheError {
  return new CacheError(
    "UNSUPPORTED",
    `L2 adapter ${adapterId} does not offer ${operation}; use an adapter whose manifest has it`,
    { details: { adapter: adapterId, operation } },
  );
}

/** The adapter is not open. */
export function adapterClosed(adapterId: string, operation: string): CacheError {
  return new CacheError(
    "ADAPTER_CLOSED",
    `L2 adapter ${adapterId} is not open: ${operation} is possible between open and close`,
    { details: { adapter: adapterId, operation } },
  );
}

/** The caller's own signal ended the operation. */
export function givenUp(adapterId: string, operation: GateOperation): CacheError {
  return new CacheError("ABORTED", `L2 adapter ${adapterId}: ${operation} was given up by its caller`, {
    details: { adapter: adapterId, operation, byCaller: true },
  });
}

/** The circuit breaker stops the operation. `nextProbeInMs` is 0 while a probe is under way. */
export function breakerIsOpen(
  adapterId: string,
  operation: GateOperation,
  nextProbeInMs: number,
): CacheError {
  const wait = Math.ceil(nextProbeInMs);
  const when = wait > 0 ? `the next probe goes in ${wait} ms` : "a probe is under way";
  return new CacheError(
    "BREAKER_OPEN",
    `L2 adapter ${adapterId} failed repeatedly: ${operation} is not tried, ${when}; check its backend`,
    { details: { adapter: adapterId, operation, nextProbeInMs: wait } },
  );
}

/** Too many operations wait. */
export function queueFull(adapterId: string, operation: GateOperation, queued: number): CacheError {
  return new CacheError(
    "LIMIT_REACHED",
    `L2 adapter ${adapterId}: ${queued} operations wait before ${operation}, it is slower than its load; ` +
      "try again later, or raise maxQueuedOperations",
    { details: { adapter: adapterId, operation, queued } },
  );
}

/** Too many operations have passed their deadline without settling. */
export function tooManyStuck(adapterId: string, operation: GateOperation, stuck: number): CacheError {
  return new CacheError(
    "LIMIT_REACHED",
    `L2 adapter ${adapterId}: ${stuck} operations never ended, so ${operation} is not tried; ` +
      "repair its backend, then restart the engine if they stay, or raise maxStuckOperations",
    { details: { adapter: adapterId, operation, stuckOperations: stuck } },
  );
}

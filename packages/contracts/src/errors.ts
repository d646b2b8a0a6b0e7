/** Marks errors of this project across copies of this package: never use `instanceof` between packages. */
const BRAND = Symbol.for("@cache/contracts/error@1");

/**
 * Every error code that packages of this project raise. The code is API, the message is not.
 * `docs/reference/errors.md` has a row for each, and a test holds both equal.
 */
export const CACHE_ERROR_CODES = [
  /** A caller passed something that breaks a documented rule. */
  "INVALID_ARGUMENT",
  /** An `ObjectKey` field breaks its invariant. */
  "INVALID_KEY",
  /** A configuration value is missing, unknown or out of range. */
  "INVALID_CONFIG",
  /** No installed adapter offers the configured type. */
  "ADAPTER_TYPE_UNKNOWN",
  /** Two packages, or two registrations, claim one adapter type. */
  "ADAPTER_TYPE_CONFLICT",
  /** An adapter package was built for another major version of the contract. */
  "ADAPTER_API_INCOMPATIBLE",
  /** An adapter package could not be read or imported. */
  "ADAPTER_LOAD_FAILED",
  /** A package was imported and did not register the type that it claims. */
  "ADAPTER_NOT_REGISTERED",
  /** The manifest says that the adapter cannot do what was asked. */
  "UNSUPPORTED",
  /** The adapter was used before `open` or after `close`. */
  "ADAPTER_CLOSED",
  /** The backend cannot be reached or answered with a failure that may pass. */
  "BACKEND_UNAVAILABLE",
  /** The backend refused for a reason that will not pass by itself (permission, credentials). */
  "BACKEND_REFUSED",
  /** The backend has no room. */
  "BACKEND_FULL",
  /** A deadline passed or the caller aborted. */
  "ABORTED",
  /** The circuit breaker of an adapter is open: the operation was not tried. */
  "BREAKER_OPEN",
  /** A key or file name cannot be represented in the store without colliding with another. */
  "AMBIGUOUS_NAME",
  /** Stored data is damaged. */
  "DATA_CORRUPT",
  /** The journal cannot be read, written or locked. */
  "JOURNAL_DAMAGED",
  "JOURNAL_IO",
  /** Another live process holds the state directory or the pool. */
  "LOCKED_BY_OTHER_PROCESS",
  /** The kernel offers no lock mechanism that we can use. */
  "LOCK_UNAVAILABLE",
  /** The shared-memory pool cannot be created, sized or mapped. */
  "POOL_UNAVAILABLE",
  /** The requested pool does not fit the machine. */
  "POOL_TOO_LARGE",
  /** No room in L1. */
  "OUT_OF_MEMORY",
  /** A message on the wire breaks the protocol. */
  "PROTOCOL_VIOLATION",
  /** The operation exists in LMCache and is not served here. */
  "OPERATION_REFUSED",
  /** A bound (queue, sessions, waiters, message size) is reached. */
  "LIMIT_REACHED",
  /** What was asked for collides with what is there, or with another change that is under way. */
  "CONFLICT",
  /** The engine runs without its journal until it can be written again. */
  "DEGRADED",
  /** Another process has the address. */
  "ADDRESS_IN_USE",
] as const;

/** One of {@link CACHE_ERROR_CODES}. */
export type CacheErrorCode = (typeof CACHE_ERROR_CODES)[number];

/** Options of {@link CacheError}. */
export interface CacheErrorOptions {
  /** The error that led to this one. Kept as `cause`; never put a secret in it. */
  readonly cause?: unknown;
  /** Facts for a program: plain JSON, no secrets. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/**
 * The one error class. The message names the offending value and the fix.
 * Mistakes of a programmer (not of input or environment) are bare `TypeError`s instead.
 */
export class CacheError extends Error {
  override readonly name = "CacheError";
  /** What happened, stable across versions. */
  readonly code: CacheErrorCode;
  /** Facts for a program. */
  readonly details: Readonly<Record<string, unknown>>;
  readonly [BRAND] = true;

  constructor(code: CacheErrorCode, message: string, options: CacheErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
  }
}

/** True for a {@link CacheError} of any copy of this package. */
export function isCacheError(value: unknown): value is CacheError {
  return typeof value === "object" && value !== null && (value as { [BRAND]?: unknown })[BRAND] === true;
}

/** True for an error with the given code. */
export function hasCode(value: unknown, code: CacheErrorCode): value is CacheError {
  return isCacheError(value) && value.code === code;
}

/** Turns whatever was thrown into one line of text, without a stack. */
export function messageOf(value: unknown): string {
  return value instanceof Error ? value.message : String(value);
}

import type {
  Bitmap,
  KeyListPage,
  L2Adapter,
  L2StoreResult,
  MemoryObj,
  ObjectKey,
  OpenContext,
  PageRequest,
  SizedKey,
} from "@cache/contracts";
import type { BreakerState } from "./breaker.ts";
import type { GuardedCall } from "./call.ts";
import type { CloseReport } from "./lifetime.ts";
import type { GateStatus } from "./status.ts";

/** Options of one guarded operation. */
export interface CallOptions {
  /** The caller gives up: the outcome comes at once, the buffers stay in use until `settled`. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * An adapter behind deadlines, bounds, validation and a circuit breaker. Batches that are larger than the
 * adapter takes are split, and their answers put together with positions kept. Rejections are `CacheError`s:
 * `ABORTED` (deadline, or the caller gave up), `BREAKER_OPEN`, `LIMIT_REACHED`, `ADAPTER_CLOSED`,
 * `UNSUPPORTED`, or what the adapter said; what is not a `CacheError` becomes `BACKEND_UNAVAILABLE`.
 * Lists of unequal length are a programmer's mistake and throw a `TypeError`.
 */
export interface GuardedAdapter {
  readonly id: string;
  readonly adapter: L2Adapter;
  /** Where the circuit breaker stands. */
  readonly breaker: BreakerState;
  /** True while the adapter's own `close`, or an `open` that it ended, has not settled: also past the deadline. */
  readonly isClosing: boolean;
  /** True if an operation would be tried now: the adapter is open and the breaker lets it through. */
  canTry(): boolean;
  /** Connects. After a failure it may be called again once the first attempt has ended. */
  open(context: Omit<OpenContext, "signal">): Promise<void>;
  store(
    keys: readonly ObjectKey[],
    objects: readonly MemoryObj[],
    options?: CallOptions,
  ): GuardedCall<L2StoreResult>;
  /** Locks of answers that come after the outcome are given back here, not by the caller. */
  lookupAndLock(requests: readonly SizedKey[], options?: CallOptions): GuardedCall<Bitmap>;
  /** Drops one lock reference of each key. Never throws; what the adapter throws is counted. */
  unlock(keys: readonly ObjectKey[]): void;
  load(requests: readonly SizedKey[], into: readonly MemoryObj[], options?: CallOptions): GuardedCall<Bitmap>;
  delete(keys: readonly ObjectKey[], options?: CallOptions): GuardedCall<Bitmap>;
  /** Bit i: key i was in a batch that the adapter has quarantined. */
  quarantine(keys: readonly ObjectKey[], reason: string, options?: CallOptions): GuardedCall<Bitmap>;
  listKeys(page: PageRequest, options?: CallOptions): GuardedCall<KeyListPage>;
  status(): GateStatus;
  /** Resolves, and never rejects, at the latest after twice `closeDeadlineMs`; says what is stuck. Idempotent. */
  close(): Promise<CloseReport>;
}

import {
  Bitmap,
  CacheError,
  type KeyListPage,
  type L2Adapter,
  type L2StoreResult,
  type MemoryObj,
  type ObjectKey,
  type OpenContext,
  type PageRequest,
  type SizedKey,
} from "@cache/contracts";
import { mergeBitmaps, mergeStoreResults, pick, splitPositions } from "./batches.ts";
import { type BreakerState, CircuitBreaker } from "./breaker.ts";
import {
  type AnyCall,
  answeredCall,
  type CallHost,
  type CallPlan,
  type GuardedCall,
  RunningCall,
} from "./call.ts";
import {
  adapterClosed,
  asCacheError,
  breakerIsOpen,
  type GateOperation,
  givenUp,
  notOffered,
  objectTooLarge,
  queueFull,
  tooManyStuck,
} from "./failures.ts";
import type { CallOptions, GuardedAdapter } from "./guarded-adapter.ts";
import { Lane } from "./lane.ts";
import { AdapterLifetime, type CloseReport, describeStuck } from "./lifetime.ts";
import { type GateOptions, gateOptions } from "./options.ts";
import { checkBitmap, checkKeyListPage, checkStoreResult } from "./results.ts";
import { GateRecorder, type GateStatus, perOperation } from "./status.ts";

/** Most keys on one page of `listKeys`. */
const PAGE_SIZE_MAX = 5000;
/** How many stuck operations are listed. */
const LISTED_STUCK_MAX = 16;

interface Limits {
  readonly maxBatchKeys: number;
  readonly maxObjectBytes: number;
}

function limitsOf(id: string, adapter: L2Adapter): Limits {
  const { maxBatchKeys, maxObjectBytes } = adapter.capabilities;
  if (!(maxBatchKeys >= 1) || !(maxObjectBytes >= 0)) {
    throw new CacheError(
      "INVALID_ARGUMENT",
      `L2 adapter ${id}: maxBatchKeys ${maxBatchKeys} or maxObjectBytes ${maxObjectBytes} in its manifest ` +
        "is no usable bound; fix the adapter's manifest",
      { details: { adapter: id } },
    );
  }
  return { maxBatchKeys, maxObjectBytes };
}

function assertEqualLengths(first: number, second: number, what: string): void {
  if (first !== second) throw new TypeError(`${first} keys and ${second} ${what}: the lists belong together`);
}

/**
 * Puts an adapter behind the gate. Does no I/O.
 *
 * @param id the configured id, `{type}` or `{type}.{instance}`; it stands in every message.
 * @throws CacheError `INVALID_CONFIG` for a bad option, `INVALID_ARGUMENT` for a manifest without usable bounds.
 */
export function guardAdapter(
  id: string,
  adapter: L2Adapter,
  options: Partial<GateOptions> = {},
): GuardedAdapter {
  return new Gate(id, adapter, gateOptions(options));
}

class Gate implements GuardedAdapter {
  readonly id: string;
  readonly adapter: L2Adapter;
  readonly #options: GateOptions;
  readonly #limits: Limits;
  readonly #recorder: GateRecorder;
  readonly #breaker: CircuitBreaker;
  readonly #lifetime: AdapterLifetime;
  #inTrouble = false;
  readonly #lanes: {
    readonly store: Lane<AnyCall>;
    readonly load: Lane<AnyCall>;
    readonly other: Lane<AnyCall>;
  };
  /** Answered, and not settled. A Set keeps the oldest first. */
  readonly #stuck = new Set<AnyCall>();
  readonly #host: CallHost;

  constructor(id: string, adapter: L2Adapter, options: GateOptions) {
    this.id = id;
    this.adapter = adapter;
    this.#options = options;
    this.#limits = limitsOf(id, adapter);
    this.#recorder = new GateRecorder(options.clock);
    this.#breaker = new CircuitBreaker(options, {
      opened: () => this.#breakerOpened(),
      closed: () => this.#breakerClosed(),
    });
    this.#lifetime = new AdapterLifetime(id, adapter, options, this.#recorder);
    const lane = (): Lane<AnyCall> =>
      new Lane({
        operations: options.maxInFlightOperations,
        bytes: options.maxInFlightTransferBytes,
        queued: options.maxQueuedOperations,
      });
    this.#lanes = { store: lane(), load: lane(), other: lane() };
    this.#host = {
      id,
      clock: options.clock,
      maxParallelBatches: options.maxParallelBatches,
      breaker: this.#breaker,
      recorder: this.#recorder,
      breakerOpen: (operation) => this.#breakerOpen(operation),
      answered: (call) => this.#onAnswered(call),
      settled: (call) => this.#onSettled(call),
    };
  }

  #breakerOpened(): void {
    this.#cancelQueued((operation) => this.#breakerOpen(operation));
    if (this.#inTrouble) return;
    this.#inTrouble = true;
    this.#options.onTrouble(this.#recorder.lastMessage);
  }

  #breakerClosed(): void {
    this.#inTrouble = false;
    this.#options.onRecovered();
  }

  get breaker(): BreakerState {
    return this.#breaker.state;
  }

  get isClosing(): boolean {
    return this.#lifetime.isClosing;
  }

  canTry(): boolean {
    return this.#lifetime.phase === "open" && this.#breaker.canTry();
  }

  open(context: Omit<OpenContext, "signal">): Promise<void> {
    return this.#lifetime.open(context);
  }

  close(): Promise<CloseReport> {
    const report = this.#lifetime.close({
      unsettled: () => this.#unsettled(),
      cancelAll: () => this.#cancelRunning(),
    });
    this.#cancelQueued((operation) => adapterClosed(this.id, operation));
    return report;
  }

  store(
    keys: readonly ObjectKey[],
    objects: readonly MemoryObj[],
    options?: CallOptions,
  ): GuardedCall<L2StoreResult> {
    assertEqualLengths(keys.length, objects.length, "objects");
    const [ownKeys, ownObjects] = [[...keys], [...objects]];
    const refused = this.#tooLarge(ownObjects.map((object) => object.bytes.byteLength));
    const batches = splitPositions(keys.length, refused, this.#limits.maxBatchKeys);
    const sizeOf = (batch: readonly number[]): number =>
      pick(ownObjects, batch).reduce((sum, object) => sum + object.bytes.byteLength, 0);
    const bytes = sizeOf(batches.flat());
    return this.#submit<L2StoreResult, L2StoreResult>(
      {
        operation: "store",
        keyCount: keys.length,
        bytes,
        ...this.#transferDeadline(bytes),
        batches,
        invoke: (batch, signal) => this.adapter.store(pick(ownKeys, batch), pick(ownObjects, batch), signal),
        check: (batch, answer) => checkStoreResult(this.id, batch.length, sizeOf(batch), answer),
        failedParts: (answer) => ({ errors: answer.failed.values(), anyGood: answer.stored.count() > 0 }),
        merge: (answers) => mergeStoreResults(keys.length, batches, refused, answers),
      },
      options,
    );
  }

  lookupAndLock(requests: readonly SizedKey[], options?: CallOptions): GuardedCall<Bitmap> {
    const own = [...requests];
    const refused = this.#tooLarge(own.map((request) => request.byteLength));
    return this.#submitBitmap("lookupAndLock", own.length, refused, options, {
      bytes: 0,
      deadlineMs: this.#options.lookupDeadlineMs,
      deadlineHint: this.#options.deadlineHints.lookup,
      invoke: (batch, signal) => this.adapter.lookupAndLock(pick(own, batch), signal),
      discardLate: (batch, found) => {
        const keys = found.gather(pick(own, batch)).map((request) => request.key);
        this.#recorder.lateLocksReleased += keys.length;
        this.unlock(keys);
      },
    });
  }

  load(
    requests: readonly SizedKey[],
    into: readonly MemoryObj[],
    options?: CallOptions,
  ): GuardedCall<Bitmap> {
    assertEqualLengths(requests.length, into.length, "buffers");
    const [own, buffers] = [[...requests], [...into]];
    own.forEach((request, i) =>
      assertEqualLengths(request.byteLength, buffers[i]?.bytes.byteLength ?? 0, `(bytes) of buffer ${i}`),
    );
    const refused = this.#tooLarge(own.map((request) => request.byteLength));
    const bytes = own.reduce((sum, { byteLength }, i) => sum + (refused.has(i) ? 0 : byteLength), 0);
    return this.#submitBitmap("load", own.length, refused, options, {
      bytes,
      ...this.#transferDeadline(bytes),
      invoke: (batch, signal) => this.adapter.load(pick(own, batch), pick(buffers, batch), signal),
    });
  }

  delete(keys: readonly ObjectKey[], options?: CallOptions): GuardedCall<Bitmap> {
    const { adapter } = this;
    if (!adapter.capabilities.delete || adapter.delete === undefined) return this.#notOffered("delete");
    const own = [...keys];
    return this.#submitBitmap("delete", own.length, new Map(), options, {
      bytes: 0,
      deadlineMs: this.#options.deleteDeadlineMs,
      deadlineHint: this.#options.deadlineHints.delete,
      invoke: (batch, signal) => adapter.delete?.(pick(own, batch), signal),
    });
  }

  quarantine(keys: readonly ObjectKey[], reason: string, options?: CallOptions): GuardedCall<Bitmap> {
    const { adapter } = this;
    if (!adapter.capabilities.quarantine || adapter.quarantine === undefined) {
      return this.#notOffered("quarantine");
    }
    const own = [...keys];
    return this.#submitBitmap("quarantine", own.length, new Map(), options, {
      bytes: 0,
      deadlineMs: this.#options.deleteDeadlineMs,
      deadlineHint: this.#options.deadlineHints.delete,
      invoke: async (batch, signal) => {
        await adapter.quarantine?.(pick(own, batch), reason, signal);
        return Bitmap.full(batch.length);
      },
    });
  }

  listKeys(page: PageRequest, options?: CallOptions): GuardedCall<KeyListPage> {
    const { adapter } = this;
    if (!adapter.capabilities.listKeys || adapter.listKeys === undefined) return this.#notOffered("listKeys");
    const { pageSize } = page;
    if (!Number.isInteger(pageSize) || pageSize < 1 || pageSize > PAGE_SIZE_MAX) {
      throw new TypeError(`pageSize ${pageSize} is not a whole number in 1..${PAGE_SIZE_MAX}`);
    }
    return this.#submit<KeyListPage, KeyListPage>(
      {
        operation: "listKeys",
        keyCount: pageSize,
        bytes: 0,
        deadlineMs: this.#options.listDeadlineMs,
        deadlineHint: this.#options.deadlineHints.list,
        batches: [[0]],
        invoke: (_, signal) => adapter.listKeys?.(page, signal),
        check: (_, answer) => checkKeyListPage(this.id, pageSize, answer),
        merge: ([answer]) => ({
          value: answer?.ok === true ? answer.value : { entries: [], nextPageToken: null },
          failures: new Map(),
        }),
      },
      options,
    );
  }

  unlock(keys: readonly ObjectKey[]): void {
    const phase = this.#lifetime.phase;
    if (phase !== "open" && phase !== "closing") return;
    for (const batch of splitPositions(keys.length, new Map(), this.#limits.maxBatchKeys)) {
      try {
        // Typed void; an adapter in JavaScript may return a promise all the same, and it may reject.
        const answer: unknown = this.adapter.unlock(pick(keys, batch));
        Promise.resolve(answer).catch((error: unknown) => this.#unlockFailed(error));
      } catch (error) {
        this.#unlockFailed(error);
      }
    }
  }

  status(): GateStatus {
    const lanes = Object.values(this.#lanes);
    const count = (calls: Iterable<AnyCall>[]): Record<GateOperation, number> => {
      const counts = perOperation(() => 0);
      for (const list of calls) for (const call of list) counts[call.operation]++;
      return counts;
    };
    const sumBytes = (calls: Iterable<AnyCall>): number =>
      [...calls].reduce((sum, { bytes }) => sum + bytes, 0);
    return {
      id: this.id,
      phase: this.#lifetime.phase,
      breaker: this.#breaker.state,
      inFlight: count(lanes.map((lane) => lane.running)),
      queued: count(lanes.map((lane) => lane.queued)),
      inFlightBytes: lanes.reduce((sum, lane) => sum + sumBytes(lane.running), 0),
      stuck: {
        operations: this.#stuck.size,
        bytes: sumBytes(this.#stuck),
        oldest: [...this.#stuck]
          .slice(0, LISTED_STUCK_MAX)
          .map((call) => describeStuck(call, this.#options.clock.now())),
      },
      ...this.#recorder.summary(),
    };
  }

  /** A plan whose answers are bitmaps, one position for each key. */
  #submitBitmap(
    operation: GateOperation,
    keyCount: number,
    refused: ReadonlyMap<number, CacheError>,
    options: CallOptions | undefined,
    rest: Pick<CallPlan<Bitmap, Bitmap>, "bytes" | "deadlineMs" | "deadlineHint" | "invoke" | "discardLate">,
  ): GuardedCall<Bitmap> {
    const batches = splitPositions(keyCount, refused, this.#limits.maxBatchKeys);
    return this.#submit<Bitmap, Bitmap>(
      {
        ...rest,
        operation,
        keyCount,
        batches,
        check: (batch, answer) => checkBitmap(this.id, operation, batch.length, answer),
        merge: (answers) => mergeBitmaps(keyCount, batches, refused, answers),
      },
      options,
    );
  }

  #submit<Answer, Result>(
    plan: CallPlan<Answer, Result>,
    options: CallOptions | undefined,
  ): GuardedCall<Result> {
    const { operation } = plan;
    const refusal = this.#refusal(operation, options?.signal);
    if (refusal !== null) return this.#refuse(operation, refusal);
    if (plan.batches.length === 0) {
      const merged = plan.merge([]);
      const first = merged.failures.values().next().value;
      if (first !== undefined) this.#recorder.error(operation, first);
      return answeredCall(merged);
    }
    const call = new RunningCall(plan, this.#host);
    if (!this.#laneOf(operation).submit(call)) {
      call.cancel(queueFull(this.id, operation, this.#options.maxQueuedOperations));
      return call;
    }
    const signal = options?.signal;
    if (signal !== undefined) {
      const giveUp = (): void => call.cancel(givenUp(this.id, operation));
      signal.addEventListener("abort", giveUp, { once: true });
      void call.outcome.catch(() => {}).then(() => signal.removeEventListener("abort", giveUp));
    }
    return call;
  }

  /** Why an operation cannot even wait, or null. */
  #refusal(operation: GateOperation, signal: AbortSignal | undefined): CacheError | null {
    if (this.#lifetime.phase !== "open") return adapterClosed(this.id, operation);
    if (signal?.aborted === true) return givenUp(this.id, operation);
    if (!this.#breaker.canTry()) return this.#breakerOpen(operation);
    if (this.#stuck.size < this.#options.maxStuckOperations) return null;
    return tooManyStuck(this.id, operation, this.#stuck.size);
  }

  #refuse<Result>(operation: GateOperation, error: CacheError): GuardedCall<Result> {
    this.#recorder.error(operation, error);
    return answeredCall<Result>(error);
  }

  #notOffered<Result>(operation: GateOperation): GuardedCall<Result> {
    return this.#refuse(operation, notOffered(this.id, operation));
  }

  #breakerOpen(operation: GateOperation): CacheError {
    const state = this.#breaker.state;
    return breakerIsOpen(this.id, operation, state.state === "open" ? state.nextProbeInMs : 0);
  }

  #tooLarge(byteLengths: readonly number[]): Map<number, CacheError> {
    const refused = new Map<number, CacheError>();
    const { maxObjectBytes } = this.#limits;
    byteLengths.forEach((byteLength, i) => {
      if (byteLength > maxObjectBytes) refused.set(i, objectTooLarge(this.id, byteLength, maxObjectBytes));
    });
    return refused;
  }

  #transferDeadline(bytes: number): { deadlineMs: number; deadlineHint: string | null } {
    const { transferBaseMs, transferBytesPerSecond, deadlineHints } = this.#options;
    return {
      deadlineMs: transferBaseMs + (bytes / transferBytesPerSecond) * 1000,
      deadlineHint: deadlineHints.transfer,
    };
  }

  #laneOf(operation: GateOperation): Lane<AnyCall> {
    return operation === "store" || operation === "load" ? this.#lanes[operation] : this.#lanes.other;
  }

  #onAnswered(call: AnyCall): void {
    const lane = this.#laneOf(call.operation);
    if (lane.running.has(call)) this.#stuck.add(call);
    lane.remove(call);
  }

  #onSettled(call: AnyCall): void {
    this.#stuck.delete(call);
  }

  #cancelQueued(errorFor: (operation: GateOperation) => CacheError): void {
    for (const lane of Object.values(this.#lanes)) {
      for (const call of lane.takeQueued()) call.cancel(errorFor(call.operation));
    }
  }

  #cancelRunning(): void {
    for (const lane of Object.values(this.#lanes)) {
      for (const call of lane.running) call.cancel(adapterClosed(this.id, call.operation));
    }
  }

  #unsettled(): AnyCall[] {
    return [...this.#stuck, ...Object.values(this.#lanes).flatMap((lane) => [...lane.running])];
  }

  #unlockFailed(error: unknown): void {
    this.#recorder.error("unlock", asCacheError(this.id, "unlock", error));
  }
}

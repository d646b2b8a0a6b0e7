import { CacheError, isCacheError } from "@cache/contracts";
import type { Batch, BatchAnswer, Merged } from "./batches.ts";
import type { BreakerTicket, CircuitBreaker } from "./breaker.ts";
import type { GateClock, GateTimer } from "./clock.ts";
import { asCacheError, countsForBreaker, type GateOperation } from "./failures.ts";
import type { LaneItem } from "./lane.ts";
import type { GateRecorder } from "./status.ts";

/** One guarded operation. */
export interface GuardedCall<Result> {
  /**
   * The answer, at the deadline at the latest. Resolves if at least one batch was answered (or none was
   * needed); rejects with a `CacheError` if none was. A rejection that nobody looks at does no harm.
   */
  readonly outcome: Promise<Result>;
  /** Resolves, and never rejects, once nothing touches the buffers any more. May be much later, or never. */
  readonly settled: Promise<void>;
  /**
   * Positions without an answer, and why; complete when `outcome` has settled. A clear bit with an entry here
   * is not a miss (lookup, load) and not "still there" (delete).
   */
  failures(): ReadonlyMap<number, CacheError>;
  /**
   * The final answer, once `settled`: with a late load's bits and a late store's results. A late lookup's bits
   * are not in it, since its locks were given back. Null before, and if no batch was answered.
   */
  lateResult(): Result | null;
}

/** What to call and how to read the answers. */
export interface CallPlan<Answer, Result> {
  readonly operation: GateOperation;
  readonly keyCount: number;
  /** Payload bytes of the buffers; 0 where there are none. */
  readonly bytes: number;
  readonly deadlineMs: number;
  /** What to change so that there is more time. */
  readonly deadlineHint: string | null;
  readonly batches: readonly Batch[];
  /** Calls the adapter for one batch. May throw. */
  invoke(batch: Batch, signal: AbortSignal): unknown;
  /** Checks an answer; throws what is wrong with it. */
  check(batch: Batch, answer: unknown): Answer;
  /** Errors of single keys inside an answer, and whether any key went well. */
  failedParts?(answer: Answer): { readonly errors: Iterable<CacheError>; readonly anyGood: boolean };
  /** Gives back what an answer brought that came too late; such an answer is then not merged. */
  discardLate?(batch: Batch, answer: Answer): void;
  merge(answers: readonly BatchAnswer<Answer>[]): Merged<Result>;
}

/** What a running call needs of its gate. */
export interface CallHost {
  readonly id: string;
  readonly clock: GateClock;
  readonly maxParallelBatches: number;
  readonly breaker: CircuitBreaker;
  readonly recorder: GateRecorder;
  /** The error for a call that the open breaker stops. */
  breakerOpen(operation: GateOperation): CacheError;
  /** The caller has its answer; the call gives back its room. */
  answered(call: AnyCall): void;
  /** Nothing of the call runs any more. */
  settled(call: AnyCall): void;
}

/** A call of whatever type, as the gate keeps it. */
export interface AnyCall extends LaneItem {
  readonly operation: GateOperation;
  readonly keyCount: number;
  readonly startedAt: number;
  readonly isAnswered: boolean;
  readonly settled: Promise<void>;
  /** Answers now with this error for all that has no answer yet, and aborts what runs. */
  cancel(error: CacheError): void;
}

/** Drives one operation through queue, breaker, batches and deadline. */
export class RunningCall<Answer, Result> implements GuardedCall<Result>, AnyCall {
  readonly outcome: Promise<Result>;
  readonly settled: Promise<void>;
  readonly startedAt: number;
  readonly #plan: CallPlan<Answer, Result>;
  readonly #host: CallHost;
  readonly #controller = new AbortController();
  readonly #answers: (BatchAnswer<Answer> | undefined)[];
  readonly #timer: GateTimer;
  #resolve: (result: Result) => void = () => {};
  #reject: (error: CacheError) => void = () => {};
  #settle: () => void = () => {};
  #ticket: BreakerTicket | null = null;
  #isAnswered = false;
  #wasStarted = false;
  #hasLateAnswer = false;
  #isSettled = false;
  /** The error for batches without an answer: not called, or called and late. */
  #missing: CacheError | null = null;
  #failures: ReadonlyMap<number, CacheError> = new Map();
  #lateResult: Result | null = null;

  constructor(plan: CallPlan<Answer, Result>, host: CallHost) {
    this.#plan = plan;
    this.#host = host;
    this.startedAt = host.clock.now();
    this.#answers = plan.batches.map(() => undefined);
    this.outcome = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.outcome.catch(() => {});
    this.settled = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.#timer = host.clock.setTimer(plan.deadlineMs, () => this.#onDeadline());
  }

  get operation(): GateOperation {
    return this.#plan.operation;
  }

  get keyCount(): number {
    return this.#plan.keyCount;
  }

  get bytes(): number {
    return this.#plan.bytes;
  }

  get isAnswered(): boolean {
    return this.#isAnswered;
  }

  failures(): ReadonlyMap<number, CacheError> {
    return this.#failures;
  }

  lateResult(): Result | null {
    return this.#isSettled ? this.#lateResult : null;
  }

  start(): void {
    this.#ticket = this.#host.breaker.enter();
    if (this.#ticket === null) {
      this.cancel(this.#host.breakerOpen(this.operation));
      return;
    }
    this.#wasStarted = true;
    void this.#run(this.#ticket).then(() => this.#finish());
  }

  cancel(error: CacheError): void {
    if (this.#isAnswered) return;
    this.#missing = error;
    this.#host.recorder.error(this.operation, error);
    this.#answer();
    // The timer goes on: an adapter that does not even end an aborted call by its deadline has failed.
    if (this.#wasStarted) this.#controller.abort(error);
    else this.#finish();
  }

  #onDeadline(): void {
    const error = this.#deadlineError();
    // Before the answer, which makes room: what waits must not start on a breaker that is about to open.
    if (this.#ticket !== null) this.#host.breaker.report(this.#ticket, "failure");
    this.#ticket = null;
    if (this.#isAnswered) this.#host.recorder.error(this.operation, error);
    else this.cancel(error);
  }

  async #run(ticket: BreakerTicket): Promise<void> {
    let next = 0;
    const { batches } = this.#plan;
    // One probe is one call of the adapter: the rest follows only once it went well.
    if (ticket.probe && batches.length > 1) await this.#runBatch(next++, ticket);
    const worker = async (): Promise<void> => {
      while (next < batches.length && !this.#isAnswered) await this.#runBatch(next++, ticket);
    };
    const workers = Math.min(this.#host.maxParallelBatches, batches.length - next);
    await Promise.all(Array.from({ length: workers }, worker));
  }

  async #runBatch(index: number, ticket: BreakerTicket): Promise<void> {
    const plan = this.#plan;
    const host = this.#host;
    const batch = plan.batches[index] ?? [];
    if (!host.breaker.allows(ticket)) {
      this.#answers[index] = { ok: false, error: host.breakerOpen(plan.operation) };
      host.recorder.error(plan.operation, host.breakerOpen(plan.operation));
      return;
    }
    const calledAt = host.clock.now();
    let answer: BatchAnswer<Answer>;
    try {
      const raw: unknown = await plan.invoke(batch, this.#controller.signal);
      answer = { ok: true, value: plan.check(batch, raw) };
    } catch (thrown) {
      answer = { ok: false, error: asCacheError(host.id, plan.operation, thrown) };
    }
    host.recorder.duration(plan.operation, host.clock.now() - calledAt);
    if (this.#isAnswered) this.#takeLate(index, batch, answer);
    else this.#take(index, answer, ticket);
  }

  #take(index: number, answer: BatchAnswer<Answer>, ticket: BreakerTicket): void {
    const host = this.#host;
    const operation = this.operation;
    this.#answers[index] = answer;
    const parts = answer.ok ? this.#plan.failedParts?.(answer.value) : undefined;
    const errors = answer.ok ? [...(parts?.errors ?? [])] : [answer.error];
    const codes = new Set<string>();
    for (const error of errors) {
      if (!codes.has(error.code)) host.recorder.error(operation, error);
      codes.add(error.code);
    }
    if (errors.length === 0 || parts?.anyGood === true) host.breaker.report(ticket, "success");
    else host.breaker.report(ticket, errors.some(countsForBreaker) ? "failure" : "neutral");
  }

  /** The breaker has counted this call already: only keep, or give back, what it brought. */
  #takeLate(index: number, batch: Batch, answer: BatchAnswer<Answer>): void {
    if (answer.ok && this.#plan.discardLate !== undefined) this.#plan.discardLate(batch, answer.value);
    else {
      this.#answers[index] = answer;
      this.#hasLateAnswer = true;
    }
  }

  #mergeAnswers(): { readonly merged: Merged<Result>; readonly rejection: CacheError | null } {
    let rejection: CacheError | null = null;
    let anyGood = this.#answers.length === 0;
    const answers = this.#answers.map((given): BatchAnswer<Answer> => {
      if (given === undefined) this.#missing ??= this.#deadlineError();
      const answer = given ?? { ok: false, error: this.#missing as CacheError };
      if (answer.ok) anyGood = true;
      else rejection ??= answer.error;
      return answer;
    });
    return { merged: this.#plan.merge(answers), rejection: anyGood ? null : rejection };
  }

  #answer(): void {
    if (this.#isAnswered) return;
    this.#isAnswered = true;
    const { merged, rejection } = this.#mergeAnswers();
    this.#failures = merged.failures;
    if (rejection === null) {
      this.#lateResult = merged.value;
      this.#resolve(merged.value);
    } else this.#reject(rejection);
    this.#host.answered(this);
  }

  #finish(): void {
    this.#answer();
    this.#timer.cancel();
    // Only a call that its caller gave up, a probe perhaps, can still owe the breaker a report here.
    if (this.#ticket !== null) this.#host.breaker.report(this.#ticket, "neutral");
    if (this.#hasLateAnswer) {
      const { merged, rejection } = this.#mergeAnswers();
      if (rejection === null) this.#lateResult = merged.value;
    }
    this.#isSettled = true;
    this.#host.settled(this);
    this.#settle();
  }

  #deadlineError(): CacheError {
    const { operation, keyCount, bytes, deadlineMs, deadlineHint } = this.#plan;
    const size = bytes > 0 ? ` and ${bytes} bytes` : "";
    const did = this.#wasStarted ? "has no answer" : "waited for room";
    return new CacheError(
      "ABORTED",
      `L2 adapter ${this.#host.id}: ${operation} of ${keyCount} keys${size} ${did} after ` +
        `${Math.round(deadlineMs)} ms; check its backend${deadlineHint === null ? "" : `, or ${deadlineHint}`}`,
      { details: { adapter: this.#host.id, operation, deadlineMs, remedy: deadlineHint } },
    );
  }
}

/** A call that was answered without the adapter. */
export function answeredCall<Result>(answer: Merged<Result> | CacheError): GuardedCall<Result> {
  const refused = isCacheError(answer);
  const outcome = refused ? Promise.reject<Result>(answer) : Promise.resolve(answer.value);
  outcome.catch(() => {});
  const failures = refused ? new Map<number, CacheError>() : answer.failures;
  return {
    outcome,
    settled: Promise.resolve(),
    failures: () => failures,
    lateResult: () => (refused ? null : answer.value),
  };
}

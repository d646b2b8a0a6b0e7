import { CacheError, type L2Adapter, type OpenContext } from "@cache/contracts";
import type { AnyCall } from "./call.ts";
import { withDeadline } from "./clock.ts";
import { adapterClosed, asCacheError } from "./failures.ts";
import type { GateOptions } from "./options.ts";
import type { GatePhase, GateRecorder, StuckOperation } from "./status.ts";

/** How a close went. */
export interface CloseReport {
  /** True if the adapter's own `close` resolved in time. */
  readonly closed: boolean;
  /** Operations that had not settled when the wait ended: their buffers must not be released. */
  readonly stuck: readonly StuckOperation[];
  /** Why it is not closed; null if it is. */
  readonly error: CacheError | null;
}

/** What a close needs to know and do about operations. */
export interface OpenWork {
  /** Operations whose buffers may still be touched. */
  unsettled(): readonly AnyCall[];
  /** Aborts what still runs. */
  cancelAll(): void;
}

/** A call as the status shows it. */
export function describeStuck(call: AnyCall, now: number): StuckOperation {
  const { operation, keyCount, bytes, startedAt } = call;
  return { operation, keys: keyCount, bytes, ageMs: now - startedAt };
}

/** Opens and closes an adapter, each with a deadline. */
export class AdapterLifetime {
  readonly #id: string;
  readonly #adapter: L2Adapter;
  readonly #options: GateOptions;
  readonly #recorder: GateRecorder;
  #phase: GatePhase = "new";
  #attempt: { readonly controller: AbortController; readonly ended: Promise<void> } | null = null;
  #closing: Promise<CloseReport> | null = null;
  #closesRunning = 0;

  constructor(id: string, adapter: L2Adapter, options: GateOptions, recorder: GateRecorder) {
    this.#id = id;
    this.#adapter = adapter;
    this.#options = options;
    this.#recorder = recorder;
  }

  get phase(): GatePhase {
    return this.#phase;
  }

  /** @throws CacheError what the adapter says, `ABORTED` at the deadline, `ADAPTER_CLOSED` out of turn. */
  async open(context: Omit<OpenContext, "signal">): Promise<void> {
    if (this.#phase !== "new" || this.#attempt !== null) {
      throw new CacheError(
        "ADAPTER_CLOSED",
        `L2 adapter ${this.#id} is ${this.#attempt === null ? this.#phase : "still in an earlier open"}: ` +
          "open it once, before close",
        { details: { adapter: this.#id, phase: this.#phase } },
      );
    }
    this.#phase = "opening";
    const controller = new AbortController();
    const opened = this.#tryOpen(context, controller.signal);
    const ended = opened.then(
      () => {},
      () => {},
    );
    this.#attempt = { controller, ended };
    void ended.then(() => {
      this.#attempt = null;
    });
    try {
      const { openDeadlineMs, clock } = this.#options;
      const answer = await withDeadline(clock, openDeadlineMs, opened);
      if (!answer.inTime) throw this.#late("open", openDeadlineMs);
      if (this.phase !== "opening") throw adapterClosed(this.#id, "open");
      this.#phase = "open";
    } catch (thrown) {
      const error = asCacheError(this.#id, "open", thrown);
      this.#recorder.error("open", error);
      if (this.phase === "opening") this.#phase = "new";
      controller.abort(error);
      // A connection that comes after all belongs to nobody.
      void opened.then(
        () => this.#closeAdapter(),
        () => {},
      );
      throw error;
    }
  }

  /** See `GuardedAdapter.close`. */
  close(work: OpenWork): Promise<CloseReport> {
    this.#closing ??= this.#close(work);
    return this.#closing;
  }

  async #tryOpen(context: Omit<OpenContext, "signal">, signal: AbortSignal): Promise<void> {
    await this.#adapter.open({ ...context, signal });
  }

  async #close(work: OpenWork): Promise<CloseReport> {
    const { clock, closeDeadlineMs } = this.#options;
    this.#phase = "closing";
    this.#attempt?.controller.abort(adapterClosed(this.#id, "open"));
    const ends = work.unsettled().map((call) => call.settled);
    if (this.#attempt !== null) ends.push(this.#attempt.ended);
    const drained = await withDeadline(clock, closeDeadlineMs, Promise.all(ends));
    if (!drained.inTime) work.cancelAll();
    const closing = this.#closeAdapter();
    const answer = await withDeadline(clock, closeDeadlineMs, closing);
    this.#phase = "closed";
    const late = this.#late("close", closeDeadlineMs);
    const error = answer.inTime ? answer.value : late;
    if (!answer.inTime) this.#recorder.error("close", late);
    const now = clock.now();
    const stuck = work.unsettled().map((call) => describeStuck(call, now));
    return { closed: error === null, stuck, error };
  }

  /** See `GuardedAdapter.isClosing`. */
  get isClosing(): boolean {
    return this.#closesRunning > 0 || (this.#closing !== null && this.#attempt !== null);
  }

  async #closeAdapter(): Promise<CacheError | null> {
    this.#closesRunning++;
    try {
      await this.#adapter.close();
      return null;
    } catch (thrown) {
      const error = asCacheError(this.#id, "close", thrown);
      this.#recorder.error("close", error);
      return error;
    } finally {
      this.#closesRunning--;
    }
  }

  #late(operation: "open" | "close", deadlineMs: number): CacheError {
    const remedy = this.#options.deadlineHints[operation];
    const { location } = this.#adapter;
    return new CacheError(
      "ABORTED",
      `L2 adapter ${this.#id} at ${location}: ${operation} has not ended after ${deadlineMs} ms; check that its ` +
        `backend answers there as it is configured (address, TLS)${remedy === null ? "" : `, or ${remedy}`}`,
      { details: { adapter: this.#id, operation, deadlineMs, remedy } },
    );
  }
}

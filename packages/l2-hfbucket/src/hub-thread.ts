import { Worker } from "node:worker_threads";
import { CacheError, messageOf } from "@cache/contracts";
import { errorOf } from "./failures.ts";
import type { CallName, FromThread, HubCalls, ThreadSettings, ToThread } from "./protocol.ts";

/** How threads are run; other values than the defaults are for tests. */
export interface ThreadOptions {
  /** The threads' program. */
  readonly entry: URL;
  /** A call that does not end so long after its abort costs its thread, in milliseconds. */
  readonly abortGraceMs: number;
  /** A thread without calls ends after up to twice this time, but for one; in milliseconds. */
  readonly idleMs: number;
}

/** The program is the build, also where sources run, since a thread has no TypeScript. */
export const THREAD_DEFAULTS: ThreadOptions = {
  entry: new URL("../dist/hub-worker.js", import.meta.url),
  abortGraceMs: 5000,
  idleMs: 60_000,
};

/** A call, and what to do with its parts. */
export interface ThreadCall<Name extends CallName> {
  readonly name: Name;
  readonly given: HubCalls[Name]["given"];
  /** Memory that goes over to the thread. */
  readonly transfer?: ArrayBuffer[];
  /** Takes a part; the next one comes after it. Never called once the signal has fired. */
  readonly onPart?: (part: unknown) => void | Promise<void>;
}

interface Pending {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly onPart: ((part: unknown) => void | Promise<void>) | undefined;
  readonly signal: AbortSignal;
}

/** One thread with its own connections and tokens. */
export class HubThread {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  readonly #abortGraceMs: number;
  readonly #onGone: (thread: HubThread) => void;
  /** Calls since its owner set this to 0. */
  callsSeen = 0;
  #nextId = 0;
  #ending = false;

  /** @param onGone the thread has ended. */
  constructor(settings: ThreadSettings, options: ThreadOptions, onGone: (thread: HubThread) => void) {
    this.#onGone = onGone;
    this.#abortGraceMs = options.abortGraceMs;
    this.#worker = new Worker(options.entry, { name: "hfbucket", workerData: settings, execArgv: [] });
    this.#worker.unref();
    this.#worker.on("message", (message: FromThread) => this.#receive(message));
    this.#worker.on("error", (error) => this.#gone(messageOf(error)));
    this.#worker.on("exit", () => this.#gone("it ended"));
  }

  /** It takes no more calls, and ends when those under way have settled. */
  get isEnding(): boolean {
    return this.#ending;
  }

  /** Calls under way. */
  get calls(): number {
    return this.#pending.size;
  }

  /**
   * Runs a call. At the abort the thread is told, and the call settles when the thread has let go of it.
   *
   * @throws CacheError `ABORTED`, or what went wrong.
   */
  call<Name extends CallName>(
    call: ThreadCall<Name>,
    signal: AbortSignal,
  ): Promise<HubCalls[Name]["answer"]> {
    const id = this.#nextId++;
    this.callsSeen++;
    let timer: NodeJS.Timeout | undefined;
    const onAbort = (): void => {
      this.#post({ id, abort: true });
      timer = setTimeout(() => this.#abandon(id), this.#abortGraceMs);
    };
    type Answer = HubCalls[Name]["answer"];
    const work = new Promise<Answer>((resolve, reject) => {
      const settle = (answer: unknown): void => resolve(answer as Answer);
      this.#pending.set(id, { resolve: settle, reject, onPart: call.onPart, signal });
      this.#worker.ref();
      this.#post({ id, name: call.name, given: call.given }, call.transfer);
      if (signal.aborted) onAbort();
      else signal.addEventListener("abort", onAbort, { once: true });
    });
    return work.finally(() => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    });
  }

  #post(message: ToThread, transfer: ArrayBuffer[] = []): void {
    this.#worker.postMessage(message, transfer);
  }

  #receive(message: FromThread): void {
    const pending = this.#pending.get(message.id);
    if (pending === undefined) return;
    if ("part" in message) {
      void this.#takePart(message.id, message.part, pending);
      return;
    }
    this.#settle(message.id);
    if ("failure" in message) pending.reject(errorOf(message.failure));
    else pending.resolve(message.answer);
  }

  async #takePart(id: number, part: unknown, { onPart, signal, reject }: Pending): Promise<void> {
    if (signal.aborted) return;
    try {
      await onPart?.(part);
      if (!signal.aborted) this.#post({ id, taken: true });
    } catch (error) {
      this.#post({ id, abort: true });
      this.#settle(id);
      reject(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #settle(id: number): void {
    this.#pending.delete(id);
    if (this.#pending.size > 0) return;
    this.#worker.unref();
    if (this.#ending) void this.#worker.terminate();
  }

  /** A call does not end: no more calls come here, and the thread ends with the others. */
  #abandon(id: number): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    this.#ending = true;
    this.#settle(id);
    pending.reject(new CacheError("ABORTED", "the call was ended early and its thread with it"));
  }

  #gone(reason: string): void {
    this.#onGone(this);
    const error = new CacheError(
      "BACKEND_UNAVAILABLE",
      `a thread that talked to the Hub is gone: ${reason}; the next call starts another`,
    );
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }

  /** Ends it at once. */
  async end(): Promise<void> {
    this.#ending = true;
    await this.#worker.terminate();
  }
}

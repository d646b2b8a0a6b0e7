import { CacheError } from "@cache/contracts";
import { HubThread, THREAD_DEFAULTS, type ThreadCall, type ThreadOptions } from "./hub-thread.ts";
import type { CallName, HubCalls, ThreadSettings } from "./protocol.ts";

/** Calls that compute; the others only wait for the Hub. */
const HEAVY: ReadonlySet<CallName> = new Set<CallName>(["put", "get"]);

/** Threads that talk to the Hub: none at first, more while all compute, up to a bound. */
export class HubThreads {
  readonly #settings: ThreadSettings;
  readonly #options: ThreadOptions;
  readonly #most: number;
  readonly #threads = new Set<HubThread>();
  readonly #idleTimer: NodeJS.Timeout;
  #calls = 0;
  #started = 0;
  #closed = false;

  constructor(settings: ThreadSettings, most: number, options: ThreadOptions = THREAD_DEFAULTS) {
    this.#settings = settings;
    this.#options = options;
    this.#most = most;
    this.#idleTimer = setInterval(() => this.#endIdle(), options.idleMs).unref();
  }

  /** Threads that run now. */
  get running(): number {
    return this.#threads.size;
  }

  /** Threads that were started. */
  get started(): number {
    return this.#started;
  }

  /** Calls so far. */
  get calls(): number {
    return this.#calls;
  }

  /** Runs a call on the thread with the least to do. @throws CacheError as {@link HubThread.call}. */
  async call<Name extends CallName>(
    call: ThreadCall<Name>,
    signal: AbortSignal,
  ): Promise<HubCalls[Name]["answer"]> {
    if (this.#closed)
      throw new CacheError("ADAPTER_CLOSED", "the hfbucket adapter is closed; make a new one");
    if (signal.aborted) throw new CacheError("ABORTED", "the call was ended before it began");
    this.#calls++;
    return this.#choose(HEAVY.has(call.name)).call(call, signal);
  }

  #choose(heavy: boolean): HubThread {
    let best: HubThread | null = null;
    let able = 0;
    for (const thread of this.#threads) {
      if (thread.isEnding) continue;
      able++;
      if (best === null || thread.calls < best.calls) best = thread;
      if (!heavy) break; // small calls stay with the oldest, so that the others may end
    }
    const wantsMore = heavy && best !== null && best.calls > 0 && able < this.#most;
    return best === null || wantsMore ? this.#start() : best;
  }

  #start(): HubThread {
    const thread = new HubThread(this.#settings, this.#options, (gone) => this.#threads.delete(gone));
    this.#threads.add(thread);
    this.#started++;
    return thread;
  }

  #endIdle(): void {
    for (const thread of [...this.#threads].slice(1)) {
      if (thread.calls === 0 && thread.callsSeen === 0 && !thread.isEnding) void thread.end();
      thread.callsSeen = 0;
    }
  }

  /** Ends all threads; calls under way fail. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#idleTimer);
    await Promise.all([...this.#threads].map((thread) => thread.end()));
  }
}

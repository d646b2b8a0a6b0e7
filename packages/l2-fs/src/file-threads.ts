import { setTimeout } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { type AdapterLog, type L1MemoryDesc, messageOf } from "@cache/contracts";
import type { FileJob, FileOutcome, FileSettings } from "./file-job.ts";
import type { Stop } from "./stop.ts";
import type { ThreadJob } from "./thread-files.ts";

/** What it answers; before the first job it says `ready`. */
export interface ThreadReply {
  readonly outcomes: readonly FileOutcome[];
  /** How often O_DIRECT was refused. */
  readonly directFallbacks: number;
}

/** A job was not done: no thread took it, or its thread ended in the middle. Nothing touches its memory any more. */
export type NotDone = "refused" | "cut off";

/** What {@link FileThreads} work with. */
export interface FileThreadsOptions {
  readonly settings: FileSettings;
  readonly l1: L1MemoryDesc;
  /** Threads, 1 or more. */
  readonly count: number;
  readonly log: AdapterLog;
  /** Module that the threads run; for tests. Built: a thread does not run sources. */
  readonly entry?: URL;
}

interface Thread {
  readonly worker: Worker;
  /** Settles when it has started, or has ended instead. */
  readonly started: Promise<void>;
  ready: boolean;
  running: Task | null;
}

interface Task {
  readonly message: ThreadJob;
  readonly stop: Stop;
  readonly settle: (reply: ThreadReply | NotDone) => void;
}

/** Time until threads are started again after one has ended by itself, in milliseconds: doubled up to the second. */
const RESTART_MS = [1000, 60_000] as const;
/** How long `close` waits for a thread that is still starting, in milliseconds; most take a hundred. */
const START_MAX_MS = 10_000;

/**
 * Threads that do jobs with synchronous calls: one hop a job instead of three and more a file. A thread has one job
 * at a time; the others wait here, looks first, then reads and writes in turn.
 *
 * Threads start with the first job. Until they have, while they are gone, and for memory that they cannot reach, a
 * job is refused and is to be done another way.
 */
export class FileThreads {
  readonly #options: FileThreadsOptions;
  /** Address of each buffer that is a mapped part of L1. Addresses of a process have at most 57 bits, in use 47. */
  readonly #addresses = new Map<ArrayBufferLike, number>();
  readonly #threads = new Set<Thread>();
  readonly #waiting: Record<FileJob["kind"], Task[]> = { look: [], read: [], write: [] };
  #lastTransfer: FileJob["kind"] = "read";
  #closing = false;
  #endedUnasked = 0;
  #restartMs: number = RESTART_MS[0];
  #startFromMs = Number.NEGATIVE_INFINITY;

  constructor(options: FileThreadsOptions) {
    const { ptr, views } = options.l1;
    this.#options = options;
    if (ptr === null) return;
    for (const { offset, bytes } of views) {
      this.#addresses.set(bytes.buffer, Number(ptr) + offset - bytes.byteOffset);
    }
  }

  /** Plain JSON for an operator. */
  status(): Record<string, unknown> {
    const ready = [...this.#threads].filter((thread) => thread.ready).length;
    return { ready, starting: this.#threads.size - ready, ended_unasked: this.#endedUnasked };
  }

  /** Threads that there are to be. */
  get count(): number {
    return this.#options.count;
  }

  /** True if a job would be done here. */
  get isReady(): boolean {
    return [...this.#threads].some((thread) => thread.ready);
  }

  /** Starts the threads that are missing, unless one has just ended by itself. */
  start(): void {
    if (this.#closing || performance.now() < this.#startFromMs) return;
    while (this.#threads.size < this.#options.count) this.#startOne();
  }

  /** Does the job. Settles when no thread touches the job's memory. */
  async run(job: FileJob, stop: Stop): Promise<ThreadReply | NotDone> {
    this.start();
    const message = this.isReady ? this.#messageOf(job, stop) : null;
    if (message === null) return "refused";
    return new Promise((resolve) => {
      const task: Task = {
        message,
        stop,
        settle: (reply) => {
          forget();
          resolve(reply);
        },
      };
      const queue = this.#waiting[job.kind];
      const forget = stop.onSet(() => {
        const at = queue.indexOf(task);
        if (at < 0) return; // a thread has it
        queue.splice(at, 1);
        resolve({ outcomes: job.names.map(() => "stopped"), directFallbacks: 0 });
      });
      queue.push(task);
      this.#dispatch();
    });
  }

  /** Ends the threads; no job may be under way. */
  async close(): Promise<void> {
    this.#closing = true;
    await Promise.all([...this.#threads].map((thread) => this.#endOne(thread)));
  }

  async #endOne({ worker, started }: Thread): Promise<void> {
    // A thread that is ended while it loads koffi takes the process with it: an addon must not fail then.
    worker.ref();
    await Promise.race([started, setTimeout(START_MAX_MS, undefined, { ref: false })]);
    await worker.terminate();
  }

  /** The job for a thread; null if one of its objects lies outside the mapped L1. */
  #messageOf({ kind, names, objects, firstTemporary }: FileJob, { cell }: Stop): ThreadJob | null {
    const places = new Float64Array(objects.length * 2);
    for (const [i, { bytes }] of objects.entries()) {
      const start = this.#addresses.get(bytes.buffer);
      if (start === undefined) return null;
      places[2 * i] = start + bytes.byteOffset;
      places[2 * i + 1] = bytes.byteLength;
    }
    return { kind, names, firstTemporary, places, stop: cell };
  }

  #next(): Task | undefined {
    const { look, read, write } = this.#waiting;
    const task = look.shift();
    if (task !== undefined) return task;
    const [first, second] = this.#lastTransfer === "read" ? [write, read] : [read, write];
    const transfer = first.shift() ?? second.shift();
    if (transfer !== undefined) this.#lastTransfer = transfer.message.kind;
    return transfer;
  }

  #dispatch(): void {
    for (const thread of this.#threads) {
      if (!thread.ready || thread.running !== null) continue;
      const task = this.#next();
      if (task === undefined) return;
      thread.running = task;
      thread.worker.ref(); // the process lives until the job is done
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
      thread.worker.postMessage(task.message);
    }
  }

  #startOne(): void {
    const worker = new Worker(this.#options.entry ?? new URL("../dist/file-thread.js", import.meta.url), {
      name: "fs-files",
      workerData: this.#options.settings,
      env: {},
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2, stackSizeMb: 1 },
    });
    worker.unref();
    const started = new Promise<void>((resolve) => {
      worker.once("message", () => resolve());
      worker.once("exit", () => resolve());
    });
    const thread: Thread = { worker, started, ready: false, running: null };
    this.#threads.add(thread);
    let problem: unknown = null;
    worker.on("message", (reply: ThreadReply | "ready") => {
      if (reply === "ready") thread.ready = true;
      else this.#finish(thread, reply);
      this.#dispatch();
    });
    worker.on("error", (error) => (problem = error));
    // Only now is it certain that the thread touches nothing any more.
    worker.on("exit", (code) => this.#ended(thread, problem ?? new Error(`it ended with code ${code}`)));
  }

  #finish(thread: Thread, reply: ThreadReply): void {
    const task = thread.running;
    thread.running = null;
    thread.worker.unref();
    this.#restartMs = RESTART_MS[0];
    task?.settle(reply);
  }

  #ended(thread: Thread, problem: unknown): void {
    this.#threads.delete(thread);
    if (!this.#closing) {
      this.#endedUnasked++;
      this.#startFromMs = performance.now() + this.#restartMs;
      this.#options.log.warn("a thread for files ended; its work is done without it", {
        error: messageOf(problem),
        started_again_after_ms: this.#restartMs,
      });
      this.#restartMs = Math.min(this.#restartMs * 2, RESTART_MS[1]);
    }
    thread.running?.settle("cut off");
    if (this.isReady) return;
    for (const queue of Object.values(this.#waiting))
      for (const task of queue.splice(0)) task.settle("refused");
  }
}

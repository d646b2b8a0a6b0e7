import { Worker } from "node:worker_threads";

/** Makes files durable, off the main thread. One call at a time. */
export interface Syncer {
  /** Syncs open handles in order. Rejects with the errno of the first that fails. */
  sync(handles: readonly number[]): Promise<void>;
  close(): Promise<void>;
}

/** Built entry of a worker; from `src/` and from `dist/` it is the same file. */
export function workerEntry(name: "fsync-worker" | "fold-worker"): URL {
  return new URL(`../dist/${name}.js`, import.meta.url);
}

/**
 * A syncer with a worker thread of its own, started with the first sync. Heap limits are small because the worker does
 * nothing but `fdatasync`; it keeps the process alive only while a sync is under way.
 */
export function workerSyncer(): Syncer {
  let worker: Worker | null = null;
  let settle: { resolve: () => void; reject: (error: unknown) => void } | null = null;

  const finish = (error: unknown): void => {
    const waiting = settle;
    settle = null;
    worker?.unref();
    if (error === null) waiting?.resolve();
    else waiting?.reject(error);
  };
  const start = (): Worker => {
    const started = new Worker(workerEntry("fsync-worker"), {
      name: "journal-fsync",
      env: {},
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: 8, maxYoungGenerationSizeMb: 1, stackSizeMb: 1 },
    });
    const gone = (error: unknown): void => {
      if (worker === started) worker = null;
      finish(error);
    };
    started.on("message", (failure: { code?: string; message: string } | null) => {
      finish(failure === null ? null : Object.assign(new Error(failure.message), { code: failure.code }));
    });
    started.on("error", gone);
    started.on("exit", (code) => gone(new Error(`the sync worker ended with code ${code}`)));
    return started;
  };
  return {
    sync: (handles) =>
      new Promise((resolve, reject) => {
        settle = { resolve, reject };
        worker ??= start();
        worker.ref();
        // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
        worker.postMessage(handles);
      }),
    async close() {
      const ending = worker;
      worker = null;
      await ending?.terminate();
    },
  };
}

/** For memory, where nothing survives. */
export function noSyncer(): Syncer {
  return { sync: () => Promise.resolve(), close: () => Promise.resolve() };
}

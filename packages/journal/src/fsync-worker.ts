// Entry of the sync worker. It waits for the disk so that neither the main thread nor libuv's four threads do.
import { fdatasyncSync } from "node:fs";
import { parentPort } from "node:worker_threads";

parentPort?.on("message", (handles: number[]) => {
  try {
    // In order: side records before the log that refers to them.
    for (const handle of handles) fdatasyncSync(handle);
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
    parentPort?.postMessage(null);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
    parentPort?.postMessage({ code, message });
  }
});

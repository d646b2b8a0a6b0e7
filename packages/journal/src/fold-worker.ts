// Entry of the snapshot worker: folds closed segments, writes and verifies the snapshot, ends.
import { messageOf } from "@cache/contracts";
import { parentPort, workerData } from "node:worker_threads";
import { type FoldTask, runFold } from "./fold.ts";

try {
  const bytes = await runFold(workerData as FoldTask);
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
  parentPort?.postMessage({ bytes });
} catch (error) {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
  parentPort?.postMessage({ error: messageOf(error) });
}

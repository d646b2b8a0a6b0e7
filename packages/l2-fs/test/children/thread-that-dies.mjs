// A thread for files that ends in the middle of its first job: with the memory half written, with a temporary left.
import { appendFileSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";

parentPort.on("message", ({ kind, firstTemporary }) => {
  const { temporaryPath, temporaryPrefix } = workerData;
  if (kind === "write")
    appendFileSync(`${temporaryPath}/${temporaryPrefix}${firstTemporary.toString(36)}.tmp`, "half");
  process.exit(7);
});
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
parentPort.postMessage("ready");

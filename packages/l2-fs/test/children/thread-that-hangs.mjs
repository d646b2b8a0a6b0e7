// A thread for files that holds each job until the file `release` is in the directory, as a dead mount does.
import { existsSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";

const nap = new Int32Array(new SharedArrayBuffer(4));
parentPort.on("message", ({ names }) => {
  while (!existsSync(`${workerData.basePath}/release`)) Atomics.wait(nap, 0, 0, 2);
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
  parentPort.postMessage({ outcomes: names.map(() => "whole"), directFallbacks: 0 });
});
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
parentPort.postMessage("ready");

// Entry of a thread that does jobs on object files, straight into and out of the memory of L1. Imports little: each
// thread has its own copy.
import { parentPort, workerData } from "node:worker_threads";
import type { FileSettings } from "./file-job.ts";
import type { ThreadReply } from "./file-threads.ts";
import { bindLibC } from "./libc.ts";
import { ThreadFiles, type ThreadJob } from "./thread-files.ts";

Error.stackTraceLimit = 0; // nobody sees them, and a miss makes an error
const settings = workerData as FileSettings;
const libc = bindLibC();
libc.lstat(settings.basePath); // a kernel or a sandbox without statx is found out before the first job
const files = new ThreadFiles(libc, settings);

parentPort?.on("message", (job: ThreadJob) => {
  const before = files.directFallbacks;
  const outcomes = files.run(job);
  const reply: ThreadReply = { outcomes, directFallbacks: files.directFallbacks - before };
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
  parentPort?.postMessage(reply);
});
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker thread, not a window
parentPort?.postMessage("ready");

// Loaded into the engine by --import: writes how long its event loop was held up, when it ends.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { isMainThread } from "node:worker_threads";

const directory = process.env.CACHE_BENCH_PAUSES;
/** The start is over by then, and nothing is measured yet, in milliseconds. */
const START_MS = 2000;
if (isMainThread && directory) {
  // A sample is the time from one millisecond timer to the next: a pause is what exceeds the millisecond.
  const resolution = 1;
  const delay = monitorEventLoopDelay({ resolution });
  delay.enable();
  // Importing the program holds the loop up too, when nobody can notice.
  setTimeout(() => delay.reset(), START_MS).unref();
  process.on("exit", () => {
    const ms = (nanoseconds) => Math.max(0, nanoseconds / 1e6 - resolution);
    writeFileSync(
      join(directory, `${process.pid}.json`),
      JSON.stringify({ maxMs: ms(delay.max), p99Ms: ms(delay.percentile(99)), meanMs: ms(delay.mean) }),
    );
  });
}

import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";

const BYTES = 256 * 2 ** 20;
const STEP = 4 * 2 ** 20;
const REPS = 5;

/** What one thread reaches, in GB/s (10^9 bytes): copy in memory; write and read of a new file in the page cache. */
export function fileLimits(directory) {
  const place = mkdtempSync(join(directory, "cache-bench-limits-"));
  const from = Buffer.alloc(BYTES, 1);
  const to = Buffer.alloc(BYTES, 2);
  const best = { "memory copy": 0, "file write (page cache, new file)": 0, "file read (page cache)": 0 };
  const note = (what, rate) => (best[what] = Math.max(best[what], rate));
  try {
    for (let rep = 0; rep < REPS; rep++) {
      note(
        "memory copy",
        rateOf(() => from.copy(to)),
      );
      const path = join(place, `file${rep}`);
      const fd = openSync(path, "w+");
      note(
        "file write (page cache, new file)",
        rateOf(() => steps((at) => writeSync(fd, from, at, STEP, at))),
      );
      note(
        "file read (page cache)",
        rateOf(() => steps((at) => readSync(fd, to, at, STEP, at))),
      );
      closeSync(fd);
      rmSync(path);
    }
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
  return best;
}

function steps(action) {
  for (let at = 0; at < BYTES; at += STEP) action(at);
}

function rateOf(action) {
  const begin = performance.now();
  action();
  return BYTES / (performance.now() - begin) / 1e6;
}

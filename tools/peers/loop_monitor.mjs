// Loaded into the engine by --import: writes each second how long its event loop was held up, as a line of a file.
import { appendFileSync, openSync, readSync } from "node:fs";
import { isMainThread } from "node:worker_threads";

const file = process.env.PEERS_PAUSES;
const EVERY_MS = 2;
/** Nobody is served before the start is over. */
const START_SECONDS = 3;
if (isMainThread && file) {
  const schedule = openSync(`/proc/self/task/${process.pid}/schedstat`, "r");
  const text = Buffer.alloc(128);
  // Milliseconds that the thread was ready and another program had the processor: those are no pause of ours.
  const waitedMs = () => Number(text.latin1Slice(0, readSync(schedule, text, 0, 128, 0)).split(" ")[1]) / 1e6;
  let [last, waited, written] = [performance.now(), waitedMs(), performance.now()];
  let [longest, own] = [0, 0];
  setInterval(() => {
    const now = performance.now();
    const nowWaited = waitedMs();
    let late = Math.max(0, now - last - EVERY_MS);
    if (process.uptime() < START_SECONDS) late = 0;
    longest = Math.max(longest, late);
    own = Math.max(own, late - (nowWaited - waited));
    [last, waited] = [now, nowWaited];
    if (now - written < 1000) return;
    appendFileSync(file, `${process.pid} ${longest.toFixed(1)} ${own.toFixed(1)}\n`);
    [longest, own, written] = [0, 0, now];
  }, EVERY_MS).unref();
}

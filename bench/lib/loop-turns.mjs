import { openSync, readSync } from "node:fs";

const schedule = openSync(`/proc/self/task/${process.pid}/schedstat`, "r");
const scheduleText = Buffer.alloc(128);

/** Milliseconds that the main thread was ready to run and another program had the processor. */
export function waitedMs() {
  const length = readSync(schedule, scheduleText, 0, 128, 0);
  return Number(scheduleText.latin1Slice(0, length).split(" ")[1]) / 1e6;
}

/**
 * How long the turns of the event loop take while `work` is under way, longest first, in milliseconds: from the begin
 * of one to the begin of the next, less what other programs took of it. `wall` is with that; `gaps` are the turns
 * above 10 ms, for `explainGaps`.
 */
export async function turnsDuring(work) {
  const running = { done: false };
  const ended = work().finally(() => (running.done = true));
  const turns = [];
  const gaps = [];
  let wall = 0;
  let [last, waited] = [performance.now(), waitedMs()];
  while (!running.done) {
    await new Promise((resolve) => setImmediate(resolve));
    const [now, waitedNow] = [performance.now(), waitedMs()];
    const ms = Math.max(0, now - last - (waitedNow - waited));
    turns.push(ms);
    if (ms > 10) gaps.push({ phase: "a turn", from: last, to: now, ms });
    wall = Math.max(wall, now - last);
    [last, waited] = [now, waitedNow];
  }
  await ended;
  return { turns: turns.sort((a, b) => b - a), wall, gaps };
}

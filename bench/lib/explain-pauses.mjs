// Loaded into the engine by --import: writes, when it ends, what ran in its longest pauses. It slows the engine down.
import { openSync, readSync, writeFileSync } from "node:fs";
import { Session } from "node:inspector";
import { isMainThread } from "node:worker_threads";
import { explainGaps } from "./explain-gaps.mjs";

const file = process.env.CACHE_BENCH_EXPLAIN;
const EVERY_MS = 2;
const LONG_MS = 8;
if (isMainThread && file) {
  const session = new Session();
  session.connect();
  session.post("Profiler.enable");
  session.post("Profiler.setSamplingInterval", { interval: 500 });
  session.post("Profiler.start");
  const schedule = openSync(`/proc/self/task/${process.pid}/schedstat`, "r");
  const text = Buffer.alloc(128);
  const waitedMs = () => Number(text.latin1Slice(0, readSync(schedule, text, 0, 128, 0)).split(" ")[1]) / 1e6;
  let [last, waited] = [performance.now(), waitedMs()];
  const gaps = [];
  setInterval(() => {
    const [now, nowWaited] = [performance.now(), waitedMs()];
    const ms = now - last - EVERY_MS - (nowWaited - waited);
    if (ms > LONG_MS) gaps.push({ phase: `${(now / 1000).toFixed(1)} s`, from: last, to: now, ms });
    [last, waited] = [now, nowWaited];
  }, EVERY_MS).unref();
  process.on("exit", () => {
    const lines = [];
    session.post("Profiler.stop", (_error, { profile }) =>
      explainGaps(profile, gaps, (line) => lines.push(line)),
    );
    writeFileSync(file, `${lines.join("\n")}\n`);
  });
}

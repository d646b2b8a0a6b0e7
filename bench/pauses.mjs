#!/usr/bin/env node
// How long single turns of the event loop take with 1,000,000 objects: fill, churn, reading, clear, and opening again.
// node bench/pauses.mjs [--objects 1000000] [--churn-seconds 20] [--directory DIR] [--explain]
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { Session } from "node:inspector";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, PerformanceObserver } from "node:perf_hooks";
import { parseArgs } from "node:util";
import { machineFacts, say } from "./lib/common.mjs";
import { openManager, Prompts, voidAdapter } from "./lib/storage-load.mjs";
import { explainGaps } from "./lib/explain-gaps.mjs";
import { waitedMs } from "./lib/loop-turns.mjs";

const { values } = parseArgs({
  options: {
    objects: { type: "string", default: "1000000" },
    "churn-seconds": { type: "string", default: "20" },
    directory: { type: "string", default: tmpdir() },
    explain: { type: "boolean", default: false },
  },
});
const objects = Number(values.objects);
const churnMs = Number(values["churn-seconds"]) * 1000;
const directory = mkdtempSync(join(values.directory, "bench-pauses-"));
const CHUNKS = 16;
/** A turn longer than this is told with what ran in it, with --explain. */
const LONG_MS = 10;

let session = null;
const gaps = [];

const GC_KINDS = {
  [constants.NODE_PERFORMANCE_GC_MAJOR]: "major",
  [constants.NODE_PERFORMANCE_GC_MINOR]: "minor",
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL]: "incremental",
  [constants.NODE_PERFORMANCE_GC_WEAKCB]: "weak",
};
let collections = new Map();
new PerformanceObserver((list) => {
  for (const { duration, detail } of list.getEntries()) {
    const kind = GC_KINDS[detail.kind];
    const { count, longest } = collections.get(kind) ?? { count: 0, longest: 0 };
    collections.set(kind, { count: count + 1, longest: Math.max(longest, duration) });
  }
}).observe({ entryTypes: ["gc"] });

/**
 * Runs one step a turn and measures from the begin of a turn to the begin of the next. What other programs took
 * of it is left out, and told apart.
 */
async function phase(name, step) {
  collections = new Map();
  const began = performance.now();
  const turns = [];
  const waitedBefore = waitedMs();
  let waited = waitedBefore;
  let last = performance.now();
  for (;;) {
    const more = step(turns.length);
    if (more === false) break;
    await new Promise((resolve) => setImmediate(resolve));
    const now = performance.now();
    const waitedNow = waitedMs();
    const ms = Math.max(0, now - last - (waitedNow - waited));
    if (ms > LONG_MS) gaps.push({ phase: name, from: last, to: now, ms });
    last = now;
    waited = waitedNow;
    turns.push(ms);
  }
  const seconds = (performance.now() - began) / 1000;
  turns.sort((a, b) => b - a);
  const [longest = 0] = turns;
  const over = turns.findIndex((ms) => ms <= LONG_MS);
  const gc = [...collections].map(
    ([kind, { count, longest }]) => `${kind} ${count} (${longest.toFixed(1)} ms)`,
  );
  say(
    `${name.padEnd(22)} ${seconds.toFixed(1).padStart(5)} s ${String(turns.length).padStart(7)} turns; ` +
      `longest ${longest.toFixed(1).padStart(5)} ms, 10th ${(turns[9] ?? 0).toFixed(1).padStart(5)} ms, ` +
      `over ${LONG_MS} ms ${String(over).padStart(4)}; gc: ${gc.join(", ")}; others took ${((waited - waitedBefore) / 10 / seconds).toFixed(0)} %`,
  );
}

/** One thing under way while the loop turns. */
async function during(name, work) {
  let done = false;
  const ended = work().finally(() => (done = true));
  await phase(name, () => !done);
  await ended;
}

function megabytes(folder) {
  let bytes = 0;
  for (const file of readdirSync(folder)) bytes += statSync(join(folder, file)).size;
  return `${(bytes / 1e6).toFixed(0)} MB`;
}

function memory() {
  const { rss, heapUsed, arrayBuffers } = process.memoryUsage();
  const text = [rss, heapUsed, arrayBuffers].map((bytes) => (bytes / 1e6).toFixed(0));
  return `rss ${text[0]} MB, heap ${text[1]} MB, array buffers ${text[2]} MB, journal ${megabytes(join(directory, "journal"))}`;
}

try {
  say(machineFacts());
  if (values.explain) {
    session = new Session();
    session.connect();
    session.post("Profiler.enable");
    session.post("Profiler.setSamplingInterval", { interval: 500 });
    session.post("Profiler.start");
  }
  const prompts = new Prompts(CHUNKS);
  const adapter = voidAdapter();
  // Below the watermark with all objects: the churn begins with a full cache.
  let open = await openManager({ directory, slots: Math.ceil(objects / 0.79), adapter });
  let { manager } = open;
  manager.register({ instanceId: 1n, modelName: "bench", worldSize: 1, ...prompts.layout });
  let stored = 0;
  const store = () => {
    const request = prompts.store(stored);
    const answer = manager.prepareStore(request, 1n);
    if (answer instanceof Promise) throw new Error("no room");
    manager.commit();
    void manager.commitStore(request, 1n, null);
    manager.commit();
    stored += CHUNKS;
  };
  await phase("fill", () => (stored >= objects ? false : store()));
  say(`  ${memory()}`);
  let end = performance.now() + churnMs;
  const load = (turn) => {
    if (performance.now() > end) return false;
    if (turn % 2 === 0) return store();
    const request = prompts.lookup(stored - CHUNKS * (1 + Math.floor(Math.random() * 1000)), turn);
    manager.lookups.lookup(request);
    manager.lookups.query(request.requestId);
    manager.commit();
    const mine = { ...request, workerId: 0 };
    void manager.prepareRetrieve(mine, 1n);
    manager.commit();
    manager.commitRetrieve(mine, 1n);
    manager.lookups.endSession(request.requestId);
    manager.commit();
  };
  await phase("store, evict, retrieve", load);
  say(`  ${memory()}`);
  end = performance.now() + churnMs / 4;
  let shown = 0;
  await phase("status", (turn) => {
    if (performance.now() > end) return false;
    if (turn % 100 === 0) shown += Object.keys(manager.status()).length;
    load(turn);
  });
  await open.crash();
  let began = performance.now();
  open = await openManager({
    directory,
    slots: Math.ceil(objects / 0.79),
    adapter,
    timed: (name, ms) => say(`  ${name} ${ms.toFixed(0)} ms`),
  });
  manager = open.manager;
  say(
    `opened again in ${(performance.now() - began).toFixed(0)} ms, ${manager.recoveryReport.objects} objects, ` +
      `${manager.recoveryReport.replayedRecords} records replayed${manager.recoveryReport.reattached ? "" : ", NOT re-attached"}`,
  );
  end = performance.now() + churnMs;
  await phase("after opening", load);
  say(`  ${memory()}`);
  await during("clear", () => manager.clear(true));
  end = performance.now() + churnMs / 2;
  await phase("refill", load);
  say(`  ${memory()}`);
  await open.stop();
  began = performance.now();
  open = await openManager({ directory, slots: Math.ceil(objects / 0.79), adapter });
  say(`opened a third time in ${(performance.now() - began).toFixed(0)} ms`);
  await open.stop();
  if (session !== null) {
    await new Promise((resolve) => {
      session.post("Profiler.stop", (_error, { profile }) => {
        explainGaps(profile, gaps, say);
        resolve();
      });
    });
  }
} finally {
  rmSync(directory, { recursive: true, force: true });
}

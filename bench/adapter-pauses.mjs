#!/usr/bin/env node
/**
 * The longest turn of the event loop while adapters store and load in bulk, without an engine.
 *
 *   node bench/adapter-pauses.mjs [--only fs,redis,…] [--seconds 5] [--calls 4] [--explain]
 *                                 [--shapes 96x1024,64x4096,512x64]
 *
 * --calls is how many calls of one shape are under way together; --explain says what ran in the longest turns. redis needs
 * a redis-server in the PATH, nixl_store and nixl_store_dynamic an installed NIXL (or CACHE_NIXL_LIBRARY). Build first.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { getRegisteredL2Adapter, objectKey } from "../packages/contracts/dist/index.js";
import { openL1Pool } from "../packages/l1-memory/dist/index.js";
import { machineFacts, say } from "./lib/common.mjs";
import { backendNamed } from "./lib/l2-backends.mjs";
import { parseShape } from "./lib/l2-contest.mjs";
import { explainGaps } from "./lib/explain-gaps.mjs";
import { turnsDuring } from "./lib/loop-turns.mjs";

const { values: options } = parseArgs({
  options: {
    only: { type: "string", default: "fs,redis" },
    seconds: { type: "string", default: "5" },
    shapes: { type: "string", default: "96x1024,64x4096,512x64" },
    calls: { type: "string", default: "4" },
    explain: { type: "boolean", default: false },
  },
});
const calls = Number(options.calls);
const { signal } = new AbortController();
const log = { debug() {}, info() {}, warn: (text) => say(`  ${text}`), error: (text) => say(`  ${text}`) };

/** Keys that nobody has had before, and where the objects of one call lie. */
function makeBatch(pool, first, { keys, kib }) {
  const bytes = kib * 1024;
  const objects = Array.from({ length: keys }, (_, i) => {
    const poolOffset = (first + i) * bytes;
    return { bytes: pool.view(poolOffset, bytes), poolOffset };
  });
  return { objects, bytes };
}

function freshKeys(count, counter) {
  return Array.from({ length: count }, () => {
    const chunkHash = Buffer.alloc(32);
    chunkHash.writeUInt32BE(counter.next++);
    return objectKey({ chunkHash, modelName: "bench/pauses", kvRank: 1 });
  });
}

/** Stores, loads and deletes in a loop until the time is up; bytes moved. */
async function churn(adapter, batch, counter, end) {
  let moved = 0;
  while (performance.now() < end) {
    const keys = freshKeys(batch.objects.length, counter);
    const { stored } = await adapter.store(keys, batch.objects, signal);
    const requests = keys.map((key) => ({ key, byteLength: batch.bytes }));
    const loaded = await adapter.load(requests, batch.objects, signal);
    if (stored.count() < keys.length || loaded.count() < keys.length) throw new Error("objects were lost");
    moved += 2 * keys.length * batch.bytes;
    await adapter.delete(keys, signal);
  }
  return moved;
}

async function measure(name, shape) {
  const backend = backendNamed(name);
  await import(new URL(`../packages/${backend.package}/dist/index.js`, import.meta.url).href);
  const place = mkdtempSync(join(tmpdir(), "cache-bench-pauses-"));
  const stateDir = join(place, "state");
  mkdirSync(stateDir);
  const { adapter: config, stop } = await backend.start(place);
  const poolBytes = calls * shape.keys * shape.kib * 1024;
  const pool = await openL1Pool({
    shmName: "",
    sizeBytes: poolBytes,
    alignBytes: 4096,
    journalId: "0".repeat(32),
    expected: null,
  });
  const { type, ...own } = config;
  const adapter = getRegisteredL2Adapter(type).create(own, pool.desc);
  try {
    await adapter.open({ id: name, stateDir, log, signal });
    const counter = { next: 0 };
    const batches = Array.from({ length: calls }, (_, i) => makeBatch(pool, i * shape.keys, shape));
    for (const { objects } of batches) for (const { bytes } of objects) bytes.fill(1);
    const run = (seconds) => {
      const until = performance.now() + seconds * 1000;
      return Promise.all(batches.map((batch) => churn(adapter, batch, counter, until)));
    };
    await run(1); // connections and compiled code
    const session = new Session();
    if (options.explain) {
      session.connect();
      await session.post("Profiler.enable");
      await session.post("Profiler.setSamplingInterval", { interval: 500 });
      await session.post("Profiler.start");
    }
    let moved = [];
    const began = performance.now();
    const { turns, wall, gaps } = await turnsDuring(async () => {
      moved = await run(Number(options.seconds));
    });
    const gbps = moved.reduce((sum, bytes) => sum + bytes, 0) / (performance.now() - began) / 1e6;
    const at = (share) => (turns[Math.floor(turns.length * share)] ?? 0).toFixed(2);
    say(
      `${name.padEnd(18)} ${shape.name.padEnd(14)} longest turn ${turns[0].toFixed(1).padStart(5)} ms ` +
        `(wall ${wall.toFixed(1)}), 10th ${(turns[9] ?? 0).toFixed(1)}, p99 ${at(0.01)}, p50 ${at(0.5)}; ${gbps.toFixed(2)} GB/s`,
    );
    if (options.explain) {
      const { profile } = await session.post("Profiler.stop");
      explainGaps(profile, gaps, say);
      session.disconnect();
    }
  } finally {
    await adapter.close();
    stop();
    rmSync(place, { recursive: true, force: true });
    await pool.close({ keep: false });
  }
}

say(`${machineFacts()}; ${calls} calls at a time, stores, loads and deletes`);
for (const name of options.only.split(",")) {
  for (const text of options.shapes.split(",")) await measure(name, parseShape(text));
}
process.exit(0);

#!/usr/bin/env node
// Bulk stores and loads of the hfbucket adapter against the test Hub (another process): megabytes a second, and how long
// single turns of the event loop take meanwhile. node bench/hfbucket.mjs [--shapes 4x4096,16x1024,64x64] [--rounds 3]
import { closeSync, openSync, readSync } from "node:fs";
import { parseArgs } from "node:util";
import { createHfBucketAdapter, hfBucketConfigSchema } from "../packages/l2-hfbucket/dist/index.js";
import { machineFacts, say } from "./lib/common.mjs";
import { startHub } from "./lib/hub.mjs";

const { values } = parseArgs({
  options: {
    shapes: { type: "string", default: "4x4096,16x1024,64x64" },
    rounds: { type: "string", default: "3" },
    workers: { type: "string", default: "2" },
    "in-flight": { type: "string", default: "4" },
  },
});
const EVERY_MS = 2;
const never = new AbortController().signal;

const schedule = openSync(`/proc/self/task/${process.pid}/schedstat`, "r");
const text = Buffer.alloc(128);
/**
 * Milliseconds for which this thread had a processor, and for which it was ready and another program had it: these are
 * no pause of ours.
 */
function threadMs() {
  const [ran, waited] = text.latin1Slice(0, readSync(schedule, text, 0, 128, 0)).split(" ");
  return { ran: Number(ran) / 1e6, waited: Number(waited) / 1e6 };
}

/** Runs the work; its seconds, and the longest times for which a timer was late by our own doing. */
async function watched(work) {
  const late = [];
  let [last, before] = [performance.now(), threadMs()];
  const timer = setInterval(() => {
    const [now, thread] = [performance.now(), threadMs()];
    const ms = Math.max(0, now - last - EVERY_MS - (thread.waited - before.waited));
    late.push({ ms, ran: Math.min(ms, thread.ran - before.ran) });
    [last, before] = [now, thread];
  }, EVERY_MS);
  const began = performance.now();
  await work();
  const seconds = (performance.now() - began) / 1000;
  await new Promise((resolve) => setTimeout(resolve, 2 * EVERY_MS));
  clearInterval(timer);
  const longest = Math.max(0, ...late.map(({ ms }) => ms));
  const ran = Math.max(0, ...late.map((one) => one.ran));
  return { seconds, longest, ran };
}

/** Words like bfloat16 values: half of the bytes are alike. */
function content(byteLength, seed) {
  const bytes = Buffer.alloc(byteLength);
  let state = seed + 1;
  for (let at = 0; at + 1 < byteLength; at += 2) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
    bytes[at + 1] = 0x3f ^ ((state >>> 16) & 1);
  }
  return bytes;
}

const hub = await startHub();
try {
  say(machineFacts());
  const options = {
    bucket_handle: "hf://buckets/bench/bucket",
    token_env: "",
    token: "hf_bench",
    endpoint: hub.url,
  };
  const config = { ...options, create_bucket_if_missing: true, num_workers: Number(values.workers) };
  const adapter = createHfBucketAdapter(hfBucketConfigSchema.parse(config));
  const log = { debug() {}, info() {}, warn: say, error: say };
  await adapter.open({ id: "hfbucket", stateDir: null, log, signal: never });
  let n = 0;
  for (const shape of values.shapes.split(",")) {
    const [count, kib] = shape.split("x").map(Number);
    const objects = Array.from({ length: count }, (_, i) => ({
      bytes: content(kib * 1024, i),
      poolOffset: null,
    }));
    const into = objects.map(({ bytes }) => ({ bytes: new Uint8Array(bytes.length), poolOffset: null }));
    for (let round = 0; round <= Number(values.rounds); round++) {
      const calls = Array.from({ length: Number(values["in-flight"]) }, () =>
        objects.map(({ bytes }) => {
          bytes.writeUInt32BE(++n, 8); // else the Hub has these chunks already
          const chunkHash = Buffer.alloc(32);
          chunkHash.writeUInt32BE(n, 0);
          return { chunkHash, modelName: "bench", kvRank: 1, objectGroupId: 0, cacheSalt: "" };
        }),
      );
      const megabytes = (count * kib * 1024 * calls.length) / 1e6;
      const stored = await watched(() =>
        Promise.all(
          calls.map(async (keys) => {
            const { failed } = await adapter.store(keys, objects, never);
            for (const error of failed.values()) throw error;
          }),
        ),
      );
      const loaded = await watched(() =>
        Promise.all(
          calls.map(async (keys) => {
            const requests = keys.map((key) => ({ key, byteLength: kib * 1024 }));
            const bits = await adapter.load(requests, into, never);
            if (bits.count() !== count) throw new Error(`loaded ${bits.count()} of ${count}`);
          }),
        ),
      );
      if (round === 0) continue; // threads begin cold
      for (const [name, { seconds, longest, ran }] of [
        ["store", stored],
        ["load", loaded],
      ]) {
        say(
          `${calls.length} x ${shape} KiB ${name.padEnd(5)} ${(megabytes / seconds).toFixed(1).padStart(6)} MB/s; ` +
            `longest pause ${longest.toFixed(1).padStart(5)} ms, computing ${ran.toFixed(1)} ms`,
        );
      }
    }
  }
  await adapter.close();
  say(`rss ${(process.memoryUsage().rss / 1e6).toFixed(0)} MB`);
} finally {
  hub.stop();
  closeSync(schedule);
}

import fc from "fast-check";
import { describe, it } from "vitest";
import { mockAdapter, startEngine } from "../support/engine.ts";
import { commands } from "./commands.ts";
import { Driver } from "./driver.ts";

const SEED = Number(process.env["CACHE_TEST_SEED"] ?? Date.now() % 2 ** 31);
const RUNS = Number(process.env["CACHE_TEST_RUNS"] ?? 60);

describe(`random work, checked after each step (CACHE_TEST_SEED=${SEED})`, () => {
  it.each([
    ["a small pool", { slots: 12 }, 0],
    ["a pool with room", { slots: 64 }, 0],
    ["one adapter", { slots: 16 }, 1],
    ["two adapters, one of them small", { slots: 12 }, 2],
  ])("%s", { timeout: 60_000 }, async (_, setup, adapterCount) => {
    await fc.assert(
      fc.asyncProperty(commands, fc.boolean(), fc.boolean(), async (steps, retain, skipL1) => {
        const adapters = [mockAdapter(), mockAdapter({ max_size_gb: 30_000 / 2 ** 30 })].slice(
          0,
          adapterCount,
        );
        const engine = await startEngine({
          ...setup,
          adapters: Object.fromEntries(adapters.map((adapter, i) => [`mock.${i}`, adapter])),
          setups: { eviction: { policy: "LRU", triggerWatermark: 0.8, evictionRatio: 0.4 } },
          options: {
            prefetchPolicy: retain ? "retain" : "default",
            storePolicy: skipL1 ? "skip_l1" : "default",
          },
        });
        const driver = new Driver(engine, adapters);
        try {
          for (const step of steps) await driver.run(step);
          await driver.finish();
        } finally {
          await engine.crash();
        }
      }),
      { seed: SEED, numRuns: RUNS, interruptAfterTimeLimit: 40_000, markInterruptAsFailure: false },
    );
  });
});

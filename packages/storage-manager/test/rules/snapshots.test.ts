import { expect, it } from "vitest";
import type { Core } from "../../src/core.ts";
import { Housekeeping } from "../../src/housekeeping.ts";
import { DEFAULT_OPTIONS } from "../../src/options.ts";
import { immediate } from "../support/clock.ts";

const MIB = 1024 * 1024;

it.each([
  ["without a snapshot", 0, 3.9, false],
  ["without a snapshot", 0, 4, true],
  ["with a small one", 2, 4, true],
  ["with one of 20 MiB", 20, 9.9, false],
  ["with one of 20 MiB", 20, 10, true],
  ["with one of 150 MiB", 150, 31.9, false],
  ["with one of 150 MiB", 150, 32, true],
])("%s (%f MiB) and %f MiB of journal: a new one is made: %s", async (_, snapshotMib, journalMib, made) => {
  let count = 0;
  const journal = {
    bytesSinceSnapshot: journalMib * MIB,
    snapshotBytes: snapshotMib * MIB,
    side: { candidate: () => null },
    snapshot: () => Promise.resolve({ position: BigInt(++count) }),
  };
  const log = { debug() {}, warn() {} };
  const core = { journal, options: DEFAULT_OPTIONS, healthy: true, log } as unknown as Core;
  new Housekeeping(core).tick();
  await immediate();
  expect(count).toBe(made ? 1 : 0);
});

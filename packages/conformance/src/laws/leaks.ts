import { strict as assert } from "node:assert";
import { readdirSync } from "node:fs";
import type { Law, LawContext } from "../law.ts";
import { assertWhole, sample, storeAll } from "../law.ts";

const CYCLES = 12;
/** Handles of others (a test runner's timers) that may come or go meanwhile. */
const OTHERS = 6;
/** How long handles may take to go away after close, in milliseconds. */
const SETTLE_MS = 500;

/** Open file descriptors, where the system tells them, and what keeps the event loop alive. */
function handles(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const resource of process.getActiveResourcesInfo()) counts[resource] = (counts[resource] ?? 0) + 1;
  try {
    counts["file descriptors"] = readdirSync("/proc/self/fd").length;
  } catch {
    // not Linux
  }
  return counts;
}

async function useAndClose(context: LawContext, n: number): Promise<void> {
  const adapter = await context.open();
  const item = sample(context, n, 2000);
  await storeAll(context, adapter, [item]);
  await assertWhole(context, adapter, item);
  const controller = new AbortController();
  const into = context.arena.allocate(2000);
  const loading = adapter.load([{ key: item.key, byteLength: 2000 }], [into], controller.signal);
  controller.abort();
  await loading.catch(() => undefined);
  await adapter.close();
}

async function closeLeaksNothing(context: LawContext): Promise<void> {
  await useAndClose(context, 1); // what is made once for all stays
  const before = handles();
  for (let n = 2; n < 2 + CYCLES; n++) await useAndClose(context, n);
  // A leak leaves a handle for each cycle.
  const leaked = (): [string, number][] =>
    Object.entries(handles()).filter(([kind, count]) => count - (before[kind] ?? 0) >= CYCLES - OTHERS);
  const until = performance.now() + SETTLE_MS;
  while (leaked().length > 0 && performance.now() < until)
    await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(leaked(), [], `handles that ${CYCLES} opened and closed adapters left behind`);
}

/** Laws about what stays behind. */
export const LEAK_LAWS: readonly Law[] = [
  {
    id: "close.leaks-nothing",
    title: "adapters that were closed leave no handle, also after an abort",
    run: closeLeaksNothing,
  },
];

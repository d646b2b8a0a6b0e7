import type { L2Adapter } from "@cache/contracts";
import { type AdapterOperation, wrapAdapter } from "./around.ts";
import { createPrng } from "./prng.ts";

/** How {@link delayed} waits. */
export interface DelayPlan {
  /** Most turns of the event loop before a call reaches the adapter, and again before its answer is given. Default 4. */
  readonly turns?: number;
  /** Only these operations. Default all. */
  readonly operations?: readonly AdapterOperation[];
  /** Seed of the waits, so that a run can be repeated. Default 1. */
  readonly seed?: number;
}

/**
 * The same adapter, slower: calls overtake each other, and answers come later than the adapter gave them. It passes
 * every law that the adapter passes.
 */
export function delayed(adapter: L2Adapter, plan: DelayPlan = {}): L2Adapter {
  const random = createPrng(plan.seed ?? 1);
  const most = plan.turns ?? 4;
  const waiting = new Set<Promise<unknown>>();
  const pause = async (): Promise<void> => {
    for (let left = random.below(most + 1); left > 0; left--) {
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
  };
  const close = async (): Promise<void> => {
    await adapter.close();
    await Promise.allSettled(waiting); // answers that are still held back
  };
  return wrapAdapter(
    adapter,
    async (operation, _, run) => {
      if (plan.operations !== undefined && !plan.operations.includes(operation)) return run();
      const call = (async () => {
        await pause();
        try {
          return await run();
        } finally {
          await pause();
        }
      })();
      waiting.add(call);
      try {
        return await call;
      } finally {
        waiting.delete(call);
      }
    },
    close,
  );
}

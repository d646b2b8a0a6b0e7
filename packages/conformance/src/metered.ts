import { Bitmap, type L2Adapter } from "@cache/contracts";
import { type AdapterOperation, wrapAdapter } from "./around.ts";

/** What {@link metered} counted of one operation. */
export interface OperationFigures {
  /** Calls that have settled. */
  readonly calls: number;
  /** Those of them that rejected. */
  readonly rejected: number;
  /** Keys of all calls. */
  readonly keys: number;
  /** Set bits of all answers: stored, found, loaded, deleted. */
  readonly done: number;
  /** Sum and longest of the calls' times, in milliseconds. */
  readonly totalMs: number;
  readonly longestMs: number;
}

/** A metered adapter. */
export interface MeteredAdapter {
  readonly adapter: L2Adapter;
  /** What was counted so far, by operation; operations that were not called are absent. */
  figures(): ReadonlyMap<AdapterOperation, OperationFigures>;
}

const NONE: OperationFigures = { calls: 0, rejected: 0, keys: 0, done: 0, totalMs: 0, longestMs: 0 };

function doneOf(answer: unknown): number {
  if (answer instanceof Bitmap) return answer.count();
  const stored = (answer as { stored?: unknown } | null | undefined)?.stored;
  return stored instanceof Bitmap ? stored.count() : 0;
}

/** The same adapter with its calls counted and timed. It passes every law that the adapter passes. */
export function metered(adapter: L2Adapter): MeteredAdapter {
  const figures = new Map<AdapterOperation, OperationFigures>();
  const note = (operation: AdapterOperation, keys: number, beganMs: number, done: number | null): void => {
    const before = figures.get(operation) ?? NONE;
    const ms = performance.now() - beganMs;
    figures.set(operation, {
      calls: before.calls + 1,
      rejected: before.rejected + (done === null ? 1 : 0),
      keys: before.keys + keys,
      done: before.done + (done ?? 0),
      totalMs: before.totalMs + ms,
      longestMs: Math.max(before.longestMs, ms),
    });
  };
  const wrapped = wrapAdapter(adapter, async (operation, keys, run) => {
    const beganMs = performance.now();
    try {
      const answer = await run();
      note(operation, keys, beganMs, doneOf(answer));
      return answer;
    } catch (error) {
      note(operation, keys, beganMs, null);
      throw error;
    }
  });
  return { adapter: wrapped, figures: () => new Map(figures) };
}

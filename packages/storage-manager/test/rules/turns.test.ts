import { describe, expect, it } from "vitest";
import { immediate } from "../support/clock.ts";
import { mockAdapter, startEngine, type TestEngine } from "../support/engine.ts";
import { prompt } from "../support/prompts.ts";
import { BytesColumn, Column } from "../../src/state/columns.ts";

const CHUNKS = 64;

/** How often columns of the state were read or written since the last look. */
class Work {
  #count = 0;
  readonly #undo: (() => void)[] = [];

  constructor() {
    for (const { prototype } of [Column, BytesColumn]) {
      for (const name of ["get", "set"] as const) this.#countCalls(prototype as never, name);
    }
  }

  #countCalls(target: Record<string, (...of: unknown[]) => unknown>, name: string): void {
    const original = target[name] as (...of: unknown[]) => unknown;
    const counted = (): void => void this.#count++;
    target[name] = function (this: unknown, ...of) {
      counted();
      return original.apply(this, of);
    };
    this.#undo.push(() => {
      target[name] = original;
    });
  }

  taken(): number {
    const count = this.#count;
    this.#count = 0;
    return count;
  }

  end(): void {
    for (const undo of this.#undo) undo();
  }
}

/** The most that one turn of the event loop touched while this went on. */
async function mostInATurn(work: Work, action: (engine: TestEngine) => unknown, engine: TestEngine) {
  const progress = { done: false };
  let most = 0;
  work.taken();
  const ended = Promise.resolve(action(engine)).then(() => (progress.done = true));
  for (let quiet = 0; !progress.done || quiet < 3; ) {
    const count = work.taken();
    most = Math.max(most, count);
    quiet = count === 0 ? quiet + 1 : 0;
    await immediate();
  }
  await ended;
  return most;
}

/** An engine with so many objects in L1 and in L2. */
async function filled(objects: number): Promise<TestEngine> {
  const engine = await startEngine({
    slots: objects * 2,
    adapters: { mock: mockAdapter() },
    options: { evictionWatermark: 0.9, evictionRatio: 0.9 },
    journal: { segmentBytesMax: 16_384 },
  });
  engine.register(1n);
  for (let at = 0; at < objects; at += CHUNKS) {
    await engine.store(1n, prompt(`prompt ${at}`, CHUNKS).range({ requestId: `${at}` }));
  }
  await engine.settle();
  expect(engine.state.l1.residentCount).toBe(objects);
  return engine;
}

/** Everything that works on many objects; each leaves enough of them for the next. */
const ACTIONS: readonly (readonly [string, (engine: TestEngine) => unknown])[] = [
  ["a look at the status", (engine) => engine.manager.status()],
  ["a sweep", (engine) => engine.manager.sweep()],
  ["a token segment that is copied", copyTokenSegment],
  ["an eviction to the watermark", evictMost],
  ["clear", (engine) => engine.manager.clear(true)],
];

/** Most of the token records die, but for some in each segment. */
async function copyTokenSegment(engine: TestEngine): Promise<void> {
  const { state, journal } = engine.manager.core;
  const slots: number[] = [];
  for (let key = 0; key < state.keys.numbers.bound; key++) {
    if (key % 4 !== 0 && slots.length < 512) slots.push(state.keys.resident.get(key) - 1);
  }
  engine.turn((manager) => manager.room.evictSlots(slots, 0, "clear"));
  expect(journal.side.candidate()).not.toBeNull();
  await engine.until(() => {
    engine.manager.sweep();
    return journal.side.candidate() === null;
  });
}

/** Down to an eighth of L1. */
function evictMost(engine: TestEngine): void {
  const { options } = engine.manager.core;
  Object.defineProperty(options, "evictionWatermark", { value: 0.2 });
  Object.defineProperty(options, "evictionRatio", { value: 0.075 });
  engine.manager.room.keepWatermark();
}

describe("no turn does work in proportion to the number of objects", () => {
  it("three times the objects, the same turns", async () => {
    const most: Map<string, number>[] = [];
    for (const objects of [4_096, 12_288]) {
      const engine = await filled(objects);
      const work = new Work();
      const here = new Map<string, number>();
      try {
        for (const [name, action] of ACTIONS) here.set(name, await mostInATurn(work, action, engine));
      } finally {
        work.end();
      }
      most.push(here);
      await engine.crash();
    }
    const [few, many] = most as [Map<string, number>, Map<string, number>];
    for (const [name, count] of many)
      expect(count, name).toBeLessThanOrEqual((few.get(name) ?? 0) * 1.5 + 256);
    // Columns are touched some fifty times for an object that leaves: a slice is 1,024 of them.
    for (const [name, count] of many) expect(count, name).toBeLessThan(1_024 * 80);
  }, 60_000);
});

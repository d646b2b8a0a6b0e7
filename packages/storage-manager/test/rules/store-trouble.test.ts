import { CacheError, type L2Adapter } from "@cache/contracts";
import type { MockAdapter } from "@cache/l2-mock";
import { beforeEach, expect, it } from "vitest";
import { handleOn, opened } from "../support/adapter-changes.ts";
import { mockAdapter, startEngine, type TestEngine } from "../support/engine.ts";
import { BFLOAT16, FLOAT16, prompt } from "../support/prompts.ts";

const SECOND = 1_000;

let l2: MockAdapter;
beforeEach(() => {
  l2 = mockAdapter();
});

async function engineWith(slots: number): Promise<TestEngine> {
  const engine = await startEngine({ slots, adapters: { l2 }, options: { evictionWatermark: 2 } });
  engine.register(1n);
  return engine;
}

const stored = (): unknown => l2.status()["object_count"];

it("deletes of another layout that never end hold up their own objects alone", async () => {
  const engine = await engineWith(64);
  const chats = [prompt("one", 1), prompt("two", 1), prompt("three", 1)];
  for (const chat of chats) await engine.store(1n, chat.range());
  await engine.settle();
  engine.register(1n, FLOAT16);
  const release = l2.control.hang("delete", { ignoreAbort: true });
  for (const chat of chats) {
    await engine.store(1n, chat.range());
    await engine.settle();
  }
  await engine.pass(60 * SECOND, SECOND);
  await engine.store(1n, prompt("fine", 1).range());
  await engine.pass(3 * SECOND, SECOND / 2);
  expect(stored()).toBe(4);
  l2.control.failNext("store", 1, new CacheError("BACKEND_FULL", "once"));
  for (let n = 0; n < 10; n++) await engine.store(1n, prompt(`after ${n}`, 1).range());
  await engine.pass(10 * SECOND, SECOND / 2);
  expect(stored()).toBe(14);
  expect(engine.eventsOf("l2.store.given_up")).toEqual([]);

  release();
  await engine.pass(10 * SECOND, SECOND / 2);
  await engine.manager.clear(true);
  engine.register(1n, FLOAT16);
  for (const chat of chats) expect(await engine.fetch(1n, chat.lookup())).toBe(1); // the new layout's bytes
});

it("an outage is told in the log: that stores wait and why, that the adapter keeps failing, and that it is back", async () => {
  const lines: string[] = [];
  const tell = (message: string, fields?: unknown): void =>
    void lines.push(`${message} ${JSON.stringify(fields)}`);
  const log = { debug() {}, info: tell, warn: tell, error: tell };
  const engine = await startEngine({ adapters: { l2 }, log });
  engine.register(1n);
  const store = l2.store.bind(l2);
  let isBroken = true;
  const adapter: L2Adapter = l2;
  adapter.store = (...call) =>
    isBroken ? Promise.reject(new CacheError("BACKEND_UNAVAILABLE", "no route to host")) : store(...call);
  await engine.store(1n, prompt("waits", 3).range());
  await engine.pass(30 * SECOND, SECOND / 2);
  expect(lines).toEqual([
    expect.stringMatching(/takes no stores.*"adapter":"l2","waiting":3,"error":".*no route to host/),
    expect.stringMatching(/keeps failing.*"adapter":"l2".*no route to host/),
  ]);
  lines.length = 0;
  isBroken = false;
  await engine.pass(30 * SECOND, SECOND / 2);
  expect(lines).toEqual([
    expect.stringMatching(/takes stores again .*"seconds":\d+/),
    expect.stringMatching(/works again .*"seconds":\d+/),
  ]);
});

it("two adapters on the same data are refused at the start", async () => {
  const place = await opened();
  const adapters = { fs: handleOn(place, "/data/kv"), "fs.2": handleOn(place, "/data/kv") };
  await expect(startEngine({ adapters })).rejects.toMatchObject({
    code: "INVALID_CONFIG",
    message: expect.stringMatching(/'fs' and 'fs.2' are both on \/data\/kv/),
  });
  await startEngine({ adapters: { mock: mockAdapter(), "mock.2": mockAdapter() } }); // nothing that is kept
});

it("objects that the adapter takes do not wait for those that it does not take", async () => {
  const engine = await engineWith(1024);
  engine.register(1n, BFLOAT16, 1, "big");
  engine.register(2n, BFLOAT16, 1, "bigger");
  engine.register(3n, BFLOAT16, 1, "small");
  const store = l2.store.bind(l2);
  const adapter: L2Adapter = l2;
  adapter.store = (keys, objects, signal) =>
    keys[0]?.modelName === "small"
      ? store(keys, objects, signal)
      : Promise.reject(new CacheError("BACKEND_FULL", "no room for objects like these"));
  await engine.store(1n, prompt("big", 320).range({ model: "big" }));
  await engine.store(2n, prompt("bigger", 320).range({ model: "bigger" }));
  await engine.store(3n, prompt("small", 10).range({ model: "small" }));
  await engine.pass(10 * SECOND, SECOND / 2);
  expect(stored()).toBe(10);
});

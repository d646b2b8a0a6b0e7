import { describe, expect, test } from "vitest";
import { delayed, faultInjecting, l2AdapterSuite, metered } from "../src/index.ts";
import { createMapAdapter } from "./map-adapter.ts";

const never = new AbortController().signal;

describe("an adapter in all wrappers keeps every law", () => {
  l2AdapterSuite({
    test,
    lateWriteGraceMs: 20,
    factory: async () => ({
      create: () => metered(delayed(faultInjecting(createMapAdapter(), {}))).adapter,
      dispose: async () => {},
    }),
  });
});

test("a delayed adapter answers in another order than it was asked, and closes after its answers", async () => {
  const adapter = delayed(createMapAdapter(), { turns: 8, seed: 3 });
  await adapter.open({ id: "map", stateDir: null, log: console, signal: never });
  const order: number[] = [];
  const ask = (n: number) => adapter.lookupAndLock([], never).then(() => order.push(n));
  await Promise.all([0, 1, 2, 3, 4].map(ask));
  expect(order.toSorted((a, b) => a - b)).not.toEqual(order);
  let settled = false;
  const last = adapter.lookupAndLock([], never).finally(() => (settled = true));
  last.catch(() => undefined);
  await adapter.close();
  await Promise.resolve();
  expect(settled).toBe(true);
  await expect(last).rejects.toMatchObject({ code: "ADAPTER_CLOSED" });
});

test("figures count calls, keys, hits and rejections by operation", async () => {
  const { adapter, figures } = metered(faultInjecting(createMapAdapter(), { failureRate: { load: 1 } }));
  expect(figures().size).toBe(0);
  await adapter.open({ id: "map", stateDir: null, log: console, signal: never });
  await adapter.store([], [], never);
  await adapter.load([], [], never).catch(() => undefined);
  expect(figures().get("open")).toMatchObject({ calls: 1, rejected: 0 });
  expect(figures().get("load")).toMatchObject({ calls: 1, rejected: 1, done: 0 });
  expect(figures().get("store")?.longestMs).toBeGreaterThanOrEqual(0);
});

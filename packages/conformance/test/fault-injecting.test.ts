import { CacheError } from "@cache/contracts";
import { expect, test } from "vitest";
import { faultInjecting } from "../src/index.ts";
import { createMapAdapter } from "./map-adapter.ts";

const never = new AbortController().signal;

test("calls fail as planned, before they reach the adapter", async () => {
  const adapter = faultInjecting(createMapAdapter(), {
    fail: (operation, call) =>
      operation === "lookupAndLock" && call === 2 ? new CacheError("BACKEND_REFUSED", "planned") : null,
    failureRate: { load: 1 },
  });
  await adapter.open({ id: "map", stateDir: null, log: console, signal: never });
  await adapter.lookupAndLock([], never);
  await expect(adapter.lookupAndLock([], never)).rejects.toMatchObject({ code: "BACKEND_REFUSED" });
  await adapter.lookupAndLock([], never);
  await expect(adapter.load([], [], never)).rejects.toMatchObject({ code: "BACKEND_UNAVAILABLE" });
});

test("the same seed fails the same calls", async () => {
  const outcomes = async (seed: number): Promise<boolean[]> => {
    const adapter = faultInjecting(createMapAdapter(), { failureRate: { store: 0.5 }, seed });
    await adapter.open({ id: "map", stateDir: null, log: console, signal: never });
    const stores = Array.from({ length: 40 }, () => adapter.store([], [], never));
    return (await Promise.allSettled(stores)).map(({ status }) => status === "fulfilled");
  };
  expect(await outcomes(5)).toEqual(await outcomes(5));
  expect(await outcomes(5)).not.toEqual(await outcomes(6));
});

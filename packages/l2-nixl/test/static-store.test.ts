import type { CacheError } from "@cache/contracts";
import { afterEach, expect, test, vi } from "vitest";
import { files } from "../src/files.ts";
import type { L1Region } from "../src/memory.ts";
import type { PoolPlace } from "../src/pool-place.ts";
import { StaticStore } from "../src/static-store.ts";
import type { NamedObject } from "../src/store.ts";
import type { ObjectTransfer, Transfers } from "../src/transfers.ts";
import { key, never, openContext, temporaryDirectory } from "./support/fixtures.ts";

afterEach(() => {
  vi.restoreAllMocks();
});

test("after a slot map that broke in the middle of a record no page is written any more", async () => {
  let written = 0;
  const write = async (
    objects: readonly ObjectTransfer[],
    _ended: AbortSignal,
    onDone: (positions: readonly number[]) => Promise<void>,
  ): Promise<"done"[]> => {
    written += objects.length;
    await onDone(objects.map((_, i) => i));
    return objects.map(() => "done");
  };
  const place = {
    writeOwner: async () => undefined,
    isStillOf: async () => true,
    ranges: () => [{ device: 3, offset: 0, byteLength: 4096 }],
    syncAll: async () => undefined,
    freeBytes: () => null,
  };
  const store = new StaticStore({
    location: "here",
    stateDir: await temporaryDirectory(),
    shape: { pageBytes: 4096, pagesPerContainer: 1, containers: 2 },
    geometry: "g",
    place: place as unknown as PoolPlace,
    l1: { address: () => 4096 } as unknown as L1Region,
    blocks: null,
    blockBytes: 1,
    transfers: { write } as unknown as Transfers,
    isDurable: false,
    log: openContext().log,
  });
  await store.open(null);
  const item = (n: number, byteLength = 100): NamedObject => {
    const one = key(n);
    return {
      name: store.nameOf(one),
      key: one,
      object: { bytes: new Uint8Array(byteLength), poolOffset: 0 },
    };
  };
  expect(await store.store([item(1)], never)).toEqual([100]);
  const broken = async (): Promise<never> => {
    throw Object.assign(new Error("EIO: input/output error"), { code: "EIO" });
  };
  vi.spyOn(files, "writeAt").mockImplementation(broken);
  vi.spyOn(files, "ftruncate").mockImplementation(broken);
  const isUnavailable = expect.objectContaining({ code: "BACKEND_UNAVAILABLE" }) as CacheError;
  expect(await store.store([item(2)], never)).toEqual([isUnavailable]);
  vi.restoreAllMocks();
  expect(written).toBe(2);
  // The file may hold the record of 2: its page is free, and must keep its bytes all the same.
  expect(await store.store([item(3), item(1), item(1, 99)], never)).toEqual([
    isUnavailable,
    0,
    expect.objectContaining({ code: "CONFLICT" }),
  ]);
  expect(written).toBe(2);
  await store.close();
});

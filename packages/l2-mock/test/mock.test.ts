import { CacheError, type MemoryObj, type ObjectKey, objectKey } from "@cache/contracts";
import { afterEach, describe, expect, test } from "vitest";
import {
  createMockAdapter,
  type MockAdapter,
  type MockClock,
  type MockConfig,
  mockConfigSchema,
} from "../src/index.ts";

const GIB = 1024 ** 3;
const log = { debug() {}, info() {}, warn() {}, error() {} };
const never = new AbortController().signal;
const made: MockAdapter[] = [];

/** A clock that stands still until it is told; sleepers wake when their time has come, or on abort. */
function manualClock() {
  let nowMs = 0;
  const sleepers = new Set<{ at: number; wake: () => void }>();
  const clock: MockClock = {
    now: () => nowMs,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        const wake = (): void => {
          sleepers.delete(sleeper);
          resolve();
        };
        const sleeper = { at: nowMs + ms, wake };
        sleepers.add(sleeper);
        if (signal.aborted) wake();
        signal.addEventListener("abort", wake, { once: true });
      }),
  };
  const settle = () => new Promise((resolve) => setImmediate(resolve));
  return {
    clock,
    sleepers,
    advance: async (ms: number): Promise<void> => {
      await settle();
      nowMs += ms;
      for (const sleeper of sleepers) if (sleeper.at <= nowMs) sleeper.wake();
      await settle();
    },
  };
}

async function opened(
  config: Partial<MockConfig> = {},
  ports: Parameters<typeof createMockAdapter>[2] = {},
): Promise<MockAdapter> {
  const parsed = mockConfigSchema.parse({ max_size_gb: 1, mock_bandwidth_gb: 1000, ...config });
  const adapter = createMockAdapter(parsed, undefined, ports);
  made.push(adapter);
  await adapter.open({ id: "mock", stateDir: null, log, signal: never });
  return adapter;
}

const key = (n: number, cacheSalt = ""): ObjectKey =>
  objectKey({ chunkHash: Uint8Array.of(n, 1), modelName: "m", kvRank: 1, cacheSalt });
const object = (byteLength: number, fill = 7): MemoryObj => ({
  bytes: new Uint8Array(byteLength).fill(fill),
  poolOffset: null,
});
const code = (wanted: string) => expect.objectContaining({ code: wanted }) as Error;

afterEach(async () => {
  await Promise.all(made.splice(0).map((adapter) => adapter.close()));
});

describe("capacity", () => {
  test("a full store fails per key, keeps what fits, and takes more after a delete", async () => {
    const adapter = await opened({ max_size_gb: 1000 / GIB });
    const keys = [key(1), key(2), key(3)];
    const result = await adapter.store(keys, [object(600), object(600), object(400)], never);
    expect([...result.stored.positions()]).toEqual([0, 2]);
    expect(result.failed.get(1)).toEqual(code("BACKEND_FULL"));
    expect(result.bytesTransferred).toBe(1000);
    expect(adapter.usage()).toMatchObject({ totalBytesUsed: 1000, capacityBytes: 1000 });
    await adapter.delete([key(1)], never);
    expect((await adapter.store([key(2)], [object(600)], never)).stored.has(0)).toBe(true);
  });

  test("stores in flight reserve their room", async () => {
    const { clock, advance } = manualClock();
    const adapter = await opened({ max_size_gb: 1000 / GIB, mock_bandwidth_gb: 1000 / GIB }, { clock });
    const first = adapter.store([key(1)], [object(600)], never);
    const second = await adapter.store([key(2)], [object(600)], never);
    expect(second.failed.get(0)).toEqual(code("BACKEND_FULL"));
    await advance(600);
    expect((await first).stored.has(0)).toBe(true);
  });
});

describe("bandwidth and latency", () => {
  test("stores and loads share the bandwidth, one behind the other", async () => {
    const { clock, advance } = manualClock();
    const adapter = await opened({ mock_bandwidth_gb: 1000 / GIB }, { clock });
    const done: string[] = [];
    const first = adapter.store([key(1)], [object(500)], never).then(() => done.push("first"));
    const second = adapter.store([key(2)], [object(1000)], never).then(() => done.push("second"));
    await advance(499);
    expect(done).toEqual([]);
    await advance(1);
    expect(done).toEqual(["first"]);
    await advance(999);
    expect(done).toEqual(["first"]);
    await advance(1);
    expect(done).toEqual(["first", "second"]);
    await Promise.all([first, second]);
  });

  test("abort ends a transfer at once and stores nothing", async () => {
    const { clock, sleepers, advance } = manualClock();
    const adapter = await opened({ mock_bandwidth_gb: 1000 / GIB }, { clock });
    const controller = new AbortController();
    const storing = adapter.store([key(1)], [object(5000)], controller.signal);
    await advance(10);
    expect(sleepers.size).toBe(1);
    controller.abort();
    expect((await storing).failed.get(0)).toEqual(code("ABORTED"));
    expect(sleepers.size).toBe(0);
    expect(adapter.usage().totalBytesUsed).toBe(0);
  });

  test("latency stands before each operation", async () => {
    const { clock, advance } = manualClock();
    const adapter = await opened({ latency_ms: 20 }, { clock });
    let answered = false;
    const looking = adapter.lookupAndLock([], never).then(() => {
      answered = true;
    });
    await advance(19);
    expect(answered).toBe(false);
    await advance(1);
    expect(answered).toBe(true);
    await looking;
  });
});

describe("failures", () => {
  test("rates fail by chance: keys of a store singly, lookups and loads as a whole", async () => {
    const chances = [0.1, 0.9, 0.1, 0.9, 0.1, 0.9];
    const random = () => chances.shift() ?? 0.9;
    const rates = { store_failure_rate: 0.5, load_failure_rate: 0.5, lookup_failure_rate: 0.5 };
    const adapter = await opened(rates, { random });
    const result = await adapter.store([key(1), key(2)], [object(9), object(9)], never);
    expect(result.failed.get(0)).toEqual(code("BACKEND_UNAVAILABLE"));
    expect(result.stored.has(1)).toBe(true);
    const request = [{ key: key(2), byteLength: 9 }];
    await expect(adapter.lookupAndLock(request, never)).rejects.toEqual(code("BACKEND_UNAVAILABLE"));
    expect((await adapter.lookupAndLock(request, never)).count()).toBe(1);
    await expect(adapter.load(request, [object(9)], never)).rejects.toEqual(code("BACKEND_UNAVAILABLE"));
    expect((await adapter.load(request, [object(9)], never)).count()).toBe(1);
  });

  test("failNext fails exactly the next n, with the given error", async () => {
    const adapter = await opened();
    adapter.control.failNext("lookup", 2, new CacheError("BACKEND_REFUSED", "no entry"));
    for (let i = 0; i < 2; i++) {
      await expect(adapter.lookupAndLock([], never)).rejects.toEqual(code("BACKEND_REFUSED"));
    }
    expect((await adapter.lookupAndLock([], never)).size).toBe(0);
    adapter.control.failNext("load");
    await expect(adapter.load([], [], never)).rejects.toEqual(code("BACKEND_UNAVAILABLE"));
    expect(adapter.control.callCount("lookup")).toBe(3);
  });

  test("open can fail and be tried again", async () => {
    const adapter = createMockAdapter(mockConfigSchema.parse({ max_size_gb: 1, mock_bandwidth_gb: 1 }));
    adapter.control.failNext("open");
    const context = { id: "mock", stateDir: null, log, signal: never };
    await expect(adapter.open(context)).rejects.toEqual(code("BACKEND_UNAVAILABLE"));
    await adapter.open(context);
    expect(adapter.status().isHealthy).toBe(true);
  });

  test("a hang ends by release, or by abort unless told otherwise", async () => {
    const adapter = await opened();
    const release = adapter.control.hang("store");
    const waiting = adapter.store([key(1)], [object(5)], never);
    const controller = new AbortController();
    const aborted = adapter.store([key(2)], [object(5)], controller.signal);
    controller.abort();
    await expect(aborted).rejects.toEqual(code("ABORTED"));
    expect(adapter.control.inFlight).toBe(1);
    release();
    expect((await waiting).stored.has(0)).toBe(true);

    const releaseStubborn = adapter.control.hang("load", { ignoreAbort: true });
    let settled = false;
    const loading = adapter.load([], [], AbortSignal.abort()).catch(() => {
      settled = true;
    });
    const closing = adapter.close();
    await new Promise((resolve) => setImmediate(resolve));
    expect(settled).toBe(false);
    releaseStubborn();
    await Promise.all([loading, closing]);
    expect(settled).toBe(true);
  });

  test("close ends what hangs", async () => {
    const adapter = await opened();
    adapter.control.hang("lookup");
    const looking = adapter.lookupAndLock([], never);
    await Promise.all([expect(looking).rejects.toEqual(code("ADAPTER_CLOSED")), adapter.close()]);
  });
});

describe("objects changed behind the adapter's back", () => {
  test("dropped, cut and flipped", async () => {
    const adapter = await opened();
    await adapter.store([key(1), key(2), key(3)], [object(10), object(10), object(10)], never);
    const requests = [1, 2, 3].map((n) => ({ key: key(n), byteLength: 10 }));
    expect((await adapter.lookupAndLock(requests, never)).count()).toBe(3);
    expect(adapter.control.lockCount(key(1))).toBe(1);
    adapter.control.dropKeys([key(1)]);
    adapter.control.corruptLength(key(2), 4);
    adapter.control.corruptBytes(key(3));
    const into = [object(10, 0), object(10, 0), object(10, 0)];
    expect([...(await adapter.load(requests, into, never)).positions()]).toEqual([2]);
    expect([...(into[2]?.bytes ?? [])]).toEqual([6, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
    expect(adapter.usage().totalBytesUsed).toBe(14);
  });

  test("usage by salt drops tenants that hold nothing", async () => {
    const adapter = await opened();
    await adapter.store([key(1), key(2, "a")], [object(10), object(5)], never);
    expect(adapter.usage().bytesByCacheSalt).toEqual(
      new Map([
        ["", 10],
        ["a", 5],
      ]),
    );
    await adapter.delete([key(2, "a")], never);
    expect(adapter.usage().bytesByCacheSalt).toEqual(new Map([["", 10]]));
  });
});

import {
  CacheError,
  type L2Adapter,
  type MemoryObj,
  objectKey,
  type ObjectKey,
  WIRE_NAMES,
} from "@cache/contracts";
import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import { createSimpleAdapter, type SimpleAdapterOptions, type SimpleStore } from "../src/index.ts";
import { batchedStore, fullStore, mapStore, type Objects, OPTIONS, rangeStore } from "./stores.ts";

const never = new AbortController().signal;
const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const context = { id: "map", stateDir: null, log: silent, signal: never };

const keyOf = (n: number, cacheSalt = ""): ObjectKey =>
  objectKey({ chunkHash: Buffer.from([1 + n]), modelName: "org/m", kvRank: 1, cacheSalt });
const nameOf = (n: number): string => WIRE_NAMES.encode(keyOf(n));
const memory = (byteLength: number, fill = 0): MemoryObj => ({
  bytes: Buffer.alloc(byteLength, fill),
  poolOffset: null,
});

async function opened(store: SimpleStore, options: Partial<SimpleAdapterOptions> = {}): Promise<L2Adapter> {
  const adapter = createSimpleAdapter(store, { ...OPTIONS, ...options });
  await adapter.open(context);
  return adapter;
}

const store = (adapter: L2Adapter, n: number, byteLength = 10, signal = never) =>
  adapter.store([keyOf(n)], [memory(byteLength, n)], signal);
const lookup = (adapter: L2Adapter, n: number, byteLength = 10, signal = never) =>
  adapter.lookupAndLock([{ key: keyOf(n), byteLength }], signal);
const load = (adapter: L2Adapter, n: number, into = memory(10), signal = never) =>
  adapter.load([{ key: keyOf(n), byteLength: into.bytes.length }], [into], signal);

/** A promise and its ends. */
function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => {};
  const promise = new Promise<T>((done) => (resolve = done));
  return { promise, resolve };
}

describe("a key that fails does not take others with it", () => {
  const failing = (objects: Objects): SimpleStore => {
    const full = fullStore(objects);
    const check = (name: string): void => {
      if (name === nameOf(1)) throw Object.assign(new Error("disk on fire"), { code: "EIO" });
    };
    return {
      ...full,
      exists: (name, signal) => (check(name), full.exists(name, signal)),
      get: (name, signal) => (check(name), full.get(name, signal)),
      remove: async (name, signal) => (check(name), full.remove?.(name, signal)),
    };
  };
  const failingBatch = (objects: Objects): SimpleStore => {
    const good = batchedStore(objects);
    const orError = <T>(names: readonly string[], answers: readonly T[] | void): (T | Error)[] =>
      names.map((name, i) =>
        name === nameOf(1) ? new Error("disk on fire") : (answers as readonly T[])[i]!,
      );
    return {
      ...good,
      batchedExists: async (names, signal) => orError(names, await good.batchedExists!(names, signal)),
      batchedGet: async (names, signal) => orError(names, await good.batchedGet!(names, signal)),
      batchedRemove: async (names, signal) => orError(names, await good.batchedRemove!(names, signal)),
    };
  };
  test.each([
    ["single", failing],
    ["batched", failingBatch],
  ])("%s", async (_, make) => {
    const objects: Objects = new Map();
    const adapter = await opened(make(objects));
    const keys = [0, 1, 2].map((n) => keyOf(n));
    const requests = keys.map((key) => ({ key, byteLength: 10 }));
    const result = await adapter.store(
      keys,
      [0, 1, 2].map((n) => memory(10, n)),
      never,
    );
    expect([...result.stored.positions()]).toEqual([0, 2]);
    expect(result.failed.get(1)).toMatchObject({ code: "BACKEND_UNAVAILABLE", message: /disk on fire/ });
    expect(result.bytesTransferred).toBe(20);
    expect([...(await adapter.lookupAndLock(requests, never)).positions()]).toEqual([0, 2]);
    adapter.unlock(keys);
    expect([
      ...(
        await adapter.load(
          requests,
          requests.map(() => memory(10)),
          never,
        )
      ).positions(),
    ]).toEqual([0, 2]);
    expect([...(await adapter.delete!(keys, never)).positions()]).toEqual([0, 2]);
    expect(adapter.usage().totalBytesUsed).toBe(0);
    expect(adapter.status()).toMatchObject({ errors: { BACKEND_UNAVAILABLE: 4 }, isHealthy: true });
  });
});

test("a store that fails for all keys is an error, and unhealthy after three", async () => {
  const broken: SimpleStore = { ...mapStore(new Map()), ping: async () => undefined };
  const adapter = await opened(broken);
  Object.assign(broken, {
    exists: () => Promise.reject(Object.assign(new Error("no"), { statusCode: 403 })),
  });
  for (let i = 0; i < 3; i++) {
    await expect(lookup(adapter, 1)).rejects.toMatchObject({ code: "BACKEND_REFUSED" });
  }
  expect(adapter.status().isHealthy).toBe(false);
});

test.each([
  [Object.assign(new Error("x"), { code: "ENOSPC" }), "BACKEND_FULL"],
  [Object.assign(new Error("x"), { $metadata: { httpStatusCode: 401 } }), "BACKEND_REFUSED"],
  [new CacheError("DATA_CORRUPT", "x"), "DATA_CORRUPT"],
  ["plain text", "BACKEND_UNAVAILABLE"],
  [undefined, "BACKEND_UNAVAILABLE"],
])("what a store throws becomes one of our errors (%#)", async (thrown, code) => {
  const adapter = await opened({ ...mapStore(new Map()), put: () => Promise.reject(thrown) });
  const { failed } = await store(adapter, 1);
  expect(failed.get(0)).toMatchObject({ code });
});

test("secrets and credentials in URLs are struck out of messages", async () => {
  const leak = "GET https://me:hunter2@host/x?token=s3cret failed";
  const throws = async (): Promise<never> => Promise.reject(new Error(leak));
  const options = { ...OPTIONS, secrets: ["s3cret"], pingIntervalMs: 1 };
  const adapter = createSimpleAdapter({ ...mapStore(new Map()), ping: throws }, options);
  const error = await adapter.open(context).catch((caught: unknown) => caught);
  expect(error).toMatchObject({
    code: "BACKEND_UNAVAILABLE",
    message: /GET https:\/\/\*\*\*@host\/x\?token=\*\*\*/,
  });
  expect(JSON.stringify(error, Object.getOwnPropertyNames(error))).not.toMatch(/s3cret|hunter2/);
});

test.each([
  ["exists", { exists: async () => undefined }],
  ["get", { get: async () => "text" }],
  [
    "a stream",
    {
      get: async () =>
        (async function* () {
          yield "text";
        })(),
    },
  ],
  ["getInto", { getInto: async () => "10" }],
])("%s that breaks its type is a typed error, and never a hit", async (_, wrong) => {
  const objects: Objects = new Map([[nameOf(1), new Uint8Array(10)]]);
  const adapter = await opened({
    ...mapStore(objects),
    ping: async () => undefined,
    ...(wrong as Partial<SimpleStore>),
  });
  const calls = "exists" in wrong ? lookup(adapter, 1) : load(adapter, 1);
  await expect(calls).rejects.toMatchObject({
    code: "BACKEND_UNAVAILABLE",
    message: /a mistake in the adapter/,
  });
});

test("batched forms that answer too few are errors for each key", async () => {
  const objects: Objects = new Map([0, 1].map((n) => [nameOf(n), new Uint8Array(10)]));
  const short = {
    batchedExists: async () => [10],
    batchedGet: async () => [null],
    batchedRemove: async () => [null],
  };
  const adapter = await opened({ ...fullStore(objects), ...short });
  const keys = [keyOf(0), keyOf(1)];
  const requests = keys.map((key) => ({ key, byteLength: 10 }));
  await expect(adapter.lookupAndLock(requests, never)).rejects.toThrow(/no list of 2 answers/);
  await expect(adapter.load(requests, [memory(10), memory(10)], never)).rejects.toThrow(
    /no list of 2 answers/,
  );
  await expect(adapter.delete!(keys, never)).rejects.toThrow(/no list of 2 answers/);
});

describe("abort", () => {
  test("answers at once where no buffer is lent, and keeps the name until the call has settled", async () => {
    const objects: Objects = new Map();
    const gate = deferred<void>();
    const adapter = await opened({
      ...fullStore(objects),
      async put(name, bytes) {
        await gate.promise;
        objects.set(name, bytes);
      },
    });
    const controller = new AbortController();
    const source = memory(10, 7);
    const storing = adapter.store([keyOf(1)], [source], controller.signal);
    await vi.waitFor(() => expect(adapter.status()["calls_in_flight"]).toBe(1));
    await new Promise<void>((resolve) => setImmediate(resolve));
    controller.abort();
    expect((await storing).failed.get(0)).toMatchObject({ code: "ABORTED" });
    source.bytes.fill(9); // ours again
    expect(adapter.status()).toMatchObject({
      operations_in_flight: 0,
      calls_abandoned: 1,
      calls_in_flight: 1,
    });
    const removing = adapter.delete!([keyOf(1)], never);
    for (let i = 0; i < 5; i++) await new Promise<void>((resolve) => setImmediate(resolve));
    gate.resolve();
    expect((await removing).has(0)).toBe(true);
    expect(objects.size, "the late put came after the delete").toBe(0);
    expect(adapter.status()).toMatchObject({ calls_abandoned: 0, calls_in_flight: 0, current_size_bytes: 0 });
  });

  test("waits where a buffer is lent", async () => {
    const gate = deferred<number | null>();
    const adapter = await opened({ ...mapStore(new Map()), getInto: () => gate.promise });
    const controller = new AbortController();
    let settled = false;
    const loading = load(adapter, 1, memory(10), controller.signal).finally(() => (settled = true));
    await vi.waitFor(() => expect(adapter.status()["calls_in_flight"]).toBe(1));
    controller.abort();
    for (let i = 0; i < 5; i++) await new Promise<void>((resolve) => setImmediate(resolve));
    expect(settled).toBe(false);
    gate.resolve(null);
    await expect(loading).rejects.toMatchObject({ code: "ABORTED" });
  });

  test("a stream that goes on after it writes nothing more", async () => {
    const gate = deferred<void>();
    const adapter = await opened({
      ...mapStore(new Map()),
      get: async () =>
        (async function* () {
          yield Buffer.alloc(4, 1);
          await gate.promise;
          yield Buffer.alloc(6, 1);
        })(),
    });
    const controller = new AbortController();
    const into = memory(10);
    const loading = load(adapter, 1, into, controller.signal);
    await vi.waitFor(() => expect(into.bytes[0]).toBe(1));
    controller.abort();
    await expect(loading).rejects.toMatchObject({ code: "ABORTED" });
    into.bytes.fill(5);
    gate.resolve();
    await adapter.close();
    expect([...into.bytes]).toEqual(Array.from({ length: 10 }, () => 5));
  });

  test("gives back the locks that a lookup had taken", async () => {
    const objects: Objects = new Map([1, 2].map((n) => [nameOf(n), new Uint8Array(10)]));
    const full = fullStore(objects);
    const hangs: SimpleStore["exists"] = (name, signal) =>
      name === nameOf(2) ? new Promise<never>(() => {}) : full.exists(name, signal);
    const adapter = await opened({ ...full, exists: hangs, ping: async () => undefined });
    const controller = new AbortController();
    const requests = [1, 2].map((n) => ({ key: keyOf(n), byteLength: 10 }));
    const looking = adapter.lookupAndLock(requests, controller.signal);
    await vi.waitFor(() => expect(adapter.status()["locked_keys"]).toBe(1));
    controller.abort();
    await expect(looking).rejects.toMatchObject({ code: "ABORTED" });
    expect(adapter.status()["locked_keys"]).toBe(0);
  });

  test("a waiting operation leaves the queue, and the next one gets its turn", async () => {
    const gate = deferred<void>();
    const objects: Objects = new Map([[nameOf(2), new Uint8Array(10)]]);
    const adapter = await opened(
      {
        ...mapStore(objects),
        get: (name) =>
          name === nameOf(1) ? gate.promise.then(() => null) : mapStore(objects).get(name, never),
      },
      { concurrency: 1 },
    );
    const first = load(adapter, 1);
    const controller = new AbortController();
    const second = load(adapter, 2, memory(10), controller.signal);
    const third = load(adapter, 2);
    await vi.waitFor(() => expect(adapter.status()["calls_waiting"]).toBe(2));
    controller.abort();
    await expect(second).rejects.toMatchObject({ code: "ABORTED" });
    gate.resolve();
    expect((await first).has(0)).toBe(false);
    expect((await third).has(0)).toBe(true);
  });
});

test("a call that never answers fails at its time-out, and close does not wait for it for ever", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  try {
    const hang: SimpleStore = { ...mapStore(new Map()), get: () => new Promise<never>(() => {}) };
    const adapter = await opened(hang, { callTimeoutMs: 1000 });
    const loading = load(adapter, 1).catch((error: unknown) => error);
    await vi.waitFor(() => expect(adapter.status()["calls_in_flight"]).toBe(1));
    await vi.advanceTimersByTimeAsync(1000);
    expect(await loading).toMatchObject({ code: "BACKEND_UNAVAILABLE", message: /within 1000 ms/ });
    const closing = adapter.close();
    await vi.advanceTimersByTimeAsync(5000);
    await closing;
  } finally {
    vi.useRealTimers();
  }
});

test("a delete waits for the loads of its object, and loads for it", async () => {
  const objects: Objects = new Map();
  const gate = deferred<void>();
  const full = fullStore(objects);
  const adapter = await opened({
    ...full,
    get: async (name, signal) => (await gate.promise, full.get(name, signal)),
  });
  await store(adapter, 1);
  const loading = load(adapter, 1);
  await vi.waitFor(() => expect(adapter.status()["calls_in_flight"]).toBe(1));
  const removing = adapter.delete!([keyOf(1)], never);
  const later = load(adapter, 1);
  await new Promise<void>((resolve) => setImmediate(resolve));
  expect(objects.size).toBe(1);
  gate.resolve();
  expect([(await loading).has(0), (await removing).has(0), (await later).has(0)]).toEqual([
    true,
    true,
    false,
  ]);
});

test("an object of another length is replaced, unless it is locked", async () => {
  const objects: Objects = new Map();
  const adapter = await opened(fullStore(objects));
  await store(adapter, 1, 10);
  await lookup(adapter, 1, 10);
  expect((await store(adapter, 1, 20)).failed.get(0)).toMatchObject({ code: "CONFLICT" });
  adapter.unlock([keyOf(1)]);
  expect((await store(adapter, 1, 20)).stored.has(0)).toBe(true);
  expect(adapter.usage().totalBytesUsed).toBe(20);
});

test("batches that share keys in another order do not wait for each other in a circle", async () => {
  const adapter = await opened(batchedStore(new Map()));
  const orders = [
    [0, 1, 2],
    [2, 1, 0],
    [1, 2, 0],
  ];
  const results = await Promise.all(
    orders.map((order) =>
      adapter.store(
        order.map((n) => keyOf(n)),
        order.map(() => memory(10)),
        never,
      ),
    ),
  );
  expect(results.map(({ stored }) => stored.count())).toEqual([3, 3, 3]);
  expect(adapter.usage().totalBytesUsed).toBe(30);
});

test("a capacity refuses what does not fit, also beside stores under way", async () => {
  const adapter = await opened(fullStore(new Map()), { capacityBytes: 25 });
  const results = await Promise.all([1, 2, 3].map((n) => store(adapter, n)));
  expect(results.map(({ stored }) => stored.has(0)).filter(Boolean).length).toBe(2);
  const full = results.find(({ failed }) => failed.size > 0)?.failed.get(0);
  expect(full).toMatchObject({ code: "BACKEND_FULL", message: /20 of 25 bytes/ });
  expect(adapter.usage()).toMatchObject({ totalBytesUsed: 20, capacityBytes: 25 });
  expect(adapter.capabilities.globalEviction).toBe(true);
});

test("an object that the store dropped by itself leaves the account when that is seen", async () => {
  const objects: Objects = new Map();
  const adapter = await opened(fullStore(objects));
  await store(adapter, 1);
  objects.clear();
  expect((await lookup(adapter, 1)).has(0)).toBe(false);
  expect(adapter.usage().totalBytesUsed).toBe(0);
});

test("a store that tells no length is read once for an object of others, never for its own", async () => {
  const objects: Objects = new Map([[nameOf(1), new Uint8Array(10)]]);
  const get = vi.fn(async (name: string) => objects.get(name) ?? null);
  const adapter = await opened({ ...mapStore(objects), get, exists: async (name) => objects.has(name) });
  expect((await lookup(adapter, 1, 10)).has(0)).toBe(true);
  expect((await lookup(adapter, 1, 11)).has(0)).toBe(false);
  await store(adapter, 2);
  expect((await lookup(adapter, 2, 10)).has(0)).toBe(true);
  expect(get).toHaveBeenCalledTimes(1);
});

test("ranges are asked for beside each other and put together; an object that grew is a miss", async () => {
  const objects: Objects = new Map([[nameOf(1), Uint8Array.from({ length: 10 }, (_, i) => i)]]);
  const ranges = rangeStore(objects);
  const getInto = vi.fn(ranges.getInto);
  const adapter = await opened({ ...ranges, getInto }, { rangeBytes: 4 });
  const into = memory(10);
  expect((await load(adapter, 1, into)).has(0)).toBe(true);
  expect([...into.bytes]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(getInto.mock.calls.map(([, view, offset]) => [offset, view.length])).toEqual([
    [0, 4],
    [4, 4],
    [8, 2],
  ]);
  objects.set(nameOf(1), new Uint8Array(11));
  expect((await load(adapter, 1, into)).has(0)).toBe(false);
});

describe("listing", () => {
  test("skips foreign names and other prefixes, asks for lengths it is not given, tells times", async () => {
    const objects: Objects = new Map([
      [`p/${nameOf(1)}`, new Uint8Array(5)],
      ["p/foreign", new Uint8Array(1)],
      [nameOf(2), new Uint8Array(1)],
    ]);
    const list: SimpleStore["list"] = async function* () {
      for (const name of objects.keys()) yield { name, modifiedMs: 12.7 };
      yield { name: `p/${nameOf(3)}` }; // gone since
    };
    const adapter = await opened({ ...mapStore(objects), list }, { prefix: "p/" });
    const { entries, nextPageToken } = await adapter.listKeys!({ pageSize: 10 }, never);
    expect(entries).toMatchObject([{ key: { chunk_hash_hex: "02" }, size_bytes: 5, modified_ms: 12 }]);
    expect(nextPageToken).toBe(null);
  });

  test("a token is good once; the ninth listing ends the first; close ends all", async () => {
    const objects: Objects = new Map([0, 1, 2, 3].map((n) => [nameOf(n), new Uint8Array(1)]));
    let open = 0;
    const list: SimpleStore["list"] = async function* () {
      open++;
      try {
        for (const name of objects.keys()) yield { name, byteLength: 1 };
      } finally {
        open--;
      }
    };
    const adapter = await opened({ ...mapStore(objects), list });
    const tokens: string[] = [];
    for (let i = 0; i < 9; i++) tokens.push((await adapter.listKeys!({ pageSize: 1 }, never)).nextPageToken!);
    expect(open).toBe(8);
    await expect(adapter.listKeys!({ pageSize: 1, pageToken: tokens[0]! }, never)).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    const pageToken = tokens[8]!;
    expect((await adapter.listKeys!({ pageSize: 1, pageToken }, never)).entries.length).toBe(1);
    await expect(adapter.listKeys!({ pageSize: 1, pageToken }, never)).rejects.toThrow(
      /start again without one/,
    );
    await adapter.close();
    await vi.waitFor(() => expect(open).toBe(0));
  });
});

test("open asks for a sign of life, may be tried again, and close closes the store once", async () => {
  let alive = false;
  const close = vi.fn(async () => undefined);
  const connect = vi.fn(async () => {
    if (!alive) throw Object.assign(new Error("connection refused"), { code: "ECONNREFUSED" });
  });
  const adapter = createSimpleAdapter({ ...mapStore(new Map()), open: connect, close }, OPTIONS);
  await expect(adapter.open(context)).rejects.toMatchObject({ code: "BACKEND_UNAVAILABLE" });
  alive = true;
  await adapter.open(context);
  await adapter.open(context);
  expect(connect).toHaveBeenCalledTimes(2);
  expect(adapter.status()).toMatchObject({ isHealthy: true, reachable: true, type: "map" });
  await Promise.all([adapter.close(), adapter.close()]);
  expect(close).toHaveBeenCalledTimes(1);
});

test("pings go on, and a failing one is seen in the status until one succeeds", async () => {
  let alive = true;
  const ping = async () => (alive ? undefined : Promise.reject(new Error("gone")));
  const adapter = await opened({ ...mapStore(new Map()), ping }, { pingIntervalMs: 1 });
  alive = false;
  await vi.waitFor(() => expect(adapter.status()).toMatchObject({ isHealthy: false, ping_error: /gone/ }));
  alive = true;
  await vi.waitFor(() => expect(adapter.status()).toMatchObject({ isHealthy: true, ping_error: null }));
  await adapter.close();
});

test("options out of range are mistakes of the author", () => {
  const make = (options: Partial<SimpleAdapterOptions>) => () =>
    createSimpleAdapter(mapStore(new Map()), { ...OPTIONS, ...options });
  expect(make({ concurrency: 0 })).toThrow(TypeError);
  expect(make({ location: "" })).toThrow(TypeError);
  expect(make({ rangeBytes: 4096 })).toThrow(/needs a store with getInto/);
});

/** Operations on a store that fails at random: what is answered as done is done, whatever else happens. */
test("under random failures every answer is true, and nothing stays held", async () => {
  const step = fc.record({
    operation: fc.constantFrom("store", "load", "lookup", "delete"),
    keys: fc.uniqueArray(fc.nat(5), { minLength: 1, maxLength: 4 }),
    abortAfter: fc.option(fc.nat(4)),
  });
  const make = fc.constantFrom(fullStore, batchedStore, rangeStore);
  await fc.assert(
    fc.asyncProperty(
      make,
      fc.array(step, { maxLength: 25 }),
      fc.infiniteStream(fc.nat(99)),
      async (kind, steps, dice) => {
        const objects: Objects = new Map();
        const good = kind(objects);
        const faulty = Object.fromEntries(
          Object.entries(good).map(([name, method]) => [
            name,
            name === "list" || name === "ping"
              ? method
              : async (...words: unknown[]) => {
                  const roll = dice.next().value;
                  if (roll < 8) throw new Error("before");
                  const answer: unknown = await (method as (...all: unknown[]) => Promise<unknown>)(...words);
                  if (roll > 91) throw new Error("after");
                  return answer;
                },
          ]),
        ) as unknown as SimpleStore;
        const adapter = await opened(faulty, { concurrency: 2 });
        await Promise.all(
          steps.map(async ({ operation, keys: numbers, abortAfter }) => {
            const keys = numbers.map((n) => keyOf(n));
            const requests = numbers.map((n) => ({ key: keyOf(n), byteLength: 10 + n }));
            const into = numbers.map((n) => memory(10 + n, 0xff));
            const controller = new AbortController();
            const running = {
              store: () =>
                adapter.store(
                  keys,
                  numbers.map((n) => memory(10 + n, n)),
                  controller.signal,
                ),
              load: () => adapter.load(requests, into, controller.signal),
              lookup: () => adapter.lookupAndLock(requests, controller.signal),
              delete: () => adapter.delete!(keys, controller.signal),
            }[operation]();
            const settled = running.then(
              (answer) => answer,
              (error: unknown) => {
                expect(error).toHaveProperty("code");
              },
            );
            for (let i = 0; i < (abortAfter ?? 0); i++)
              await new Promise<void>((resolve) => setImmediate(resolve));
            if (abortAfter !== null) controller.abort();
            const answer = await settled;
            if (answer === undefined || "stored" in answer) return;
            for (const i of answer.positions()) {
              const n = numbers[i]!;
              if (operation === "load")
                expect([...into[i]!.bytes]).toEqual(Array.from({ length: 10 + n }, () => n));
              if (operation === "lookup") adapter.unlock([keyOf(n)]);
            }
          }),
        );
        await vi.waitFor(() => expect(adapter.status()["calls_in_flight"]).toBe(0));
        expect(adapter.status()).toMatchObject({
          locked_keys: 0,
          operations_in_flight: 0,
          calls_waiting: 0,
          calls_abandoned: 0,
        });
        await adapter.close();
      },
    ),
    { numRuns: 25 },
  );
});

import { randomBytes } from "node:crypto";
import { CacheError } from "@cache/contracts";
import { describe, expect, test, vi } from "vitest";
import { Dealer } from "zeromq";
import { startRpcServer } from "../src/start.ts";
import { Client, closers, fakeHandlers, key, log, packr, registration, start } from "./support.ts";

describe("operations", () => {
  test("each answers its value, by id and by name", async () => {
    const client = new Client(await start());
    const all: [number, string, unknown[], unknown][] = [
      [21, "get_chunk_size", [], 4],
      [32, "get_experimental", [], []],
      [22, "ping", [null], true],
      [24, "noop", [], "OK"],
      [
        14,
        "register_kv_cache_engine_driven_context",
        [registration],
        { shm_name: "pool", pool_size: 5 * 2 ** 30 },
      ],
      [15, "unregister_kv_cache_engine_driven_context", [7], undefined],
      [8, "lookup", [key({ worker_id: null }), 1], undefined],
      [9, "query_prefetch_status", ["r"], 3],
      [10, "wait_prefetch_status", ["r", 0.5], undefined],
      [12, "free_lookup_locks", [key({ worker_id: null }), 1], undefined],
      [
        16,
        "prepare_store",
        [key(), 7],
        {
          context: {
            slots: [{ offset: 2 ** 33, length: 8, shape: [4], dtype: "float16" }],
            chunk_indices: [0],
          },
        },
      ],
      [17, "commit_store", [key(), 7, Buffer.alloc(0)], true],
      [18, "prepare_retrieve", [key(), 7], { success: false, data: Buffer.alloc(0), context: {} }],
      [19, "commit_retrieve", [key(), 7], true],
      [13, "end_session", ["r"], undefined],
      [20, "clear", [false], undefined],
      [23, "report_block_allocation", [7, "m", [{ req_id: "r" }]], undefined],
      [6, "store", [key(), 7, [[1]], Buffer.from("x")], [Buffer.alloc(0), false]],
      [2, "unregister_kv_cache", [7], undefined],
    ];
    for (const [id, name, payload, value] of all) {
      expect(await client.call(id, ...payload)).toMatchObject({ op: id, value });
      expect(await client.call(name, ...payload)).toMatchObject({ op: name, value });
    }
  });

  test("refusals are answered with the reason as the operation", async () => {
    const server = await start({
      lookup: () => {
        throw new CacheError("LIMIT_REACHED", "no room for lookups");
      },
      prepareStore: () => {
        throw new CacheError("LIMIT_REACHED", "no");
      },
    });
    const client = new Client(server);
    const refused: [number | string, unknown[], string][] = [
      [1, [], "LMCACHE_MP_TRANSFER_MODE=engine_driven"],
      [99, [], "unknown"],
      ["subscribe_kv_events", [1, "m", 0, 1], "kv_event_stream"],
      [22, [1.5], "instance_id"],
      [22, [], "takes 1 arguments"],
      [15, [true], "instance_id"],
      [20, [1], "force"],
      [8, [key({ worker_id: null, num_kv_readers: 0 }), 1], "num_kv_readers"],
      [8, [[1, 2], 1], "key"],
      [8, [key({ cache_salt: "a/b" }), 1], "cache_salt"],
      [8, [key({ worker_id: null }), 1], "no room for lookups"],
      [16, [key({ worker_id: null }), 1], "worker_id"],
      [16, [key({ end: 7 }), 1], "end"],
      [16, [key({ end: 12 }), 1], "end"],
      [16, [key({ world_size: 256 }), 1], "world_size"],
      [14, [{ ...registration, dtype_str: "complex9" }], "dtype_str"],
      [20, [Buffer.alloc(9 * 2 ** 20)], "at most"],
    ];
    for (const [op, payload, text] of refused) {
      const reply = await client.call(op, ...payload);
      expect(reply.op).toContain(text);
      expect(reply.value).toBeUndefined();
    }
    expect((await client.call(16, key(), 1)).value).toEqual({ context: {} });
    expect(server.status().refusals).toMatchObject({ not_served: 2, unknown_operation: 1 });
  });
});

describe("order and turns", () => {
  test("a wait holds back only itself; end_session waits for free_lookup_locks of its request", async () => {
    const seen: string[] = [];
    let free = (): void => undefined;
    const client = new Client(
      await start({
        waitPrefetchStatus: async () => {
          await vi.waitFor(() => expect(seen).toContain("end r"));
          return 1;
        },
        freeLookupLocks: () => new Promise<void>((resolve) => (free = resolve)),
        endSession: (id) => void seen.push(`end ${id}`),
      }),
    );
    const waiting = await client.send(10, "r", 5);
    const freeing = await client.send(12, key({ worker_id: null }), 1);
    const ending = await client.send(13, "r");
    const other = await client.send(13, "other");
    expect((await client.receive()).uid).toBe(other);
    expect(seen).toEqual(["end other"]);
    free();
    const order = [(await client.receive()).uid, (await client.receive()).uid, (await client.receive()).uid];
    expect(new Set(order)).toEqual(new Set([waiting, freeing, ending]));
    expect(seen).toEqual(["end other", "end r"]);
  });

  test("replies leave after the commit; one that fails gives degraded values and takes back", async () => {
    const takenBack: string[] = [];
    let commit: (recorded: boolean) => void = () => undefined;
    const client = new Client(
      await start({
        prepareStore: () => ({
          value: { kind: "slots", slots: [], chunkIndices: [] },
          takeBack: () => void takenBack.push("store"),
        }),
        commitTurn: () => new Promise<boolean>((resolve) => (commit = resolve)),
      }),
    );
    await client.send(16, key(), 7);
    const replied = client.receive();
    let early = false;
    void replied.then(() => (early = takenBack.length === 0));
    await vi.waitFor(() => {
      commit(false);
      expect(takenBack).toEqual(["store"]);
    });
    expect(early).toBe(false);
    expect((await replied).value).toEqual({ context: {} });
  });

  test("many messages share a turn", async () => {
    let commits = 0;
    const server = await start({ commitTurn: () => (commits++, true) });
    const client = new Client(server);
    await client.call(24);
    const before = commits;
    for (let i = 0; i < 300; i++) await client.send(24);
    for (let i = 0; i < 300; i++) await client.receive();
    expect(commits - before).toBeLessThan(300);
    expect(commits - before).toBeGreaterThanOrEqual(Math.floor(300 / 32));
  });

  test("a reply whose client is gone is taken back", async () => {
    let resolve: (() => void) | undefined;
    let takenBack = 0;
    const server = await start({
      prepareStore: () =>
        new Promise((done) => {
          resolve = () =>
            done({ value: { kind: "slots", slots: [], chunkIndices: [] }, takeBack: () => void takenBack++ });
        }),
    });
    const client = new Client(server);
    await client.send(16, key(), 7);
    await vi.waitFor(() => expect(resolve).toBeDefined());
    client.socket.close();
    await vi.waitFor(() => expect(server.status().connections.closed).toBe(1));
    resolve?.();
    await vi.waitFor(() => expect(takenBack).toBe(1));
    expect(server.status().unsendableReplies).toBe(1);
  });
});

test("hostile frames do not disturb a healthy client", async () => {
  const server = await start();
  const hostile = new Client(server);
  const healthy = new Client(server);
  for (let i = 0; i < 1000; i++) {
    const frames = Array.from({ length: 1 + (i % 6) }, (): Buffer => randomBytes(i % 40));
    if (i % 3 === 0) frames.splice(0, 2, packr.pack(i), packr.pack((i % 33) + 1));
    await hostile.socket.send([...frames]);
    if (i % 50 === 0) expect((await healthy.call(24)).value).toBe("OK");
  }
  expect((await healthy.call(22, null)).value).toBe(true);
  expect(server.status().malformed).toBeGreaterThan(0);
});

test("a client that sends faster than it is served fills a bounded queue", async () => {
  const server = await start();
  const flooder = new Dealer({ sendHighWaterMark: 1, sendTimeout: 0, linger: 0 });
  closers.push(() => flooder.close());
  flooder.connect(server.address);
  const large = Buffer.alloc(2 ** 20);
  const pause = new Int32Array(new SharedArrayBuffer(4));
  let taken = 0;
  // Only promises that are settled are awaited: the server reads nothing meanwhile, libzmq's thread alone does.
  for (let refusals = 0; refusals < 100 && taken < 200; ) {
    const sent = await flooder.send([packr.pack(taken), packr.pack(24), large]).then(
      () => true,
      () => false,
    );
    taken += Number(sent);
    refusals = sent ? 0 : refusals + 1;
    if (!sent) Atomics.wait(pause, 0, 0, 5);
  }
  // 16 in the server's queue, one in the client's, and what the kernel's buffers hold.
  expect(taken).toBeGreaterThanOrEqual(16);
  expect(taken).toBeLessThan(64);
});

test("a taken port is named", async () => {
  const server = await start();
  const again = startRpcServer({
    host: "127.0.0.1",
    port: server.port,
    handlers: fakeHandlers(),
    chunkSize: 4,
    poolSizeBytes: 1,
    log,
  });
  await expect(again).rejects.toMatchObject({
    code: "ADDRESS_IN_USE",
    message: expect.stringContaining("--port"),
  });
});

import { type AdapterLog, CacheError } from "@cache/contracts";
import { Packr } from "msgpackr";
import { afterEach, expect, test, vi } from "vitest";
import { Dealer } from "zeromq";
import type { KvEventBatch, KvEventStream, KvEventSubscription, LmcacheHandlers } from "../src/handlers.ts";
import { encodeKvEventBatch } from "../src/kv-event-batch.ts";
import type { RpcServer } from "../src/server.ts";
import { startRpcServer } from "../src/start.ts";

const packr = new Packr({ useRecords: false, variableMapSize: true, int64AsType: "auto" as "number" });
const log: AdapterLog = { debug() {}, info() {}, warn() {}, error() {} };
const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

/** A source whose batches the test hands over, and which counts how often it is asked. */
class Source implements KvEventStream {
  asked = 0;
  closed = false;
  #resolve: ((batch: KvEventBatch | null) => void) | null = null;

  next(): Promise<KvEventBatch | null> {
    this.asked += 1;
    return new Promise((resolve) => {
      this.#resolve = resolve;
      if (this.closed) resolve(null);
    });
  }

  async give(batch: KvEventBatch | null): Promise<void> {
    await vi.waitFor(() => expect(this.#resolve).not.toBeNull());
    this.#resolve?.(batch);
    this.#resolve = null;
  }

  close(): void {
    this.closed = true;
    this.#resolve?.(null);
  }
}

const batch = (nextCursor: number, over: Partial<KvEventBatch> = {}): KvEventBatch => ({
  enabled: true,
  incarnation: 2n ** 62n + 5n,
  nextCursor,
  lost: false,
  events: [],
  ...over,
});

interface Setup {
  readonly server: RpcServer;
  readonly sources: Source[];
  readonly subscriptions: KvEventSubscription[];
}

async function start(over: Partial<LmcacheHandlers> = {}, streamsMax = 64): Promise<Setup> {
  const sources: Source[] = [];
  const subscriptions: KvEventSubscription[] = [];
  const handlers = {
    getChunkSize: () => 4,
    getExperimental: () => ["kv_event_stream"],
    ping: () => true,
    noteSignOfLife: () => undefined,
    commitTurn: () => true,
    subscribeKvEvents: (subscription: KvEventSubscription) => {
      const source = new Source();
      sources.push(source);
      subscriptions.push(subscription);
      return source;
    },
    ...over,
  } as LmcacheHandlers;
  const server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    handlers,
    chunkSize: 4,
    poolSizeBytes: 2 ** 20,
    limits: { streamsMax },
    log,
  });
  closers.push(() => server.close(200));
  return { server, sources, subscriptions };
}

interface Reply {
  readonly uid: number;
  readonly op: unknown;
  readonly value: unknown;
}

class Client {
  readonly socket = new Dealer({ receiveTimeout: 5000, linger: 0 });
  #uid = 0;

  constructor(server: RpcServer) {
    this.socket.connect(server.address);
    closers.push(() => this.socket.close());
  }

  async send(op: number | string, ...payload: unknown[]): Promise<number> {
    const uid = this.#uid++;
    await this.socket.send([packr.pack(uid), packr.pack(op), ...payload.map((one) => packr.pack(one))]);
    return uid;
  }

  subscribe(instance: number, maxEvents = 64, cursor: number | bigint = 0): Promise<number> {
    return this.send("subscribe_kv_events", instance, "m", cursor, maxEvents);
  }

  async control(uid: number, action: string): Promise<void> {
    await this.socket.send([packr.pack(uid), Buffer.alloc(0), Buffer.from(action)]);
  }

  async receive(): Promise<Reply> {
    const [uid, op, value] = await this.socket.receive();
    return {
      uid: packr.unpack(uid as Buffer) as number,
      op: packr.unpack(op as Buffer),
      value: value === undefined ? undefined : packr.unpack(value),
    };
  }

  /** A call that is answered after everything sent before it was handled. */
  async synchronise(): Promise<void> {
    await this.send(24);
    expect((await this.receive()).op).toBe(24);
  }
}

const END = { op: "subscribe_kv_events", value: undefined };

test("one batch a credit: the first at once, each other after an ack", async () => {
  const { server, sources, subscriptions } = await start();
  const client = new Client(server);
  const uid = await client.subscribe(7, 64, 2n ** 40n);
  await vi.waitFor(() => expect(sources[0]?.asked).toBe(1));
  expect(subscriptions[0]).toEqual({ instanceId: 7n, modelName: "m", cursor: 2 ** 40, maxEvents: 64 });
  await sources[0]?.give(batch(1));
  expect(await client.receive()).toMatchObject({
    uid,
    op: "subscribe_kv_events",
    value: { enabled: true, lost: false, events: [], next_cursor: 1 },
  });
  await client.synchronise();
  expect(sources[0]?.asked).toBe(1);
  // Acks are no sum: there is one credit at most.
  await client.control(uid, "ack");
  await vi.waitFor(() => expect(sources[0]?.asked).toBe(2));
  await client.control(uid, "ack");
  await client.control(uid, "ack");
  await client.synchronise();
  await sources[0]?.give(batch(2));
  expect(await client.receive()).toMatchObject({ uid, value: { next_cursor: 2 } });
  await sources[0]?.give(batch(3));
  expect(await client.receive()).toMatchObject({ uid, value: { next_cursor: 3 } });
  await client.synchronise();
  expect(sources[0]?.asked).toBe(3);
});

test("a batch is LMCache's, byte for byte in its types", () => {
  const tokens = Buffer.from("00000001ffffffff0000ffff", "hex");
  const bytes = encodeKvEventBatch(
    batch(2 ** 52, {
      lost: true,
      events: [
        {
          seq: 2 ** 51,
          kind: "stored",
          modelName: "org/é",
          blockHashes: [Buffer.alloc(32, 1)],
          parentBlockHash: null,
          tokenIds: tokens,
        },
        {
          seq: 2 ** 51 + 1,
          kind: "removed",
          modelName: "org/é",
          blockHashes: [Buffer.alloc(32, 1), Buffer.alloc(32, 2)],
          parentBlockHash: Buffer.alloc(32, 3),
          tokenIds: Buffer.alloc(0),
        },
      ],
    }),
  );
  const medium = { medium: "CPU", model_name: "org/é" };
  expect(packr.unpack(bytes)).toEqual({
    enabled: true,
    incarnation: 2n ** 62n + 5n,
    next_cursor: 2 ** 52,
    lost: true,
    events: [
      {
        ...medium,
        seq: 2 ** 51,
        kind: "stored",
        block_hashes: [Buffer.alloc(32, 1)],
        parent_block_hash: null,
        token_ids: [1, 0xffffffff, 0xffff],
      },
      {
        ...medium,
        seq: 2 ** 51 + 1,
        kind: "removed",
        block_hashes: [Buffer.alloc(32, 1), Buffer.alloc(32, 2)],
        parent_block_hash: Buffer.alloc(32, 3),
        token_ids: [],
      },
    ],
  });
});

test("cancel ends a stream, and so does its source; the client is told either way", async () => {
  const { server, sources } = await start();
  const client = new Client(server);
  const first = await client.subscribe(1);
  await vi.waitFor(() => expect(sources).toHaveLength(1));
  await client.control(first, "cancel");
  expect(await client.receive()).toMatchObject({ uid: first, ...END });
  expect(sources[0]?.closed).toBe(true);
  const second = await client.subscribe(1);
  await vi.waitFor(() => expect(sources).toHaveLength(2));
  await sources[1]?.give(null);
  expect(await client.receive()).toMatchObject({ uid: second, ...END });
  const third = await client.subscribe(1);
  await vi.waitFor(() => expect(sources).toHaveLength(3));
  await sources[2]?.give(batch(0, { enabled: false }));
  expect(await client.receive()).toMatchObject({ uid: third, value: { enabled: false } });
  expect(await client.receive()).toMatchObject({ uid: third, ...END });
  expect(server.status().streams).toBe(0);
});

test("an instance has one stream: a new one ends the old, which had no credit", async () => {
  const { server, sources } = await start();
  const client = new Client(server);
  const old = await client.subscribe(5);
  await vi.waitFor(() => expect(sources).toHaveLength(1));
  await sources[0]?.give(batch(1));
  await client.receive();
  await new Client(server).subscribe(5);
  expect(await client.receive()).toMatchObject({ uid: old, ...END });
  expect(server.status().streams).toBe(1);
});

test("control messages that name no stream are ignored", async () => {
  const { server, sources } = await start();
  const [client, stranger] = [new Client(server), new Client(server)];
  const uid = await client.subscribe(5);
  await vi.waitFor(() => expect(sources).toHaveLength(1));
  await stranger.control(uid, "cancel");
  await client.control(uid + 1, "cancel");
  await client.control(uid, "nonsense");
  await client.socket.send([packr.pack(uid), Buffer.alloc(0)]);
  await stranger.synchronise();
  await client.synchronise();
  expect(sources[0]?.closed).toBe(false);
});

test("subscriptions that cannot be are refused with the reason", async () => {
  const { server } = await start({
    subscribeKvEvents: () => {
      throw new CacheError("UNSUPPORTED", "not today");
    },
  });
  const client = new Client(server);
  const refused: [unknown[], string][] = [
    [[1, "m", 0, 1025], "max_events"],
    [[1, "m", 0, 0], "max_events"],
    [[1, "m", -1, 1], "cursor"],
    [[1, 2, 0, 1], "model_name"],
    [["1", "m", 0, 1], "instance_id"],
    [[1, "m", 0], "takes 4 arguments"],
    [[1, "m", 0, 1], "not today"],
  ];
  for (const [payload, text] of refused) {
    await client.send("subscribe_kv_events", ...payload);
    const reply = await client.receive();
    expect(reply.op).toContain(text);
    expect(reply.value).toBeUndefined();
  }
  expect(server.status().streams).toBe(0);
});

test("is refused where it is not advertised", async () => {
  const { server, sources } = await start({ getExperimental: () => [] });
  const client = new Client(server);
  await client.subscribe(1);
  expect((await client.receive()).op).toContain("kv_event_stream");
  expect(sources).toHaveLength(0);
});

test("there is a bounded number of streams: the one whose client is silent the longest ends", async () => {
  const { server, sources } = await start({}, 2);
  const [silent, alive, late] = [new Client(server), new Client(server), new Client(server)];
  const uid = await silent.subscribe(1);
  await vi.waitFor(() => expect(sources).toHaveLength(1));
  await alive.subscribe(2);
  await vi.waitFor(() => expect(sources).toHaveLength(2));
  await alive.synchronise();
  await late.subscribe(3);
  expect(await silent.receive()).toMatchObject({ uid, ...END });
  expect(sources.map(({ closed }) => closed)).toEqual([true, false, false]);
  expect(server.status()).toMatchObject({ streams: 2, streamsDropped: 1 });
});

test("a stream whose client is gone ends with the batch that cannot be sent", async () => {
  const { server, sources } = await start();
  const client = new Client(server);
  await client.subscribe(1);
  await vi.waitFor(() => expect(sources).toHaveLength(1));
  client.socket.close();
  await vi.waitFor(() => expect(server.status().connections.closed).toBe(1));
  await sources[0]?.give(batch(1));
  await vi.waitFor(() => expect(server.status().streams).toBe(0));
  expect(sources[0]?.closed).toBe(true);
});

test("closing the server tells its subscribers", async () => {
  const { server, sources } = await start();
  const client = new Client(server);
  const uid = await client.subscribe(1);
  await vi.waitFor(() => expect(sources).toHaveLength(1));
  const ended = client.receive();
  await server.close(500);
  expect(await ended).toMatchObject({ uid, ...END });
});

test("closing the server answers what waits", async () => {
  let answer = (_hits: number): void => {};
  const { server } = await start({
    waitPrefetchStatus: () => new Promise<number>((resolve) => (answer = resolve)),
  });
  const client = new Client(server);
  await client.send(10, "r", 5);
  await vi.waitFor(() => expect(server.status().callsInFlight).toBe(1));
  const closed = server.close(2_000);
  answer(7);
  expect((await client.receive()).value).toBe(7);
  await closed;
});

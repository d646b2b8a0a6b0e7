import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { CacheError, hasCode } from "@cache/contracts";
import { describe, expect, test } from "vitest";
import { createRedisAdapter } from "../src/adapter.ts";
import { redisConfigSchema } from "../src/config.ts";
import { encodeWireKey } from "../src/names.ts";
import { fakeServer } from "./support/fake-server.ts";
import {
  after,
  key,
  loadOne,
  memory,
  never,
  noL1,
  openContext,
  openRedis,
  pattern,
  sized,
  storeOne,
} from "./support/fixtures.ts";

const BYTES = 5000;
const bulk = (bytes: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from("\r\n")]);
const name = (n: number): string => encodeWireKey(key(n), "");
const isGet = (words: readonly string[], n: number): boolean => words[0] === "GET" && words[1] === name(n);

/** Loads keys 0..7 of which the server answers number 3 as the test says; the others are whole. */
async function loadEight(bad: (socket: Socket, times: number) => Buffer | string) {
  let times = 0;
  const server = await fakeServer((words, socket) => {
    if (words[0] !== "GET") return null;
    if (isGet(words, 3)) return bad(socket, ++times);
    const n = [0, 1, 2, 4, 5, 6, 7].find((one) => isGet(words, one)) ?? 99;
    return bulk(pattern(n, BYTES));
  });
  const adapter = await openRedis({
    host: "127.0.0.1",
    port: server.port,
    num_workers: 2,
    request_timeout: 0.2,
  });
  const arena = Buffer.alloc(8 * (BYTES + 64), 0xc5);
  const into = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => ({
    bytes: arena.subarray(n * (BYTES + 64), n * (BYTES + 64) + BYTES),
    poolOffset: null,
  }));
  const loaded = await adapter.load(
    into.map((_, n) => sized(n, BYTES)),
    into,
    never,
  );
  for (const n of loaded.positions())
    expect(Buffer.compare(into[n]?.bytes ?? Buffer.alloc(0), pattern(n, BYTES))).toBe(0);
  for (let n = 0; n < 8; n++) {
    const guard = arena.subarray(n * (BYTES + 64) + BYTES, (n + 1) * (BYTES + 64));
    expect(guard.every((byte) => byte === 0xc5)).toBe(true);
  }
  // The connections recover: the next load of a good key works.
  expect(await loadOne(adapter, key(5), BYTES)).toEqual(pattern(5, BYTES));
  return { loaded: [...loaded.positions()], adapter, server, times: () => times };
}

const OTHERS = [0, 1, 2, 4, 5, 6, 7];

describe("a server that answers one key wrongly costs that key alone", () => {
  const lengths: [string, number][] = [
    ["one byte less", BYTES - 1],
    ["one byte more", BYTES + 1],
    ["nothing", 0],
    ["ten times as much", BYTES * 10],
  ];
  test.each(lengths)("%s", async (_, length) => {
    const { loaded, adapter } = await loadEight(() => bulk(new Uint8Array(length)));
    expect(loaded).toEqual(OTHERS);
    expect(adapter.status()["length_mismatches"]).toBe(1);
    expect(adapter.status()["lost_connections"]).toBe(0);
  });

  test("a length that nobody wants to read to its end", async () => {
    const { loaded, adapter } = await loadEight(() => "$500000000\r\nxxxx");
    expect(loaded).toEqual(OTHERS);
    expect(adapter.status()["length_mismatches"]).toBe(1);
  });

  test.each([
    ["an array", "*1\r\n$1\r\nx\r\n"],
    ["garbage", "\u0001\u0002\u0003\r\n"],
    ["a negative length", "$-7\r\n"],
    ["a status", "+OK\r\n"],
    ["a number", ":7\r\n"],
    ["an endless line", "+".padEnd(20_000, "x")],
    ["no end of the bulk", `$${BYTES}\r\n${"y".repeat(BYTES)}zz`],
  ])("%s", async (_, reply) => {
    const { loaded, times } = await loadEight(() => reply);
    expect(loaded).toEqual(OTHERS);
    expect(times()).toBeLessThanOrEqual(2); // tried again once, on a new connection
  });

  test("an error", async () => {
    const { loaded, adapter } = await loadEight(() => "-ERR not today\r\n");
    expect(loaded).toEqual(OTHERS);
    expect(adapter.status()["errors"]).toEqual({ BACKEND_REFUSED: 1 });
  });

  test("a value of another type is a miss", async () => {
    const { loaded } = await loadEight(
      () => "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    );
    expect(loaded).toEqual(OTHERS);
  });

  test("a connection that breaks in the middle, once: the key is loaded over another", async () => {
    const { loaded, adapter } = await loadEight((socket, times) => {
      if (times > 1) return bulk(pattern(3, BYTES));
      socket.write(bulk(pattern(3, BYTES)).subarray(0, 2000));
      socket.destroySoon();
      return "";
    });
    expect(loaded).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(adapter.status()["lost_connections"]).toBe(1);
  });

  test("a bulk that never ends: its connection is replaced after request_timeout", async () => {
    const { loaded, adapter } = await loadEight((socket) => {
      socket.write(bulk(pattern(3, BYTES)).subarray(0, 2000));
      socket.pause(); // and nothing more, for whoever stands behind either
      return "";
    });
    expect(loaded).toEqual(OTHERS);
    expect(adapter.status()["errors"]).toHaveProperty("BACKEND_UNAVAILABLE");
  });
});

test("replies that nobody asked for end the connection and nothing else", async () => {
  const server = await fakeServer((words) => {
    return words[0] === "GET"
      ? Buffer.concat([bulk(pattern(1, BYTES)), Buffer.from("+OK\r\n$3\r\nabc\r\n")])
      : null;
  });
  const adapter = await openRedis({ host: "127.0.0.1", port: server.port, num_workers: 1 });
  for (let round = 0; round < 3; round++) {
    const bytes = await loadOne(adapter, key(1), BYTES).catch((error: unknown) => {
      expect(hasCode(error, "BACKEND_UNAVAILABLE")).toBe(true);
      return null;
    });
    if (bytes !== null) expect(bytes).toEqual(pattern(1, BYTES));
  }
});

test("an abort in the middle of a bulk settles without waiting, and nothing is written afterwards", async () => {
  let rest: () => void = () => undefined;
  const server = await fakeServer((words, socket) => {
    if (!isGet(words, 1)) return words[0] === "GET" ? bulk(pattern(2, BYTES)) : null;
    const whole = bulk(pattern(1, BYTES));
    socket.write(whole.subarray(0, 3000));
    rest = () => socket.write(whole.subarray(3000));
    return "";
  });
  const adapter = await openRedis({ host: "127.0.0.1", port: server.port, num_workers: 1 });
  const controller = new AbortController();
  const into = memory(BYTES);
  const loading = adapter.load([sized(1, BYTES)], [into], controller.signal);
  const before = into.bytes[10];
  while (into.bytes[2900] === 0 && into.bytes[2901] === 0)
    await new Promise((resolve) => setImmediate(resolve));
  expect(into.bytes[10]).not.toBe(before);
  controller.abort();
  await expect(loading).rejects.toMatchObject({ code: "ABORTED" });
  into.bytes.fill(0x5a);
  rest();
  expect(await loadOne(adapter, key(2), BYTES)).toEqual(pattern(2, BYTES));
  expect(into.bytes.every((byte) => byte === 0x5a)).toBe(true);
});

test("a store whose server does not read settles at its abort, with the connection", async () => {
  const server = await fakeServer((words, socket) => {
    if (words[0] !== "GET") return null;
    socket.pause();
    return "$-1\r\n";
  });
  const adapter = await openRedis({ host: "127.0.0.1", port: server.port, num_workers: 1 });
  await loadOne(adapter, key(1), 100);
  const controller = new AbortController();
  const storing = adapter.store([key(1)], [memory(64 * 1024 * 1024)], controller.signal);
  await new Promise((resolve) => setImmediate(resolve));
  controller.abort();
  const { failed } = await storing;
  expect(failed.get(0)).toMatchObject({ code: "ABORTED" });
  expect(await storeOne(adapter, key(2), pattern(2, 100))).toBe(100);
});

test("an answer to a SET that was not read whole counts for nothing", async () => {
  let answered = 0;
  const honest = await fakeServer(() => null);
  const sockets: Socket[] = [];
  // Passes everything on to the honest server, but answers a SET at its first bytes and then reads no more.
  const front = createServer((socket) => {
    const behind = connect(honest.port, "127.0.0.1");
    sockets.push(socket, behind);
    behind.on("data", (data) => socket.write(data));
    behind.on("error", () => undefined);
    socket.on("error", () => undefined);
    socket.on("data", (data) => {
      if (!data.includes("SET\r\n")) behind.write(data);
      else {
        answered++;
        socket.write("+OK\r\n");
        socket.pause();
      }
    });
  });
  await new Promise<void>((resolve) => front.listen(0, "127.0.0.1", resolve));
  after(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => front.close(resolve));
  });
  const { port } = front.address() as AddressInfo;
  const adapter = await openRedis({ host: "127.0.0.1", port, num_workers: 1, request_timeout: 0.2 });
  const { stored, failed } = await adapter.store([key(1)], [memory(64 * 1024 * 1024)], never);
  expect(answered).toBeGreaterThan(0);
  expect(stored.has(0)).toBe(false);
  expect(failed.get(0)).toMatchObject({ code: "BACKEND_UNAVAILABLE" });
  expect(adapter.usage().totalBytesUsed).toBe(0);
  await adapter.close();
});

describe("a server that does not answer at all", () => {
  test("a load ends at request_timeout, or at its deadline", async () => {
    const server = await fakeServer((words) => (words[0] === "GET" ? "" : null));
    const adapter = await openRedis({ host: "127.0.0.1", port: server.port, request_timeout: 0.1 });
    await expect(loadOne(adapter, key(1), 100)).rejects.toMatchObject({
      code: "BACKEND_UNAVAILABLE",
      message: expect.stringContaining("request_timeout"),
    });
    const patient = await openRedis({ host: "127.0.0.1", port: server.port, request_timeout: 60 });
    await expect(loadOne(patient, key(1), 100, { signal: AbortSignal.timeout(50) })).rejects.toMatchObject({
      code: "ABORTED",
    });
    await patient.close(); // closes with a request that was never answered
  });

  test("a lookup too", async () => {
    let isSilent = false;
    const server = await fakeServer((words) => {
      isSilent ||= words[0]?.toLowerCase() === "strlen"; // answers come in order: this one holds up all others
      return isSilent ? "" : null;
    });
    const adapter = await openRedis({ host: "127.0.0.1", port: server.port, request_timeout: 0.1 });
    await expect(adapter.lookupAndLock([sized(1, 100)], never)).rejects.toMatchObject({
      code: "BACKEND_UNAVAILABLE",
    });
    const signal = AbortSignal.timeout(20);
    await expect(adapter.lookupAndLock([sized(1, 100)], signal)).rejects.toBeInstanceOf(CacheError);
    expect(adapter.status()["locked_keys"]).toBe(0);
  });

  test("open ends with its signal", async () => {
    const server = await fakeServer(() => "");
    const config = redisConfigSchema.parse({ host: "127.0.0.1", port: server.port });
    const adapter = createRedisAdapter(config, noL1);
    await expect(adapter.open(openContext([], { signal: AbortSignal.timeout(50) }))).rejects.toMatchObject({
      code: "ABORTED",
    });
    await adapter.close();
  });
});

test("a value that goes between SET NX and STRLEN is none of another length", async () => {
  const server = await fakeServer((words) => {
    if (words[0] === "SET") return "$-1\r\n"; // NX: it is there
    return words[0]?.toUpperCase() === "STRLEN" ? ":0\r\n" : null; // and is not any more
  });
  const adapter = await openRedis({ host: "127.0.0.1", port: server.port });
  const { failed } = await adapter.store([key(1)], [memory(5000)], never);
  expect(failed.get(0)).toMatchObject({
    code: "CONFLICT",
    details: { reason: "gone" },
    message: expect.stringContaining("store it again"),
  });
});

test("what a server repeats of our password is blotted out", async () => {
  const password = "correct horse battery";
  const server = await fakeServer((words) => {
    if (words[0]?.toLowerCase() !== "auth") return null;
    return `-ERR unknown command 'AUTH', with args beginning with: '${words.at(-1)}'\r\n`;
  });
  const config = redisConfigSchema.parse({ host: "127.0.0.1", port: server.port, password });
  const adapter = createRedisAdapter(config, noL1);
  const error: unknown = await adapter.open(openContext()).catch((thrown: unknown) => thrown);
  expect(hasCode(error, "BACKEND_REFUSED")).toBe(true);
  expect(String(error)).toContain("'***'");
  expect(JSON.stringify(error, Object.getOwnPropertyNames(error))).not.toContain("horse");
  await adapter.close();
});

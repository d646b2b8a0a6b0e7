import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { decodeObjectKey, isCacheError } from "@cache/contracts";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createRedisAdapter } from "../src/adapter.ts";
import { redisConfigSchema } from "../src/config.ts";
import { encodeWireKey } from "../src/names.ts";
import {
  after,
  key,
  loadOne,
  type LogLine,
  memory,
  never,
  noL1,
  openContext,
  openRedis,
  pattern,
  sized,
  storeOne,
  temporaryDirectory,
  until,
} from "./support/fixtures.ts";
import { byteCheckedLoad } from "./support/load.ts";
import { findRedis } from "./support/redis-program.ts";
import { RedisServer } from "./support/redis-server.ts";

const program = await findRedis();
const KEYS = 40;
const BYTES = 30_000;

describe.skipIf(program === null)("a real server", () => {
  let server: RedisServer;
  let config: Record<string, unknown>;
  beforeAll(async () => {
    server = await RedisServer.start(["--enable-debug-command", "yes"]);
    config = { host: "127.0.0.1", port: server.port };
  });
  afterAll(() => server.destroy());
  beforeEach(async () => {
    await server.admin.flushall();
  });

  test("key and value are what LMCache writes: the wire key, the raw bytes, nothing else", async () => {
    const adapter = await openRedis(config);
    await storeOne(adapter, key(1), pattern(1, 420));
    await storeOne(adapter, key(1, { cacheSalt: "tenant" }), pattern(2, 1));
    const names = (await server.admin.keys("*")).toSorted();
    const plain = `org/model@01000100@0@00000001${"00".repeat(28)}`;
    expect(names).toEqual([plain, `${plain}@tenant`]);
    expect(new Uint8Array((await server.admin.getBuffer(plain)) ?? [])).toEqual(pattern(1, 420));
    expect(await server.admin.ttl(plain)).toBe(-1);
    await server.admin.set(encodeWireKey(key(2), ""), Buffer.from(pattern(5, 700)));
    expect(await loadOne(adapter, key(2), 700)).toEqual(pattern(5, 700));
  });

  test("prefix, database and TTL", async () => {
    const lines: LogLine[] = [];
    const options = { key_prefix: "team", database_id: 2, ttl_seconds: 100, max_capacity_gb: 1 };
    const adapter = await openRedis({ ...config, ...options }, lines);
    await storeOne(adapter, key(1), pattern(1, 100));
    const name = encodeWireKey(key(1), "team");
    const admin = server.admin.duplicate({ db: 2 });
    after(async () => admin.disconnect());
    expect(await admin.keys("*")).toEqual([name]);
    expect(await admin.ttl(name)).toBeGreaterThan(90);
    await admin.expire(name, 10);
    expect(await storeOne(adapter, key(1), pattern(1, 100))).toBe(0); // it was there: its time begins anew
    expect(await admin.ttl(name)).toBeGreaterThan(90);
    expect(adapter.status()).toMatchObject({
      shared_with_lmcache_resp: false,
      key_prefix: "team",
      ttl_seconds: 100,
    });
    expect(lines.map(({ message }) => message).join()).toMatch(
      /not shared with LMCache.*expire.*both limit/s,
    );
    expect((await openRedis(config)).status()["shared_with_lmcache_resp"]).toBe(true);
  });

  test("status shows what an operator needs", async () => {
    const adapter = await openRedis(config);
    await storeOne(adapter, key(1), pattern(1, 1000));
    await loadOne(adapter, key(1), 1000);
    await until(() => adapter.status()["latency_ms"] !== null);
    expect(adapter.status()).toMatchObject({
      isHealthy: true,
      type: "redis",
      mode: "single",
      reachable: true,
      operations_in_flight: 0,
      stored_object_count: 1,
      current_size_bytes: 1000,
      bytes_read: 1000,
      bytes_written: 1000,
      errors: {},
      servers: {
        [`127.0.0.1:${server.port}`]: {
          version: expect.stringMatching(/^\d+\.\d+/),
          eviction_policy: "noeviction",
        },
      },
    });
  });

  test("a key of another type or length is a miss, and stays", async () => {
    const adapter = await openRedis(config);
    await server.admin.lpush(encodeWireKey(key(1), ""), "x");
    await server.admin.set(encodeWireKey(key(2), ""), "xyz");
    const found = await adapter.lookupAndLock([sized(1, 3), sized(2, 5), sized(3, 5)], never);
    expect(found.count()).toBe(0);
    expect(await loadOne(adapter, key(1), 3)).toBeNull();
    expect(await loadOne(adapter, key(2), 5)).toBeNull();
    const { stored, failed } = await adapter.store([key(1), key(2)], [memory(3), memory(5)], never);
    expect(stored.count()).toBe(0);
    expect(failed.get(0)).toMatchObject({
      code: "CONFLICT",
      details: { reason: "other-length", foundBytes: null },
      message: expect.stringContaining("no string"),
    });
    expect(failed.get(1)).toMatchObject({
      message: expect.stringMatching(/3 bytes .* for 5 bytes.*delete it first/),
    });
    expect((await adapter.delete([key(2)], never)).has(0)).toBe(true);
    expect(await storeOne(adapter, key(2), pattern(1, 5))).toBe(5);
  });

  test("a listing skips what is not ours, and pages go through a key space of foreigners", async () => {
    const adapter = await openRedis(config);
    await server.admin.mset(
      Object.fromEntries(Array.from({ length: 3000 }, (_, n) => [`foreign:${n}@x@y@z`, "1"])),
    );
    await server.admin.set(Buffer.from([0xff, 0x40, 0x80]), "binary");
    await server.admin.lpush(encodeWireKey(key(999), ""), "a list");
    for (let n = 0; n < 30; n++) await storeOne(adapter, key(n), pattern(n, 100 + n));
    const sizes: number[] = [];
    let pageToken: string | undefined;
    do {
      const page = await adapter.listKeys({ pageSize: 7, pageToken }, never);
      for (const entry of page.entries) {
        sizes.push(entry.size_bytes);
        expect(decodeObjectKey(entry.key).modelName).toBe("org/model");
      }
      pageToken = page.nextPageToken ?? undefined;
    } while (pageToken !== undefined);
    expect(sizes.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 30 }, (_, n) => 100 + n));
  });

  describe("accounting", () => {
    test("an earlier process's and other nodes' objects count against the capacity", async () => {
      const capacity = { max_capacity_gb: 100_000 / 1024 ** 3 };
      const first = await openRedis({ ...config, ...capacity });
      await storeOne(first, key(1), pattern(1, 60_000));
      await first.close();
      const second = await openRedis({ ...config, ...capacity });
      await until(() => second.status()["tier_size_bytes"] === 60_000);
      expect(second.usage().totalBytesUsed).toBe(0);
      await expect(storeOne(second, key(2), pattern(2, 60_000))).rejects.toMatchObject({
        code: "BACKEND_FULL",
        message: expect.stringMatching(/holds 60000 of 100000 bytes \(max_capacity_gb .*configure eviction/),
      });
      expect(await storeOne(second, key(3), pattern(3, 30_000))).toBe(30_000);
      await second.delete([key(1)], never);
      await openRedis({ ...config, ...capacity }).then((third) =>
        until(() => third.status()["tier_size_bytes"] === 30_000),
      );
    });

    test("what somebody else deletes leaves the figures: at a miss, and at the next count", async () => {
      const adapter = await openRedis({ ...config, scan_interval_seconds: 1 });
      for (let n = 0; n < 10; n++) await storeOne(adapter, key(n), pattern(n, 1000));
      expect(adapter.usage().totalBytesUsed).toBe(10_000);
      await server.admin.del(encodeWireKey(key(0), ""), encodeWireKey(key(1), ""));
      expect(await loadOne(adapter, key(0), 1000)).toBeNull();
      expect(adapter.usage().totalBytesUsed).toBe(9000);
      await until(() => adapter.usage().totalBytesUsed === 8000);
      await server.admin.flushall();
      await until(() => adapter.usage().totalBytesUsed === 0);
      expect(adapter.usage().bytesByCacheSalt.size).toBe(0);
    });

    test("maxmemory without eviction is BACKEND_FULL; with it, evicted keys are misses and counted as such", async () => {
      const adapter = await openRedis(config);
      const used = Number(/used_memory:(\d+)/.exec(await server.admin.info("memory"))?.[1]);
      after(async () => {
        await server.admin.config("SET", "maxmemory", "0");
        await server.admin.config("SET", "maxmemory-policy", "noeviction");
      });
      await server.admin.config("SET", "maxmemory", String(used + 1_500_000));
      let failure: unknown = null;
      for (let n = 0; failure === null && n < 50; n++) {
        failure = (await adapter.store([key(n)], [memory(pattern(n, 50_000))], never)).failed.get(0) ?? null;
      }
      expect(failure).toMatchObject({ code: "BACKEND_FULL", message: expect.stringContaining("maxmemory") });
      await server.admin.config("SET", "maxmemory-policy", "allkeys-lru");
      for (let n = 100; n < 150; n++) await storeOne(adapter, key(n), pattern(n, 50_000));
      let whole = 0;
      for (let n = 100; n < 150; n++) {
        const bytes = await loadOne(adapter, key(n), 50_000);
        if (bytes !== null) expect(Buffer.compare(bytes, pattern(n, 50_000))).toBe(0);
        if (bytes !== null) whole++;
      }
      expect(whole).toBeGreaterThan(0);
      expect(whole).toBeLessThan(50);
      const missing = (
        await adapter.lookupAndLock(
          Array.from({ length: 50 }, (_, n) => sized(n, 50_000)),
          never,
        )
      ).count();
      expect(adapter.usage().totalBytesUsed).toBe((whole + missing) * 50_000);
    });
  });

  describe("trouble", () => {
    test("keys deleted between lookup and load are misses, the others whole", async () => {
      const adapter = await openRedis(config);
      for (let n = 0; n < 20; n++) await storeOne(adapter, key(n), pattern(n, BYTES));
      const requests = Array.from({ length: 20 }, (_, n) => sized(n, BYTES));
      expect((await adapter.lookupAndLock(requests, never)).count()).toBe(20);
      await server.admin.del(...[3, 7, 19].map((n) => encodeWireKey(key(n), "")));
      const into = requests.map(() => memory(BYTES));
      const loaded = await adapter.load(requests, into, never);
      expect([0, 1, 2, 4].every((n) => loaded.has(n))).toBe(true);
      expect(loaded.count()).toBe(17);
      for (const n of loaded.positions())
        expect(Buffer.compare(into[n]?.bytes ?? Buffer.alloc(0), pattern(n, BYTES))).toBe(0);
    });

    test.each([
      ["CLIENT PAUSE", async () => void (await server.admin.call("CLIENT", "PAUSE", "400", "ALL"))],
      ["DEBUG SLEEP", async () => void server.admin.call("DEBUG", "SLEEP", "0.4").catch(() => undefined)],
      [
        "SIGSTOP",
        async () => {
          server.signal("SIGSTOP");
          setTimeout(() => server.signal("SIGCONT"), 400);
        },
      ],
    ])("%s: nothing hangs past its deadline, no byte is wrong, and it goes on", async (_, pause) => {
      const adapter = await openRedis({ ...config, request_timeout: 0.15 });
      const load = await byteCheckedLoad(adapter, KEYS, BYTES);
      await pause();
      await until(() => load.failures > 0);
      await load.untilGood(100);
      const { slowestMs, wrongBytes, codes } = await load.stop();
      expect(wrongBytes).toBe(0);
      expect([...codes].every((code) => ["BACKEND_UNAVAILABLE", "ABORTED"].includes(code))).toBe(true);
      expect(slowestMs).toBeLessThan(20_000); // a bound against hanging, not a measurement
    });

    test("killed and started again: errors meanwhile, recovery without a restart of ours", async () => {
      const own = await RedisServer.start();
      after(() => own.destroy());
      const adapter = await openRedis({ host: "127.0.0.1", port: own.port });
      const load = await byteCheckedLoad(adapter, KEYS, BYTES);
      for (let round = 0; round < 2; round++) {
        await own.kill();
        const failures = load.failures;
        await until(() => load.failures > failures + 3);
        await own.run();
        await load.untilGood(100);
      }
      const { wrongBytes, codes } = await load.stop();
      expect(wrongBytes).toBe(0);
      expect([...codes]).toEqual(["BACKEND_UNAVAILABLE"]);
      await until(() => adapter.status()["reachable"] === true);
      expect(adapter.status().isHealthy).toBe(true);
      expect(adapter.status()["lost_connections"]).toBeGreaterThan(0);
    });

    test("connections killed by the server all the time: everything is tried again", async () => {
      const adapter = await openRedis(config);
      const load = await byteCheckedLoad(adapter, KEYS, BYTES);
      for (let round = 0; round < 20; round++) {
        await server.admin.call("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES");
        await load.untilGood(5);
      }
      const { wrongBytes, codes } = await load.stop();
      expect(wrongBytes).toBe(0);
      expect([...codes].filter((code) => code !== "BACKEND_UNAVAILABLE")).toEqual([]);
    });
  });

  describe("what open says", () => {
    const opening = async (options: Record<string, unknown>): Promise<unknown> => {
      const adapter = createRedisAdapter(redisConfigSchema.parse(options), noL1);
      after(() => adapter.close());
      return adapter.open(openContext()).then(
        () => null,
        (error: unknown) => error,
      );
    };

    test("nobody there", async () => {
      const error = await opening({ host: "127.0.0.1", port: 1 });
      expect(error).toMatchObject({
        code: "BACKEND_UNAVAILABLE",
        message: expect.stringContaining("ECONNREFUSED"),
      });
    });

    test("somebody else there: no Redis", async () => {
      const error = await opening({
        host: "127.0.0.1",
        port: server.port,
        tls_enable: true,
        connection_timeout: 0.3,
      });
      expect(isCacheError(error)).toBe(true);
    });

    test("a cluster taken for a single server", async () => {
      const cluster = await RedisServer.start(["--cluster-enabled", "yes"]);
      after(() => cluster.destroy());
      const error = await opening({ host: "127.0.0.1", port: cluster.port });
      expect(error).toMatchObject({
        code: "INVALID_CONFIG",
        message: expect.stringContaining("set cluster_mode to true"),
      });
      expect(
        await opening({ host: "127.0.0.1", port: server.port, cluster_mode: true, connection_timeout: 0.3 }),
      ).toMatchObject({
        code: expect.stringMatching(/^BACKEND_/),
      });
    });

    test("wrong and missing passwords; the right one from a file; no secret anywhere", async () => {
      const words = ["--user", "cache", "on", ">right-s3cret", "~*", "+@all", "--requirepass", "admin"];
      const guarded = await RedisServer.start(words, { password: "admin" });
      after(() => guarded.destroy());
      const at = { host: "127.0.0.1", port: guarded.port };
      const errors = [
        await opening({ ...at, username: "cache", password: "wrong-s3cret" }),
        await opening({ ...at, password: "wrong-s3cret" }),
        await opening({ ...at, url: "", username: "nobody", password: "wrong-s3cret" }),
        await opening(at),
      ];
      for (const error of errors) {
        expect(error).toMatchObject({
          code: "BACKEND_REFUSED",
          message: expect.stringMatching(/username|password_file/),
        });
        expect(JSON.stringify(error, Object.getOwnPropertyNames(error))).not.toContain("s3cret");
      }
      const file = join(await temporaryDirectory(), "password");
      await writeFile(file, "right-s3cret\n");
      const lines: LogLine[] = [];
      const adapter = await openRedis({ ...at, username: "cache", password_file: file }, lines);
      await storeOne(adapter, key(1), pattern(1, 100));
      // The user is taken away under us: refused, in words that say so.
      await guarded.admin.call("ACL", "SETUSER", "cache", "-set");
      await expect(storeOne(adapter, key(2), pattern(1, 100))).rejects.toMatchObject({
        code: "BACKEND_REFUSED",
      });
      expect(JSON.stringify([adapter.status(), adapter.location, lines])).not.toContain("s3cret");
    });
  });
});

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { createRedisAdapter } from "../src/adapter.ts";
import { redisConfigSchema } from "../src/config.ts";
import { clusterSlot, encodeWireKey } from "../src/names.ts";
import { makeCertificates } from "./support/certificates.ts";
import {
  after,
  key,
  loadOne,
  never,
  noL1,
  openContext,
  openRedis,
  pattern,
  sized,
  storeOne,
  until,
} from "./support/fixtures.ts";
import { byteCheckedLoad } from "./support/load.ts";
import { findRedis } from "./support/redis-program.ts";
import { RedisServer, startCluster } from "./support/redis-server.ts";

const program = await findRedis();
const directory = await mkdtemp(join(tmpdir(), "cache-l2-redis-tls-"));
const certificates = program === null ? null : await makeCertificates(directory);
afterAll(() => rm(directory, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());

const BYTES = 20_000;
const KEYS = 40;

describe.skipIf(program === null)("a cluster of three masters", () => {
  let servers: RedisServer[];
  let config: Record<string, unknown>;
  beforeAll(async () => {
    servers = await startCluster();
    config = { startup_nodes: `127.0.0.1:${servers[1]?.port}`, cluster_mode: true };
  });
  afterAll(() => Promise.all(servers.map((server) => server.destroy())));

  beforeEach(async () => {
    await Promise.all(servers.map((server) => server.admin.flushall()));
  });

  const serverAt = (i: number): RedisServer => servers[i] as RedisServer;
  const idOf = async (server: RedisServer): Promise<string> =>
    String(await server.admin.call("CLUSTER", "MYID"));

  test("slots are those of the server, also of names with braces", async () => {
    for (const modelName of ["plain", "with{tag}s", "{}", "{a}{b}", "}{", "ü{ü}"]) {
      const name = encodeWireKey(key(1, { modelName }), "p");
      expect(await serverAt(0).admin.call("CLUSTER", "KEYSLOT", name)).toBe(clusterSlot(name));
    }
  });

  test("objects lie on the node of their slot, and every node has some", async () => {
    const adapter = await openRedis(config);
    for (let n = 0; n < 30; n++) await storeOne(adapter, key(n), pattern(n, 100));
    const sizes = await Promise.all(servers.map((server) => server.admin.dbsize()));
    expect(sizes.reduce((sum, size) => sum + size)).toBe(30);
    expect(Math.min(...sizes)).toBeGreaterThan(0);
    expect((adapter.status()["connections"] as unknown[]).length).toBe(3);
    expect((await adapter.listKeys({ pageSize: 100 }, never)).entries.length).toBeGreaterThan(0);
  });

  test("slots that move under load: followed, no wrong byte, nothing lost for good", async () => {
    const adapter = await openRedis(config);
    const load = await byteCheckedLoad(adapter, KEYS, BYTES);
    const [from, to] = [serverAt(0), serverAt(2)];
    const [fromId, toId] = [await idOf(from), await idOf(to)];
    const slots = Array.from({ length: KEYS }, (_, n) => clusterSlot(encodeWireKey(key(n), ""))).filter(
      (slot) => slot < 5462,
    );
    expect(slots.length).toBeGreaterThan(3);
    for (const slot of slots) {
      await to.admin.call("CLUSTER", "SETSLOT", slot, "IMPORTING", fromId);
      await from.admin.call("CLUSTER", "SETSLOT", slot, "MIGRATING", toId);
      await load.untilGood(2); // new keys of the slot are answered with ASK now
      for (;;) {
        const names = (await from.admin.call("CLUSTER", "GETKEYSINSLOT", slot, 10)) as string[];
        if (names.length === 0) break;
        await from.admin.call("MIGRATE", "127.0.0.1", to.port, "", 0, 2000, "REPLACE", "KEYS", ...names);
      }
      await load.untilGood(2);
      for (const server of [to, from, serverAt(1)])
        await server.admin.call("CLUSTER", "SETSLOT", slot, "NODE", toId);
    }
    await load.untilGood(30);
    const { wrongBytes, codes } = await load.stop();
    expect(wrongBytes).toBe(0);
    expect([...codes].filter((code) => code !== "BACKEND_UNAVAILABLE")).toEqual([]);
    const found = await adapter.lookupAndLock(
      Array.from({ length: KEYS }, (_, n) => sized(n, BYTES)),
      never,
    );
    expect(found.count()).toBe(KEYS);
  });

  test("a node that is killed and comes back: its keys fail meanwhile, the others do not", async () => {
    const adapter = await openRedis({ ...config, request_timeout: 1 });
    const load = await byteCheckedLoad(adapter, KEYS, BYTES);
    await serverAt(1).kill();
    await until(() => load.failures > 3);
    // What lies on the other nodes is there all the time.
    const alive = Array.from({ length: KEYS }, (_, n) => n).filter((n) => {
      const slot = clusterSlot(encodeWireKey(key(n), ""));
      return slot < 5000 || slot > 11_000;
    });
    for (const n of alive) {
      const bytes = await loadOne(adapter, key(n), BYTES);
      expect(bytes === null ? -1 : Buffer.compare(bytes, pattern(n, BYTES))).toBe(0);
    }
    await serverAt(1).run();
    await load.untilGood(30);
    const { wrongBytes } = await load.stop();
    expect(wrongBytes).toBe(0);
  });
});

describe.skipIf(program === null)("a master behind three Sentinels", () => {
  test("the master is found, and found again after it died, under load", async () => {
    const master = await RedisServer.start();
    const replica = await RedisServer.start(["--replicaof", "127.0.0.1", String(master.port)]);
    const sentinels = await Promise.all([1, 2, 3].map(() => RedisServer.start(["--sentinel"])));
    after(() => Promise.all([master, replica, ...sentinels].map((server) => server.destroy())));
    for (const { admin } of sentinels) {
      await admin.call("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", master.port, 2);
      for (const [option, value] of [
        ["down-after-milliseconds", 300],
        ["failover-timeout", 1000],
      ] as const) {
        await admin.call("SENTINEL", "SET", "mymaster", option, value);
      }
    }
    await until(async () => {
      const seen = (await sentinels[0]?.admin.call("SENTINEL", "MASTER", "mymaster")) as string[];
      const field = (name: string): number => Number(seen[seen.indexOf(name) + 1]);
      return field("num-slaves") === 1 && field("num-other-sentinels") === 2;
    });
    const nodes = sentinels.map(({ port }) => `127.0.0.1:${port}`).join(",");
    const adapter = await openRedis({
      sentinel_nodes: nodes,
      sentinel_master: "mymaster",
      request_timeout: 1,
    });
    expect(adapter.location).toBe(`redis+sentinel://${nodes}/mymaster/0`);
    const load = await byteCheckedLoad(adapter, KEYS, BYTES);
    expect(await master.admin.dbsize()).toBeGreaterThan(0);
    await master.kill();
    await until(() => load.failures > 0);
    await load.untilGood(50);
    const { wrongBytes, codes } = await load.stop();
    expect(wrongBytes).toBe(0);
    expect([...codes].filter((code) => !["BACKEND_UNAVAILABLE", "ABORTED"].includes(code))).toEqual([]);
    expect(((await replica.admin.call("ROLE")) as unknown[])[0]).toBe("master");
    await until(() => adapter.status().isHealthy);
  });

  test("Sentinels that do not know the name, or are not there", async () => {
    const sentinel = await RedisServer.start(["--sentinel"]);
    after(() => sentinel.destroy());
    for (const port of [sentinel.port, 1]) {
      const config = { sentinel_nodes: `127.0.0.1:${port}`, sentinel_master: "other", connection_timeout: 1 };
      const adapter = createRedisAdapter(redisConfigSchema.parse(config), noL1);
      await expect(adapter.open(openContext())).rejects.toMatchObject({ code: "BACKEND_UNAVAILABLE" });
      await adapter.close();
    }
  });
});

describe.skipIf(certificates === null)("TLS", () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await RedisServer.start(certificates?.words ?? [], certificates?.login);
  });
  afterAll(() => server.destroy());

  const withFiles = (options: Record<string, unknown> = {}): Record<string, unknown> => ({
    host: "127.0.0.1",
    port: server.port,
    tls_enable: true,
    tls_ca_file: certificates?.ca,
    tls_cert_file: certificates?.cert,
    tls_key_file: certificates?.key,
    connection_timeout: 2,
    ...options,
  });

  test("objects of all sizes go through, read straight into their memory", async () => {
    const adapter = await openRedis(withFiles());
    for (const size of [1, 16_383, 16_384, 16_385, 1_000_000, 5_000_000]) {
      await storeOne(adapter, key(size), pattern(size, size));
      const loaded = await loadOne(adapter, key(size), size);
      expect(Buffer.compare(loaded ?? Buffer.alloc(0), pattern(size, size))).toBe(0);
    }
    expect(adapter.location).toBe(`rediss://127.0.0.1:${server.port}/0`);
  });

  test("under load, with connections killed", async () => {
    const adapter = await openRedis(withFiles());
    const load = await byteCheckedLoad(adapter, KEYS, BYTES);
    for (let round = 0; round < 5; round++) {
      await server.admin.call("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES");
      await load.untilGood(5);
    }
    expect((await load.stop()).wrongBytes).toBe(0);
  });

  test.each([
    ["another authority", { tls_ca_file: certificates?.strangerCa }],
    ["no authority", { tls_ca_file: "" }],
  ])("refused: %s", async (_, options) => {
    const adapter = createRedisAdapter(redisConfigSchema.parse(withFiles(options)), noL1);
    await expect(adapter.open(openContext())).rejects.toMatchObject({
      code: "BACKEND_REFUSED",
      message: expect.stringMatching(/TLS failed .*tls_ca_file/),
    });
    await adapter.close();
  });

  test("no certificate of our own, plain text: an error, not a hang", async () => {
    for (const options of [
      { tls_cert_file: "", tls_key_file: "" },
      { tls_enable: false, tls_ca_file: "", tls_cert_file: "", tls_key_file: "" },
    ]) {
      const adapter = createRedisAdapter(
        redisConfigSchema.parse(withFiles({ ...options, connection_timeout: 0.5 })),
        noL1,
      );
      await expect(adapter.open(openContext())).rejects.toMatchObject({
        code: expect.stringMatching(/^BACKEND_/),
      });
      await adapter.close();
    }
  });
});

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { l2AdapterSuite } from "@cache/conformance";
import { afterAll, beforeAll, describe, test } from "vitest";
import { createRedisAdapter } from "../src/adapter.ts";
import { redisConfigSchema } from "../src/config.ts";
import { makeCertificates } from "./support/certificates.ts";
import { findRedis } from "./support/redis-program.ts";
import { RedisServer, startCluster } from "./support/redis-server.ts";

const program = await findRedis();
const directory = await mkdtemp(join(tmpdir(), "cache-l2-redis-tls-"));
const certificates = program === null ? null : await makeCertificates(directory);
afterAll(() => rm(directory, { recursive: true, force: true }));

/** Runs the suite on servers that are emptied for each law. */
function suiteOn(
  name: string,
  possible: boolean,
  start: () => Promise<RedisServer[]>,
  configOf: (servers: readonly RedisServer[]) => Record<string, unknown>,
): void {
  describe.skipIf(!possible)(name, () => {
    let servers: RedisServer[] = [];
    beforeAll(async () => {
      servers = await start();
    });
    afterAll(() => Promise.all(servers.map((server) => server.destroy())));
    l2AdapterSuite({
      test,
      name: `redis: ${name}`,
      factory: async () => {
        const config = redisConfigSchema.parse(configOf(servers));
        return {
          create: (l1) => createRedisAdapter(config, l1),
          secrets: config.password === "" ? [] : [config.password],
          dispose: async () => {
            await Promise.all(servers.map((server) => server.admin.flushall()));
          },
        };
      },
    });
  });
}

suiteOn(
  "single server",
  program !== null,
  async () => [await RedisServer.start()],
  ([server]) => ({ host: "127.0.0.1", port: server?.port }),
);
suiteOn("cluster of three masters", program !== null, startCluster, (servers) => ({
  startup_nodes: `127.0.0.1:${servers[0]?.port}`,
  cluster_mode: true,
}));

// The user has the rights that README names, and no others.
const RIGHTS = [
  "+get",
  "+set",
  "+strlen",
  "+del",
  "+scan",
  "+expire",
  "+ping",
  "+client|setname",
  "+select",
  "+info",
];
const PASSWORD = "S3cret+of/the user";

suiteOn(
  "TLS, an ACL user, a key prefix, a TTL, a capacity",
  certificates !== null,
  async () => {
    const user = ["--user", "cache", "on", `>${PASSWORD}`, "~team@*", "-@all", ...RIGHTS];
    const words = [...(certificates?.words ?? []), ...user, "--requirepass", "admin"];
    return [await RedisServer.start(words, { ...certificates?.login, password: "admin" })];
  },
  ([server]) => ({
    url: `rediss://127.0.0.1:${server?.port}/3`,
    username: "cache",
    password: PASSWORD,
    tls_ca_file: certificates?.ca,
    tls_cert_file: certificates?.cert,
    tls_key_file: certificates?.key,
    key_prefix: "team",
    ttl_seconds: 3600,
    max_capacity_gb: 1,
    num_workers: 3,
  }),
);

import { l2AdapterSuite } from "@cache/conformance";
import { afterAll, beforeAll, describe, test } from "vitest";
import { createRedisAdapter } from "../src/adapter.ts";
import { redisConfigSchema } from "../src/config.ts";
import { findRedis } from "./support/redis-program.ts";
import { RedisServer, startCluster } from "./support/redis-server.ts";

const program = await findRedis();

/** Runs the suite on servers that are emptied for each law. */
function suiteOn(
  name: string,
  start: () => Promise<RedisServer[]>,
  configOf: (servers: readonly RedisServer[]) => Record<string, unknown>,
): void {
  describe.skipIf(program === null)(name, () => {
    let servers: RedisServer[] = [];
    beforeAll(async () => {
      servers = await start();
    });
    afterAll(() => Promise.all(servers.map((server) => server.destroy())));
    l2AdapterSuite({
      test,
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
  async () => [await RedisServer.start()],
  ([server]) => ({ host: "127.0.0.1", port: server?.port }),
);
suiteOn("cluster of three masters", startCluster, (servers) => ({
  startup_nodes: `127.0.0.1:${servers[0]?.port}`,
  cluster_mode: true,
}));

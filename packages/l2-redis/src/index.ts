import { L2_API_VERSION, registerL2Adapter } from "@cache/contracts";
import { createRedisAdapter } from "./adapter.ts";
import { redisConfigSchema } from "./config.ts";

registerL2Adapter({
  types: ["resp", "redis"],
  apiVersion: L2_API_VERSION,
  packageName: "@cache/l2-redis",
  configSchema: redisConfigSchema,
  create: (config, l1) => createRedisAdapter(config, l1),
});

export { createRedisAdapter } from "./adapter.ts";
export { type RedisConfig, redisConfigSchema } from "./config.ts";

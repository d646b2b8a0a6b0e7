import { L2_API_VERSION, registerL2Adapter } from "@cache/contracts";
import { dynamicConfigSchema, staticConfigSchema } from "./config.ts";
import { createDynamicAdapter } from "./dynamic-adapter.ts";
import { createStaticAdapter } from "./static-adapter.ts";

registerL2Adapter({
  types: ["nixl_store"],
  apiVersion: L2_API_VERSION,
  packageName: "@cache/l2-nixl",
  configSchema: staticConfigSchema,
  create: (config, l1) => createStaticAdapter(config, l1),
});

registerL2Adapter({
  types: ["nixl_store_dynamic"],
  apiVersion: L2_API_VERSION,
  packageName: "@cache/l2-nixl",
  configSchema: dynamicConfigSchema,
  create: (config, l1) => createDynamicAdapter(config, l1),
});

export { type DynamicConfig, dynamicConfigSchema, type StaticConfig, staticConfigSchema } from "./config.ts";
export { createDynamicAdapter } from "./dynamic-adapter.ts";
export { createStaticAdapter } from "./static-adapter.ts";

import { L2_API_VERSION, registerL2Adapter } from "@cache/contracts";
import { createHfBucketAdapter } from "./adapter.ts";
import { configNotes, hfBucketConfigSchema } from "./config.ts";

registerL2Adapter({
  types: ["hfbucket"],
  apiVersion: L2_API_VERSION,
  packageName: "@cache/l2-hfbucket",
  configSchema: hfBucketConfigSchema,
  configNotes,
  create: (config, l1) => createHfBucketAdapter(config, l1),
});

export { createHfBucketAdapter } from "./adapter.ts";
export { type HfBucketConfig, hfBucketConfigSchema } from "./config.ts";

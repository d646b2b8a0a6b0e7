import { L2_API_VERSION, registerL2Adapter } from "@cache/contracts";
import { createFsAdapter } from "./adapter.ts";
import { fsConfigSchema } from "./config.ts";

registerL2Adapter({
  types: ["fs"],
  apiVersion: L2_API_VERSION,
  packageName: "@cache/l2-fs",
  configSchema: fsConfigSchema,
  create: (config, l1) => createFsAdapter(config, l1),
});

export { createFsAdapter } from "./adapter.ts";
export { type FsConfig, fsConfigSchema } from "./config.ts";

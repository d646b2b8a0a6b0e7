import { L2_API_VERSION, registerL2Adapter } from "@cache/contracts";
import { create__Name__Adapter } from "./adapter.ts";
import { __camel__ConfigSchema } from "./config.ts";

export { create__Name__Adapter } from "./adapter.ts";
export { type __Name__Config, __camel__ConfigSchema } from "./config.ts";

// The engine imports this file when a configuration asks for the type.
registerL2Adapter({
  types: ["__type__"],
  apiVersion: L2_API_VERSION,
  packageName: "__package__",
  configSchema: __camel__ConfigSchema,
  create: (config) => create__Name__Adapter(config),
});

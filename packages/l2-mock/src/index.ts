import { L2_API_VERSION, registerL2Adapter } from "@cache/contracts";
import { createMockAdapter } from "./adapter.ts";
import { mockConfigSchema } from "./config.ts";

export { createMockAdapter, type MockAdapter, type MockControl, type MockPorts } from "./adapter.ts";
export type { MockClock } from "./clock.ts";
export { type MockConfig, mockConfigSchema } from "./config.ts";
export type { HangOptions, MockOperation } from "./faults.ts";

registerL2Adapter({
  types: ["mock"],
  apiVersion: L2_API_VERSION,
  packageName: "@cache/l2-mock",
  configSchema: mockConfigSchema,
  create: (config, l1) => createMockAdapter(config, l1),
});

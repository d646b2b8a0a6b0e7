import { l2AdapterSuite } from "@cache/conformance";
import { describe, test } from "vitest";
import { createMockAdapter, mockConfigSchema } from "../src/index.ts";

const configs = {
  "as fast as memory": { max_size_gb: 1, mock_bandwidth_gb: 1000 },
  "slow, with latency": { max_size_gb: 1, mock_bandwidth_gb: 0.2, latency_ms: 1 },
};

for (const [name, config] of Object.entries(configs)) {
  describe(name, () => {
    l2AdapterSuite({
      test,
      name: `mock: ${name}`,
      factory: async () => ({
        create: (l1) => createMockAdapter(mockConfigSchema.parse(config), l1),
        dispose: async () => {},
      }),
    });
  });
}

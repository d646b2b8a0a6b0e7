import { defineConfig } from "vitest/config";

// Tests run from source: the "cache-source" condition points each package's exports at src/.
export default defineConfig({
  ssr: { resolve: { conditions: ["cache-source", "node", "import", "default"] } },
  resolve: { conditions: ["cache-source", "node", "import", "default"] },
  test: {
    include: ["packages/*/test/**/*.test.ts", "apps/*/test/**/*.test.ts", "tools/*/test/**/*.test.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    pool: "forks",
    maxWorkers: 2,
  },
});

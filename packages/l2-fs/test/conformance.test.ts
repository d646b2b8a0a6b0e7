import { rm } from "node:fs/promises";
import { l2AdapterSuite } from "@cache/conformance";
import { describe, test } from "vitest";
import { createFsAdapter } from "../src/adapter.ts";
import { fsConfigSchema } from "../src/config.ts";
import { temporaryDirectory } from "./fixtures.ts";

const configs = {
  defaults: {},
  "every option": {
    relative_tmp_dir: "tmp/deep",
    read_ahead_size: 512,
    use_odirect: true,
    max_capacity_gb: 1,
    fsync: "full",
    file_mode: "0640",
    directory_mode: "0750",
  },
};

for (const [name, options] of Object.entries(configs)) {
  describe(`fs with ${name}`, () => {
    l2AdapterSuite({
      test,
      factory: async () => {
        const base_path = await temporaryDirectory();
        return {
          create: (l1) => createFsAdapter(fsConfigSchema.parse({ base_path, ...options }), l1),
          dispose: () => rm(base_path, { recursive: true, force: true }),
        };
      },
    });
  });
}

import { rm } from "node:fs/promises";
import { l2AdapterSuite } from "@cache/conformance";
import type { L2Adapter, L1MemoryDesc } from "@cache/contracts";
import { describe, test } from "vitest";
import { createFsAdapter } from "../src/adapter.ts";
import { fsConfigSchema } from "../src/config.ts";
import { anonymousL1, temporaryDirectory, threadsReady } from "./fixtures.ts";

const everyOption = {
  relative_tmp_dir: "tmp/deep",
  read_ahead_size: 512,
  use_odirect: true,
  max_capacity_gb: 1,
  fsync: "full",
  file_mode: "0640",
  directory_mode: "0750",
};
const configs = {
  defaults: {},
  "every option": { ...everyOption, num_workers: 0 },
  "every option and threads": { ...everyOption, fsync: "none", num_workers: 2 },
};

// One for all laws: memory that was mapped once stays until the process ends.
let mapped: Promise<L1MemoryDesc> | undefined;

/** The adapter, whose `open` waits until its threads do the work. */
function withThreads(adapter: L2Adapter, count: number): L2Adapter {
  const open = adapter.open.bind(adapter);
  adapter.open = async (context) => {
    await open(context);
    await threadsReady(adapter, count);
  };
  return adapter;
}

for (const [name, options] of Object.entries(configs)) {
  const threads = "num_workers" in options ? options.num_workers : 0;
  describe(`fs with ${name}`, () => {
    l2AdapterSuite({
      test,
      name: `fs: ${name}`,
      factory: async () => {
        const base_path = await temporaryDirectory();
        const config = fsConfigSchema.parse({ base_path, ...options });
        const place = { dispose: () => rm(base_path, { recursive: true, force: true }) };
        if (threads === 0) return { ...place, create: (l1) => createFsAdapter(config, l1) };
        const l1 = await (mapped ??= anonymousL1(32 * 2 ** 20));
        return { ...place, l1, create: () => withThreads(createFsAdapter(config, l1), threads) };
      },
    });
  });
}

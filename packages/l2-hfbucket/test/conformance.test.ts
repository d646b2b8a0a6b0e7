import { l2AdapterSuite } from "@cache/conformance";
import { afterAll, beforeAll, describe, test } from "vitest";
import { type Hub, startHub } from "../../../tools/hub/server.mjs";
import { createHfBucketAdapter } from "../src/adapter.ts";
import { hfBucketConfigSchema } from "../src/config.ts";
import { HANDLE, TOKEN } from "./support/fixtures.ts";

/** A suite's law may take long on a busy machine: each opens adapters with threads that begin cold. */
const DEADLINE_MS = 60_000;

describe("a folder of a bucket that is made by the first store, with a capacity", () => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await startHub({ token: TOKEN, pageSize: 50 });
  });
  afterAll(() => hub.close());
  l2AdapterSuite({
    name: "hfbucket: test Hub",
    test: (name, run) => test(name, run, DEADLINE_MS + 5000),
    lawDeadlineMs: DEADLINE_MS,
    factory: async () => {
      const config = hfBucketConfigSchema.parse({
        bucket_handle: HANDLE,
        token_env: "",
        token: TOKEN,
        endpoint: hub.url,
        create_bucket_if_missing: true,
        max_capacity_gb: 1,
        num_workers: 2,
      });
      return {
        create: (l1) => createHfBucketAdapter(config, l1),
        secrets: [TOKEN],
        dispose: async () => hub.clear(),
      };
    },
  });
});

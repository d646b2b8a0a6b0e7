import { l2AdapterSuite } from "@cache/conformance";
import { afterAll, beforeAll, describe, test } from "vitest";
import { type Hub, startHub } from "../../../tools/hub/server.mjs";
import { createHfBucketAdapter } from "../src/adapter.ts";
import { hfBucketConfigSchema } from "../src/config.ts";
import { BUCKET, TOKEN } from "./support/fixtures.ts";

/** Runs the suite on a Hub that is emptied for each law. */
function suiteOn(name: string, options: Record<string, unknown>): void {
  describe(name, () => {
    let hub: Hub;
    beforeAll(async () => {
      hub = await startHub({ token: TOKEN, pageSize: 100 });
    });
    afterAll(() => hub.close());
    l2AdapterSuite({
      test,
      factory: async () => {
        if (options["create_bucket_if_missing"] !== true) hub.buckets.create(BUCKET);
        const base = { token_env: "", token: TOKEN, endpoint: hub.url, bucket_handle: `hf://buckets/${BUCKET}` };
        const config = hfBucketConfigSchema.parse({ ...base, ...options });
        return {
          create: (l1) => createHfBucketAdapter(config, l1),
          secrets: [TOKEN],
          dispose: async () => hub.clear(),
        };
      },
    });
  });
}

suiteOn("a bucket's root, nothing remembered, two threads", { metadata_cache_ttl_secs: 0, num_workers: 2 });
suiteOn("a folder of a bucket that is made, with a capacity", {
  bucket_handle: `hf://buckets/${BUCKET}/kv/prod`,
  create_bucket_if_missing: true,
  max_capacity_gb: 1,
  num_workers: 1,
});

// A configuration of each L2 adapter, with what it needs running: `{ adapter, stop }`, or why it cannot be had here.
import { join } from "node:path";
import { startHub } from "./hub.mjs";
import { startRedis } from "./redis.mjs";

/** By name; each takes a folder of its own. */
export const backends = {
  fs: (place) => ({ adapter: { type: "fs", base_path: join(place, "kv") }, stop() {} }),
  mock: () => ({ adapter: { type: "mock", max_size_gb: 4, mock_bandwidth_gb: 4 }, stop() {} }),
  async redis() {
    const { port, stop } = await startRedis().catch((error) => ({ port: error.message }));
    if (typeof port === "string") return port;
    return { adapter: { type: "redis", host: "127.0.0.1", port }, stop };
  },
  async hfbucket() {
    const { url: endpoint, stop } = await startHub();
    const bucket = { bucket_handle: "hf://buckets/bench/pauses", create_bucket_if_missing: true };
    return { adapter: { type: "hfbucket", ...bucket, endpoint, token_env: "", token: "hf_bench" }, stop };
  },
};

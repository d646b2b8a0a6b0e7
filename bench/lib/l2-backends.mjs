// A configuration of each L2 adapter, with what it needs running.
import { join } from "node:path";
import { startHub } from "./hub.mjs";
import { startRedis } from "./redis.mjs";

const none = () => {};
/** Room for four calls of the largest shape, each as good as stored twice. */
const NIXL_POOL = { pool_size: 160, file_size: 16 * 2 ** 20 };

/**
 * By name: the folder of its package, and `start`, which takes a folder of its own and answers `{ adapter, stop }`.
 * It throws where a server cannot be had. NIXL is found as always: CACHE_NIXL_LIBRARY, or a wheel of the `python3` in
 * the PATH.
 */
export const backends = {
  fs: {
    package: "l2-fs",
    start: (place) => ({ adapter: { type: "fs", base_path: join(place, "kv") }, stop: none }),
  },
  nixl_store: {
    package: "l2-nixl",
    start(place) {
      const { pool_size, file_size } = NIXL_POOL;
      const backend_params = { file_path: join(place, "kv"), use_direct_io: "false", file_size };
      return { adapter: { type: "nixl_store", backend: "POSIX", pool_size, backend_params }, stop: none };
    },
  },
  nixl_store_dynamic: {
    package: "l2-nixl",
    start(place) {
      const backend_params = { file_path: join(place, "kv"), use_direct_io: "false", max_capacity_gb: 8 };
      return { adapter: { type: "nixl_store_dynamic", backend: "POSIX", backend_params }, stop: none };
    },
  },
  redis: {
    package: "l2-redis",
    async start() {
      const { port, stop } = await startRedis();
      return { adapter: { type: "redis", host: "127.0.0.1", port }, stop };
    },
  },
  hfbucket: {
    package: "l2-hfbucket",
    async start() {
      const { url: endpoint, stop } = await startHub();
      const bucket = { bucket_handle: "hf://buckets/bench/pauses", create_bucket_if_missing: true };
      return { adapter: { type: "hfbucket", ...bucket, endpoint, token_env: "", token: "hf_bench" }, stop };
    },
  },
};

/** The backend of that name. Throws for an unknown one, with the names that there are. */
export function backendNamed(name) {
  const found = backends[name];
  if (found === undefined) throw new Error(`--only ${name}: there is ${Object.keys(backends).join(", ")}`);
  return found;
}

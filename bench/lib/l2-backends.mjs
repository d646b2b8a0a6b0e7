// A configuration of each L2 adapter, with what it needs running: `{ adapter, stop }`, or why it cannot be had here.
import { join } from "node:path";

/** By name; each takes a folder of its own and the Python environment of the peers. */
export const backends = {
  fs: (place) => ({ adapter: { type: "fs", base_path: join(place, "kv") } }),
  mock: () => ({ adapter: { type: "mock", max_size_gb: 4, mock_bandwidth_gb: 4 } }),
};

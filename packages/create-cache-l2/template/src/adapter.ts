import type { L2Adapter } from "@cache/contracts";
import { createSimpleAdapter } from "@cache/simple-store";
import type { __Name__Config } from "./config.ts";
import { create__Name__Store } from "./store.ts";

const GIB = 1024 ** 3;

/** Makes the adapter; no I/O before `open`. */
export function create__Name__Adapter(config: __Name__Config): L2Adapter {
  const capacityBytes = Math.floor(config.max_capacity_gb * GIB);
  return createSimpleAdapter(create__Name__Store(), {
    type: "__type__",
    // What identifies the data: server, bucket, prefix. No secret in it.
    location: "memory of this process",
    // True once objects outlive the process, and once other processes see them.
    persistent: false,
    shared: false,
    ...(capacityBytes > 0 && { capacityBytes }),
  });
}

import type { RpcServer, RpcServerOptions } from "./server.ts";

/**
 * Starts LMCache's multiprocess RPC (0.5.6, engine-driven transfer) on a ZMQ ROUTER. ZMQ, msgpack and the
 * hashes are loaded here: a program that does not serve does not pay for them.
 *
 * @throws CacheError `ADDRESS_IN_USE` naming the flag, `INVALID_CONFIG` for a host that cannot be bound.
 */
export async function startRpcServer(options: RpcServerOptions): Promise<RpcServer> {
  const { runRpcServer } = await import("./server.ts");
  return runRpcServer(options);
}

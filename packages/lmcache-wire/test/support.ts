import type { AdapterLog } from "@cache/contracts";
import { Packr } from "msgpackr";
import { afterEach } from "vitest";
import { Dealer } from "zeromq";
import type { LmcacheHandlers } from "../src/handlers.ts";
import type { RpcServer, RpcServerOptions } from "../src/server.ts";
import { startRpcServer } from "../src/start.ts";

// The packer knows "auto"; its types do not.
const AUTO = "auto" as "number";
export const packr = new Packr({ useRecords: false, variableMapSize: true, int64AsType: AUTO });
export const log: AdapterLog = { debug() {}, info() {}, warn() {}, error() {} };
export const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

export function fakeHandlers(over: Partial<LmcacheHandlers> = {}): LmcacheHandlers {
  return {
    getChunkSize: () => 4,
    getExperimental: () => [],
    ping: () => true,
    registerEngineDriven: () => ({ shmName: "pool", poolSize: 5 * 2 ** 30 }),
    unregisterEngineDriven: () => undefined,
    lookup: () => undefined,
    queryPrefetchStatus: () => 3,
    waitPrefetchStatus: async () => null,
    freeLookupLocks: () => undefined,
    endSession: () => undefined,
    prepareStore: () => ({
      kind: "slots",
      slots: [{ offset: 2 ** 33, length: 8, shape: [4], dtype: "float16" }],
      chunkIndices: [0],
    }),
    commitStore: () => true,
    prepareRetrieve: () => ({ kind: "miss" }),
    commitRetrieve: () => true,
    clear: () => undefined,
    reportBlockAllocation: () => undefined,
    noteSignOfLife: () => undefined,
    commitTurn: () => true,
    ...over,
  };
}

export async function start(
  over: Partial<LmcacheHandlers> = {},
  options: Partial<RpcServerOptions> = {},
): Promise<RpcServer> {
  const server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    handlers: fakeHandlers(over),
    chunkSize: 4,
    poolSizeBytes: 2 ** 20,
    log,
    ...options,
  });
  closers.push(() => server.close(100));
  return server;
}

export interface Reply {
  readonly uid: number;
  readonly op: number | string;
  /** Undefined: no payload frame. */
  readonly value: unknown;
}

export class Client {
  readonly socket = new Dealer({ receiveTimeout: 5000, linger: 0 });
  #uid = 0;

  constructor(server: RpcServer) {
    this.socket.connect(server.address);
    closers.push(() => this.socket.close());
  }

  async send(op: number | string, ...payload: unknown[]): Promise<number> {
    const uid = this.#uid++;
    await this.socket.send([packr.pack(uid), packr.pack(op), ...payload.map((one) => packr.pack(one))]);
    return uid;
  }

  async receive(): Promise<Reply> {
    const [uid, op, value] = await this.socket.receive();
    return {
      uid: packr.unpack(uid as Buffer) as number,
      op: packr.unpack(op as Buffer) as number | string,
      value: value === undefined ? undefined : packr.unpack(value),
    };
  }

  async call(op: number | string, ...payload: unknown[]): Promise<Reply> {
    await this.send(op, ...payload);
    return this.receive();
  }
}

export const key = (over: Record<string, unknown> = {}): Record<string, unknown> => ({
  model_name: "m",
  world_size: 1,
  worker_id: 0,
  token_ids: [1, 2, 3, 4, 5, 6, 7, 8, 9],
  start: 0,
  end: 8,
  request_id: "r",
  cache_salt: "",
  request_configs: null,
  num_kv_readers: 1,
  ...over,
});
export const registration = {
  instance_id: 2n ** 62n,
  model_name: "m",
  world_size: 1,
  block_size: 4,
  num_layers: 2,
  hidden_dim_size: 8,
  dtype_str: "bfloat16",
  use_mla: false,
  num_physical_slots: null,
};

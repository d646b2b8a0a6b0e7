import type { EngineConfig } from "../config/engine-config.ts";
import { maskSecrets } from "../config/mask.ts";
import type { RunningEngine } from "../engine-seam.ts";
import { sizeText, table } from "./output.ts";

/** What the banner tells. */
export interface BannerFacts {
  readonly config: EngineConfig;
  readonly engine: Pick<RunningEngine, "rpcAddress" | "poolPath" | "notes">;
  readonly httpAddress: string;
  readonly version: string;
  /** From the start of the process, in milliseconds. */
  readonly readyMs: number;
}

/** What an operator reads after the start: addresses, pool, state, adapters, how to connect vLLM. */
export function banner({ config, engine, httpAddress, version, readyMs }: BannerFacts): string {
  const rows = [
    ["rpc", engine.rpcAddress],
    ["http", `${httpAddress}  (/healthcheck, /status, /metrics; all routes: /openapi.json)`],
    ["pool", poolText(config, engine.poolPath)],
    ["state", config.state.directory ?? "in memory: nothing survives a restart"],
    ...adapterRows(config),
    ...engine.notes.map((note) => ["note", note]),
  ];
  const connector = JSON.stringify({
    kv_connector: "LMCacheMPConnector",
    kv_role: "kv_both",
    kv_connector_extra_config: {
      "lmcache.mp.host": hostUrl(engine.rpcAddress),
      "lmcache.mp.port": portOf(engine.rpcAddress),
      "lmcache.mp.mq_timeout": 5,
    },
  });
  return `cache-engine ${version}
${table(rows)}

Connect vLLM (the variable is for CUDA and NPU: there the worker must copy, this process has no device):
  LMCACHE_MP_TRANSFER_MODE=engine_driven vllm serve MODEL --kv-transfer-config '${connector}'

ready in ${Math.round(readyMs)} ms`;
}

function poolText(config: EngineConfig, path: string | null): string {
  const { sizeBytes, sizeOrigin } = config.l1;
  const origin = sizeOrigin === "default" ? ", chosen for this machine: --l1-size-gb sets it" : "";
  return `${path ?? "no shared memory: clients send inline"}  (${sizeText(sizeBytes)}${origin})`;
}

function adapterRows(config: EngineConfig): string[][] {
  if (config.l2.adapters.length === 0)
    return [["l2", "none: what leaves L1 is gone; add one with --l2-adapter"]];
  return config.l2.adapters.map(({ id, own, common }) => {
    const limit = own["max_capacity_gb"];
    const limitText = typeof limit === "number" && limit > 0 ? `, at most ${limit} GiB` : "";
    const eviction = common.eviction === null ? "never evicts" : `evicts ${common.eviction.policy}`;
    return ["l2", `${id} ${JSON.stringify(maskSecrets(own))}  (${eviction}${limitText})`];
  });
}

function hostUrl(address: string): string {
  return address.slice(0, address.lastIndexOf(":")).replace("0.0.0.0", "HOST");
}

function portOf(address: string): number {
  return Number(address.slice(address.lastIndexOf(":") + 1));
}

export { type ResolvedAdapter, type ResolvedAdapters, resolveAdapters } from "./adapters/resolve-adapters.ts";
export type {
  AdapterSpec,
  CommonAdapterKeys,
  ConfigOrigin,
  EngineConfig,
  EvictionSpec,
} from "./config/engine-config.ts";
export { type ConfigInputs, loadConfig, type LoadedConfig } from "./config/load-config.ts";
export type { EngineContext, EngineView, RunEngine, RunningEngine } from "./engine-seam.ts";

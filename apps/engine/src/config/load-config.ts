import { CacheError } from "@cache/contracts";
import type { ConfigOrigin, EngineConfig } from "./engine-config.ts";
import { describeIssues } from "./issues.ts";
import { engineOptions, type EngineOptions, optionInfos } from "./options.ts";
import { environmentSource, fileSource, flagSource, type Source, type SourcedValue } from "./sources.ts";
import { toEngineConfig } from "./to-engine-config.ts";

/** What a start was given. */
export interface ConfigInputs {
  /** Flags by key (`l1_size_gb`), as typed. Lists for repeatable ones. */
  readonly flags: Readonly<Record<string, string | boolean | readonly string[] | undefined>>;
  /** `--config`; the environment's CACHE_ENGINE_CONFIG if absent. */
  readonly configFile?: string | undefined;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

/** The checked configuration and where it came from. */
export interface LoadedConfig {
  readonly config: EngineConfig;
  /** Options as written in a file, defaults filled in. */
  readonly options: EngineOptions;
  /** Of each key in `options`. */
  readonly origins: Readonly<Record<string, ConfigOrigin>>;
  /** What was given and has no effect. */
  readonly warnings: readonly string[];
}

/**
 * Reads flags, environment and file; a flag wins over the environment, that over the file, that over the default.
 * Lists are not merged: the strongest source's list counts.
 *
 * @throws CacheError `INVALID_CONFIG` naming place, key, value and fix.
 */
export async function loadConfig(inputs: ConfigInputs): Promise<LoadedConfig> {
  const infos = optionInfos();
  const file = inputs.configFile ?? inputs.environment["CACHE_ENGINE_CONFIG"];
  const sources: Source[] = [
    ...(file === undefined || file === "" ? [] : [await fileSource(file, infos)]),
    environmentSource(inputs.environment, infos),
    flagSource(inputs.flags, infos),
  ];
  const merged = new Map<string, SourcedValue>(sources.flatMap((source) => [...source.values]));
  const warnings = sources.flatMap((source) => source.warnings);
  const result = engineOptions.safeParse(
    Object.fromEntries([...merged].map(([key, { value }]) => [key, value])),
  );
  if (!result.success) {
    const texts = result.error.issues.map((issue) => {
      const key = String(issue.path[0] ?? "");
      const sourced = merged.get(key);
      const rest = { ...issue, path: issue.path.slice(1) };
      return `${sourced?.place ?? key}: ${describeIssues([rest])}${shown(sourced?.value, key)}`;
    });
    throw new CacheError("INVALID_CONFIG", texts.join("; "));
  }
  const origins = Object.fromEntries(
    infos.map(({ key }) => [key, merged.get(key)?.origin ?? "default"] as const),
  );
  const config = toEngineConfig(result.data, inputs.environment, warnings, merged.get("l2_adapter")?.place);
  return { config, options: result.data, origins, warnings };
}

/** The offending value, where it is short and no adapter's configuration (which may hold a secret). */
function shown(value: unknown, key: string): string {
  if (key === "l2_adapter" || (typeof value !== "string" && typeof value !== "number")) return "";
  const text = String(value);
  return text.length > 80 ? "" : ` (is ${JSON.stringify(value)})`;
}

import type { Command } from "commander";
import { resolveAdapters } from "../adapters/resolve-adapters.ts";
import { loadConfig } from "../config/load-config.ts";
import { maskSecrets } from "../config/mask.ts";
import { typedFlags } from "./config-flags.ts";
import { say, table } from "./output.ts";

/** `cache-engine config check`: what `serve` would do with the same words. Secrets are masked. */
export async function configCheck(command: Command): Promise<void> {
  const { json, config: file, ...flags } = typedFlags(command);
  const configFile = typeof file === "string" ? file : undefined;
  const loaded = await loadConfig({ flags, configFile, environment: process.env });
  const resolved = await resolveAdapters(loaded.config.l2.adapters, loaded.config.discovery);
  const warnings = [...loaded.warnings, ...resolved.warnings];
  const adapters = resolved.adapters.map(({ spec, packageName, packageVersion }) => ({
    id: spec.id,
    type: spec.type,
    package: packageName,
    version: packageVersion,
    own: maskSecrets(spec.own),
    common: spec.common,
  }));
  if (json === true) {
    const config = { ...loaded.config, l2: { ...loaded.config.l2, adapters } };
    say(
      JSON.stringify({ ok: true, config: maskSecrets(config), origins: loaded.origins, warnings }, null, 2),
    );
    return;
  }
  const rows = Object.entries(loaded.origins).map(([key, origin]) => {
    const value = maskSecrets((loaded.options as Record<string, unknown>)[key], key);
    return [key, origin, value === undefined ? "-" : JSON.stringify(value)];
  });
  say(table([["option", "from", "value"], ...rows]));
  say("");
  say(`instance: ${loaded.config.instance}`);
  say(`L1: ${loaded.config.l1.sizeBytes} bytes, pool name ${JSON.stringify(loaded.config.l1.shmName)}`);
  say(`state directory: ${loaded.config.state.directory ?? "none"}`);
  for (const adapter of adapters) {
    say(`adapter ${adapter.id}: ${adapter.package} ${adapter.version ?? ""} ${JSON.stringify(adapter.own)}`);
  }
  for (const warning of warnings) say(`warning: ${warning}`);
  say("the configuration is good");
}

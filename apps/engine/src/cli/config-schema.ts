import { listAdapters, loadAdapter } from "@cache/discovery";
import { messageOf } from "@cache/contracts";
import type { Command } from "commander";
import { discoveryOptions } from "../adapters/resolve-adapters.ts";
import { configJsonSchema, type DescribedAdapter } from "../config/json-schema.ts";
import { say } from "./output.ts";

/** `cache-engine config schema`: JSON Schema of the configuration file; with `--adapters` of the adapters' keys too. */
export async function configSchema(command: Command): Promise<void> {
  const options = command.opts<{ adapters?: true; adapterRoot?: string[]; adapterAllow?: string[] }>();
  const adapters = options.adapters === true ? await described(options) : [];
  say(JSON.stringify(configJsonSchema(adapters), null, 2));
}

/** Imports every usable adapter; one that cannot be imported is named on stderr and left out. */
async function described(options: {
  adapterRoot?: string[];
  adapterAllow?: string[];
}): Promise<DescribedAdapter[]> {
  const listing = await listAdapters(
    discoveryOptions({ roots: options.adapterRoot ?? [], allow: options.adapterAllow ?? [] }),
  );
  const usable = listing.packages.filter((found) => found.allowed && found.shadowedBy === null);
  const types = [...new Set(usable.flatMap((found) => found.types))];
  const adapters: DescribedAdapter[] = [];
  for (const type of types) {
    try {
      const { registration, package: from } = await loadAdapter(type, listing);
      adapters.push({ type, packageName: from.name, configSchema: registration.configSchema });
    } catch (error) {
      process.stderr.write(`warning: adapter type '${type}' is left out: ${messageOf(error)}\n`);
    }
  }
  return adapters;
}

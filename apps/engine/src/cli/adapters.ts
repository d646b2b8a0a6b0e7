import { type AdapterListing, type AdapterPackage, listAdapters, loadAdapter } from "@cache/discovery";
import type { Command } from "commander";
import { discoveryOptions, schemaKeys } from "../adapters/resolve-adapters.ts";
import { say, table } from "./output.ts";

/** `cache-engine adapters`: what is installed, and where was searched. Imports nothing. */
export async function listCommand(command: Command): Promise<void> {
  const listing = await list(command);
  if (command.optsWithGlobals()["json"] === true) {
    const roots = listing.roots.map(({ directory, origin }) => ({ directory, origin }));
    say(JSON.stringify({ packages: listing.packages.map(plain), roots, allow: listing.allow }, null, 2));
    return;
  }
  if (listing.packages.length === 0) {
    say("no adapter is installed; install one, e.g. `npm install @cache/l2-fs`");
  } else {
    const rows = listing.packages.map((found) => [
      found.types.join(", "),
      found.name,
      found.version ?? "-",
      remarks(found),
      found.directory,
    ]);
    say(table([["type", "package", "version", "remark", "directory"], ...rows]));
  }
  say("");
  say("searched, in this order:");
  for (const root of listing.roots) say(`  ${root.directory} (${root.origin})`);
}

async function list(command: Command): Promise<AdapterListing> {
  const options = command.optsWithGlobals<{ adapterRoot?: string[]; adapterAllow?: string[] }>();
  return await listAdapters(
    discoveryOptions({ roots: options.adapterRoot ?? [], allow: options.adapterAllow ?? [] }),
  );
}

function remarks(found: AdapterPackage): string {
  const all = [
    found.hasManifest ? null : "no manifest",
    found.problem === null ? null : `${found.problem.code}: ${found.problem.message}`,
    found.allowed ? null : "not allowed",
    found.shadowedBy === null ? null : `hidden by ${found.shadowedBy}`,
  ];
  return all.filter((text) => text !== null).join("; ") || "ok";
}

function plain(found: AdapterPackage): Record<string, unknown> {
  const { name, version, types, directory, realDirectory, hasManifest, apiVersion, allowed, shadowedBy } =
    found;
  const problem =
    found.problem === null ? null : { code: found.problem.code, message: found.problem.message };
  return {
    name,
    version,
    types,
    directory,
    realDirectory,
    hasManifest,
    apiVersion,
    allowed,
    shadowedBy,
    problem,
  };
}

interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
}

/** `cache-engine adapters show TYPE`: imports the adapter and prints the options of its schema. */
export async function showCommand(type: string, command: Command): Promise<void> {
  const loaded = await loadAdapter(type, await list(command));
  const { z } = await import("zod");
  const schema = jsonSchema(() =>
    z.toJSONSchema(loaded.registration.configSchema, { io: "input", unrepresentable: "any" }),
  );
  if (command.optsWithGlobals()["json"] === true) {
    say(
      JSON.stringify(
        { type, package: loaded.package.name, version: loaded.package.version, schema },
        null,
        2,
      ),
    );
    return;
  }
  say(`${type}: ${loaded.package.name} ${loaded.package.version ?? ""}\n`);
  const parts = schema?.anyOf ?? schema?.oneOf ?? (schema === null ? [] : [schema]);
  parts.forEach((part, index) => {
    if (parts.length > 1) say(`${index === 0 ? "either" : "or"}:`);
    const rows = Object.entries(part.properties ?? {}).map(([key, value]) => optionRow(key, value, part));
    say(table([["key", "type", "default", "meaning"], ...rows]));
  });
  if (parts.length === 0)
    say(`keys: ${schemaKeys(loaded.registration.configSchema).join(", ") || "unknown"}`);
  say("\nevery adapter also takes: id, eviction, shared, persist_enabled, affinity_tag");
}

function jsonSchema(make: () => unknown): JsonSchema | null {
  try {
    return make() as JsonSchema;
  } catch {
    // A schema of another zod version cannot be described: its keys are named instead.
    return null;
  }
}

function optionRow(key: string, value: JsonSchema, parent: JsonSchema): string[] {
  const required = parent.required?.includes(key) === true && value.default === undefined;
  const fallback = required ? "required" : value.default === undefined ? "-" : JSON.stringify(value.default);
  return [key, typeText(value), fallback, value.description ?? ""];
}

function typeText(value: JsonSchema): string {
  if (value.const !== undefined) return JSON.stringify(value.const);
  if (value.enum !== undefined) return value.enum.map((choice) => JSON.stringify(choice)).join(" | ");
  const parts = value.anyOf ?? value.oneOf;
  if (parts !== undefined) return parts.map(typeText).join(" | ");
  return typeof value.type === "string" ? value.type : (value.type?.join(" | ") ?? "any");
}

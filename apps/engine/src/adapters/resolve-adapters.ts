import { CacheError, isCacheError, messageOf, type RegisteredL2Adapter } from "@cache/contracts";
import { type AdapterListing, listAdapters, loadAdapter } from "@cache/discovery";
import type { z } from "zod";
import type { AdapterSpec, EngineConfig } from "../config/engine-config.ts";
import { describeIssues } from "../config/issues.ts";

/** A configured adapter whose package is imported and whose own keys its schema accepted. */
export interface ResolvedAdapter {
  readonly spec: AdapterSpec;
  readonly registration: RegisteredL2Adapter;
  readonly packageName: string;
  readonly packageVersion: string | null;
}

/** Where to search, and what may be imported. */
export type DiscoveryChoice = Pick<EngineConfig["discovery"], "roots" | "allow">;

/** The configured adapters in order, and what is worth a warning. */
export interface ResolvedAdapters {
  readonly adapters: readonly ResolvedAdapter[];
  /** Packages that were tried in the search for a type and could not be imported; notes of adapters. */
  readonly warnings: readonly string[];
}

/**
 * Finds and imports the package of each configured adapter and checks the adapter's own keys. Does no other I/O:
 * `registration.create(spec.own, l1)` makes the adapter.
 *
 * @throws CacheError `INVALID_CONFIG` with the adapter's number (from 1), key and fix; or an error of discovery.
 */
export async function resolveAdapters(
  specs: readonly AdapterSpec[],
  discovery: DiscoveryChoice,
): Promise<ResolvedAdapters> {
  if (specs.length === 0) return { adapters: [], warnings: [] };
  const listing = await listAdapters(discoveryOptions(discovery));
  const adapters: ResolvedAdapter[] = [];
  const warnings = new Set<string>();
  for (const [index, spec] of specs.entries()) {
    const resolved = await resolveAdapter(spec, listing, index + 1);
    for (const warning of resolved.warnings) warnings.add(warning);
    adapters.push(resolved.adapter);
  }
  return { adapters, warnings: [...warnings] };
}

/**
 * The same for one adapter.
 *
 * @param number of the adapter (from 1) for `details` of errors, where a list configures it.
 */
export async function resolveAdapter(
  spec: AdapterSpec,
  listing: AdapterListing,
  number: number | null = null,
): Promise<{ readonly adapter: ResolvedAdapter; readonly warnings: readonly string[] }> {
  const loaded = await loadAdapter(spec.type, listing).catch((error: unknown) => {
    if (!isCacheError(error)) throw error;
    throw new CacheError(error.code, `${spec.place}: ${error.message}`, {
      cause: error,
      details: error.details,
    });
  });
  checkOwnKeys(spec, loaded.registration, number);
  const { registration } = loaded;
  const { name: packageName, version: packageVersion } = loaded.package;
  return {
    adapter: { spec, registration, packageName, packageVersion },
    warnings: [
      ...loaded.failures.map((failure) => failure.message),
      ...(registration.configNotes?.(spec.own) ?? []).map((note) => `adapter ${spec.id}: ${note}`),
    ],
  };
}

/** Where this process looks for adapters. */
export function discoveryOptions(discovery: DiscoveryChoice): Parameters<typeof listAdapters>[0] {
  return {
    startDirectory: process.cwd(),
    enginePath: process.argv[1],
    only: discovery.roots,
    allow: discovery.allow,
  };
}

function checkOwnKeys(spec: AdapterSpec, registration: RegisteredL2Adapter, number: number | null): void {
  const where = `${spec.place} ('${spec.type}')`;
  const details = { ...(number === null ? {} : { adapter: number }), type: spec.type };
  let result: ReturnType<z.ZodType["safeParse"]>;
  try {
    result = registration.configSchema.safeParse(spec.own);
  } catch (error) {
    throw new CacheError("INVALID_CONFIG", `${where}: ${messageOf(error)}`, { cause: error, details });
  }
  if (result.success) return;
  const text = describeIssues(result.error.issues, schemaKeys(registration.configSchema), spec.own);
  throw new CacheError(
    "INVALID_CONFIG",
    `${where}: ${text}; see \`npx @cache/engine adapters show ${spec.type}\``,
    {
      details,
    },
  );
}

/** Names of the keys of a schema, also of a union's parts; empty where the schema has none. */
export function schemaKeys(schema: unknown): string[] {
  const def = (schema as { def?: { shape?: object; options?: unknown[]; in?: unknown; innerType?: unknown } })
    .def;
  if (def === undefined) return [];
  if (def.shape !== undefined) return Object.keys(def.shape);
  const inner = def.options ?? [def.in, def.innerType].filter((part) => part !== undefined);
  return [...new Set(inner.flatMap(schemaKeys))];
}

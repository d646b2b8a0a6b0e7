import type { z } from "zod";
import type { L2Adapter, L2AdapterFactory } from "./adapter.ts";
import { CacheError } from "./errors.ts";
import type { L1MemoryDesc } from "./memory.ts";

/** Major version of this contract. An adapter states the one that it was built for. */
export const L2_API_VERSION = 1;

/** What an adapter package registers on import. */
export interface L2AdapterRegistration<Schema extends z.ZodType = z.ZodType> {
  /** Configuration types that this registration serves, e.g. `["fs"]`. */
  readonly types: readonly string[];
  /** {@link L2_API_VERSION} of the contract that the package was built for. */
  readonly apiVersion: number;
  /** The package that registers, for messages: its `name` in package.json. */
  readonly packageName: string;
  /**
   * Checks the adapter's own keys. The engine has taken the common keys out before (`type`, `id`, `eviction`,
   * …), so any schema will do: strict, a union. Each field has a description.
   */
  readonly configSchema: Schema;
  /**
   * What is worth telling about a configuration that is good, e.g. a key that has no effect here; without secrets.
   * `config check` and a start of the engine show it as a warning. Default: nothing.
   */
  readonly configNotes?: ((config: z.output<Schema>) => readonly string[]) | undefined;
  readonly create: L2AdapterFactory<z.output<Schema>>;
}

/** A registration as the engine uses it: parsing happens inside, so that no caller casts. */
export interface RegisteredL2Adapter {
  readonly type: string;
  readonly types: readonly string[];
  readonly apiVersion: number;
  readonly packageName: string;
  readonly configSchema: z.ZodType;
  /**
   * What is worth telling about a configuration. Absent where an older copy of this package registered the adapter.
   *
   * @throws the schema's `ZodError`.
   */
  readonly configNotes?: (rawConfig: unknown) => readonly string[];
  /**
   * Checks `rawConfig` and makes the adapter.
   *
   * @throws the schema's `ZodError`; the engine turns it into `INVALID_CONFIG`.
   */
  create(rawConfig: unknown, l1: L1MemoryDesc): L2Adapter;
}

// One registry a process and major version, whichever copy of this package an adapter brings along.
const REGISTRY = Symbol.for(`@cache/contracts/l2-registry@${L2_API_VERSION}`);
type GlobalWithRegistry = { [REGISTRY]?: Map<string, RegisteredL2Adapter> };

function registry(): Map<string, RegisteredL2Adapter> {
  const holder = globalThis as GlobalWithRegistry;
  holder[REGISTRY] ??= new Map();
  return holder[REGISTRY];
}

/** Types are lower-case words; a dot would be read as `{type}.{instance}`. */
const TYPE_GRAMMAR = /^[a-z0-9][a-z0-9_-]*$/;

/**
 * Registers configuration type and factory together, so that they cannot disagree. Call it once, on import.
 *
 * @throws CacheError `ADAPTER_TYPE_CONFLICT` naming both packages if a type is taken,
 *   `ADAPTER_API_INCOMPATIBLE` for another `apiVersion`, `INVALID_ARGUMENT` for a malformed type or one named twice.
 */
export function registerL2Adapter<Schema extends z.ZodType>(
  registration: L2AdapterRegistration<Schema>,
): void {
  const { types, apiVersion, packageName, configSchema, configNotes, create } = registration;
  if (apiVersion !== L2_API_VERSION) {
    throw new CacheError(
      "ADAPTER_API_INCOMPATIBLE",
      `package ${packageName} was built for adapter API ${apiVersion}, this engine has ${L2_API_VERSION}; install a matching version of the package`,
      { details: { packageName, apiVersion } },
    );
  }
  if (types.length === 0) {
    throw new CacheError("INVALID_ARGUMENT", `package ${packageName} registers no type; name at least one`);
  }
  if (new Set(types).size !== types.length) {
    throw new CacheError(
      "INVALID_ARGUMENT",
      `package ${packageName} names a type twice in one registration (${types.join(", ")}); name each once`,
    );
  }
  for (const type of types) {
    if (!TYPE_GRAMMAR.test(type)) {
      throw new CacheError(
        "INVALID_ARGUMENT",
        `package ${packageName} registers the type ${JSON.stringify(type)}; use lower-case letters, digits, '_' and '-'`,
      );
    }
    const holder = registry().get(type);
    if (holder !== undefined) {
      throw new CacheError(
        "ADAPTER_TYPE_CONFLICT",
        `adapter type '${type}' is registered by ${holder.packageName} and again by ${packageName}; uninstall one of them`,
        { details: { type, packages: [holder.packageName, packageName] } },
      );
    }
  }
  for (const type of types) {
    registry().set(type, {
      type,
      types: [...types],
      apiVersion,
      packageName,
      configSchema,
      configNotes: (rawConfig) => configNotes?.(configSchema.parse(rawConfig)) ?? [],
      create: (rawConfig, l1) => create(configSchema.parse(rawConfig), l1),
    });
  }
}

/** The registration of a type, undefined if no imported package registered it. */
export function getRegisteredL2Adapter(type: string): RegisteredL2Adapter | undefined {
  return registry().get(type);
}

/** All registrations, sorted by type. */
export function listRegisteredL2Adapters(): RegisteredL2Adapter[] {
  return [...registry().values()].sort((a, b) => (a.type < b.type ? -1 : 1));
}

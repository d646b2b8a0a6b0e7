import { z } from "zod";
import { commonKeys } from "./adapter-spec.ts";
import { FOREIGN_FLAGS, type ForeignFlag } from "./lmcache-flags.ts";
import { engineOptions, optionInfos } from "./options.ts";

/** A JSON Schema of draft 7, the one that editors' YAML and JSON support understands best. */
export interface JsonSchema {
  [keyword: string]: unknown;
  properties?: Record<string, JsonSchema>;
  required?: string[];
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
}

/** An installed adapter whose own keys the schema of the file shall check. */
export interface DescribedAdapter {
  readonly type: string;
  readonly packageName: string;
  readonly configSchema: z.ZodType;
}

/**
 * The JSON Schema of the file that `--config` names, for editors.
 *
 * @param adapters their keys are checked in `l2_adapter`; an empty list leaves the adapters' own keys open.
 */
export function configJsonSchema(adapters: readonly DescribedAdapter[]): JsonSchema {
  const schema = toJsonSchema(engineOptions);
  const properties: Record<string, JsonSchema> = { ...schema.properties };
  for (const { key, kind } of optionInfos()) {
    const property = properties[key];
    if (property === undefined) continue;
    if (key === "l2_adapter") property.items = adapterItems(adapters);
    // A file may have the one value in place of a list of one.
    if (kind === "list" || kind === "json-list") {
      const { description, default: fallback, ...list } = property;
      properties[key] = { description, default: fallback, anyOf: [list, list.items ?? {}] };
    }
  }
  for (const flag of FOREIGN_FLAGS) {
    const property = foreignProperty(flag);
    if (property !== null) properties[flag.key] = property;
  }
  return { ...schema, title: "Configuration of @cache/engine", properties };
}

/** What may stand for an option of `lmcache server` that has no effect here; null: nothing may. */
function foreignProperty({ action, harmless, reason, values }: ForeignFlag): JsonSchema | null {
  if (action !== "refused")
    return { description: `of lmcache server, without effect: ${reason}`, deprecated: true };
  const allowed: unknown[] = [...harmless, ...(values === "none" ? [false] : [])];
  return allowed.length === 0 ? null : { description: `of lmcache server: ${reason}`, enum: allowed };
}

function adapterItems(adapters: readonly DescribedAdapter[]): JsonSchema {
  const common = toJsonSchema(commonKeys);
  delete common["$schema"];
  delete common["additionalProperties"];
  common.required = ["type"];
  if (adapters.length === 0) return common;
  const rules = adapters.map((adapter) => ({
    if: { properties: { type: { const: adapter.type } } },
    // Both stand in one object: the common keys are none of the adapter's, whose schema may forbid what it lacks.
    // oxlint-disable-next-line unicorn/no-thenable -- the keyword of JSON Schema
    then: withCommonKeys(adapter, common),
  }));
  const types = adapters.map(({ type }) => type);
  const type = { ...common.properties?.["type"], enum: types };
  return { ...common, properties: { ...common.properties, type }, allOf: rules };
}

function withCommonKeys(adapter: DescribedAdapter, common: JsonSchema): JsonSchema {
  const open = { description: `${adapter.packageName}; its schema cannot be described` };
  let own: JsonSchema;
  try {
    own = toJsonSchema(adapter.configSchema);
  } catch {
    // A schema of another zod version: its keys stay unchecked, as without the adapter.
    return open;
  }
  delete own["$schema"];
  const merge = (part: JsonSchema): JsonSchema =>
    part.properties === undefined
      ? part
      : { ...part, properties: { ...commonNames(common), ...part.properties } };
  const parts = own.anyOf ?? own.oneOf;
  const merged = parts === undefined ? merge(own) : { anyOf: parts.map(merge) };
  return { description: adapter.packageName, ...merged };
}

/** The common keys are checked beside: here they are only allowed. */
function commonNames(common: JsonSchema): Record<string, JsonSchema> {
  return Object.fromEntries(Object.keys(common.properties ?? {}).map((key) => [key, {}]));
}

function toJsonSchema(schema: z.ZodType): JsonSchema {
  const made = z.toJSONSchema(schema, { io: "input", unrepresentable: "any", target: "draft-7" });
  return structuredClone(made) as JsonSchema;
}

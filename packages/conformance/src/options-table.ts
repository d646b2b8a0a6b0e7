import { z } from "zod";

interface OptionSchema {
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly anyOf?: readonly OptionSchema[];
  readonly default?: unknown;
  readonly description?: string;
  readonly minimum?: number;
  readonly exclusiveMinimum?: number;
  readonly maximum?: number;
  readonly exclusiveMaximum?: number;
}

function typeOf(option: OptionSchema): string {
  if (option.const !== undefined) return JSON.stringify(option.const);
  if (option.enum !== undefined) return option.enum.map((value) => JSON.stringify(value)).join(" \\| ");
  if (option.anyOf !== undefined) return option.anyOf.map(typeOf).join(" \\| ");
  const { minimum, exclusiveMinimum, maximum, exclusiveMaximum } = option;
  const bounds = [
    minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER ? `>= ${minimum}` : null,
    exclusiveMinimum === undefined ? null : `> ${exclusiveMinimum}`,
    maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER ? `<= ${maximum}` : null,
    exclusiveMaximum === undefined ? null : `< ${exclusiveMaximum}`,
  ].filter((bound) => bound !== null);
  const name = typeof option.type === "string" ? option.type : (option.type ?? ["any"]).join(" \\| ");
  return bounds.length === 0 ? name : `${name} ${bounds.join(", ")}`;
}

/**
 * The options of an adapter as a Markdown table, from its schema: name, type with bounds, default, description.
 * A README holds it verbatim and a test compares both.
 *
 * @throws TypeError when the schema is not an object, or a field has no description.
 */
export function renderOptionsTable(schema: z.ZodType): string {
  const json = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as {
    readonly properties?: Readonly<Record<string, OptionSchema>>;
    readonly required?: readonly string[];
  };
  if (json.properties === undefined) throw new TypeError("an options table needs an object schema");
  const rows = Object.entries(json.properties).map(([name, option]) => {
    if (option.description === undefined) throw new TypeError(`option ${name} has no description`);
    const required = json.required?.includes(name) ?? false;
    const fallback = option.default === undefined ? "" : `\`${JSON.stringify(option.default)}\``;
    const text = option.description.replaceAll("|", "\\|").replaceAll("\n", " ");
    return `| \`${name}\` | ${typeOf(option)} | ${required ? "required" : fallback} | ${text} |`;
  });
  return ["| Option | Type | Default | Meaning |", "|---|---|---|---|", ...rows].join("\n");
}

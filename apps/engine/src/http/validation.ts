import type { z } from "zod";
import { json, type Reply } from "./route.ts";

/** One fault of a request, as LMCache's clients know it (FastAPI's shape). */
export interface Fault {
  readonly type: string;
  readonly loc: readonly (string | number)[];
  readonly msg: string;
  readonly input: unknown;
}

/** A checked value, or the 422 to answer. */
export type Checked<T> = { readonly value: T } | { readonly refused: Reply };

/** Deepest nesting of a JSON body. What is deeper than some thousands could not be written into a reply again. */
const NESTING_MAX = 64;

function isNestedDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => isNestedDeeper(inner, levels - 1));
}

/** The 422 of faults. */
function unprocessable(...faults: readonly Fault[]): Reply {
  return json(422, { detail: faults });
}

/**
 * Reads and checks a JSON body. `optional`: none at all counts as `{}`.
 *
 * @param where begins the place of each fault; the reference's reconfigure routes leave it out.
 */
export function checkBody<T>(
  schema: z.ZodType<T>,
  text: string,
  options: {
    readonly optional?: boolean;
    readonly where?: readonly string[];
    readonly notAnObject?: string;
  } = {},
): Checked<T> {
  if (text.trim() === "") {
    if (options.optional === true) return check(schema, {}, ["body"]);
    return { refused: unprocessable({ type: "missing", loc: ["body"], msg: "Field required", input: null }) };
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const place = Number(/position (\d+)/.exec(String(error))?.[1] ?? 0);
    return {
      refused: unprocessable({
        type: "json_invalid",
        loc: ["body", place],
        msg: "JSON decode error",
        input: {},
      }),
    };
  }
  if (isNestedDeeper(value, NESTING_MAX)) {
    const msg = `JSON is nested deeper than ${NESTING_MAX} levels`;
    return { refused: unprocessable({ type: "json_invalid", loc: ["body", 0], msg, input: {} }) };
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const type = options.notAnObject ?? "dataclass_type";
    return {
      refused: unprocessable({ type, loc: ["body"], msg: "Input should be a dictionary", input: value }),
    };
  }
  return check(schema, value, options.where ?? ["body"]);
}

/** Checks query parameters; repeated ones count once, the last. */
export function checkQuery<T>(schema: z.ZodType<T>, query: URLSearchParams): Checked<T> {
  return check(schema, Object.fromEntries(query), ["query"]);
}

function check<T>(schema: z.ZodType<T>, input: unknown, where: readonly string[]): Checked<T> {
  const result = schema.safeParse(input, { reportInput: true });
  if (result.success) return { value: result.data };
  const faults = result.error.issues.flatMap((issue) => faultsOf(issue, input, where));
  return { refused: unprocessable(...faults) };
}

function faultsOf(issue: z.core.$ZodIssue, input: unknown, where: readonly string[]): Fault[] {
  const path = issue.path.map((part) => (typeof part === "number" ? part : String(part)));
  const loc = [...where, ...path];
  const value = valueAt(input, path);
  const fault = (type: string, msg: string): Fault[] => [{ type, loc, msg, input: value }];
  switch (issue.code) {
    case "invalid_type": {
      if (value === undefined)
        return [{ type: "missing", loc, msg: "Field required", input: valueAt(input, path.slice(0, -1)) }];
      const [type, msg] = wrongType(issue.expected, value);
      return fault(type, msg);
    }
    case "invalid_value":
      return fault("enum", `Input should be ${alternatives(issue.values.map((one) => `'${String(one)}'`))}`);
    case "too_small":
      return fault("greater_than_equal", `Input should be greater than or equal to ${issue.minimum}`);
    case "too_big":
      return fault("less_than_equal", `Input should be less than or equal to ${issue.maximum}`);
    case "unrecognized_keys":
      return issue.keys.map((key) => ({
        type: "extra_forbidden",
        loc: [...loc, key],
        msg: "Extra inputs are not permitted",
        input: (value as Record<string, unknown>)[key],
      }));
    case "invalid_union":
      return [
        { type: "int_type", loc: [...loc, "int"], msg: "Input should be a valid integer", input: value },
        { type: "string_type", loc: [...loc, "str"], msg: "Input should be a valid string", input: value },
      ];
    default:
      return fault("value_error", issue.message);
  }
}

function wrongType(expected: string, value: unknown): [type: string, msg: string] {
  const parsed = typeof value === "string";
  switch (expected) {
    case "int":
    case "number":
      return parsed
        ? ["int_parsing", "Input should be a valid integer, unable to parse string as an integer"]
        : ["int_type", "Input should be a valid integer"];
    case "boolean":
      return parsed
        ? ["bool_parsing", "Input should be a valid boolean, unable to interpret input"]
        : ["bool_type", "Input should be a valid boolean"];
    case "array":
      return ["list_type", "Input should be a valid list"];
    case "string":
      return ["string_type", "Input should be a valid string"];
    default:
      return ["dataclass_type", "Input should be a dictionary"];
  }
}

function alternatives(texts: readonly string[]): string {
  return texts.length < 2 ? texts.join("") : `${texts.slice(0, -1).join(", ")} or ${texts.at(-1)}`;
}

function valueAt(input: unknown, path: readonly (string | number)[]): unknown {
  let value = input;
  for (const part of path) value = (value as Record<string | number, unknown> | undefined)?.[part];
  return value;
}

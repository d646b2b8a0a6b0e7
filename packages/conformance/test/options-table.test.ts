import { expect, test } from "vitest";
import { z } from "zod";
import { renderOptionsTable } from "../src/index.ts";

test("the table has a row for each field, with bounds, default and description", () => {
  const schema = z.strictObject({
    path: z.string().describe("Where"),
    size_gb: z.number().positive().describe("How much"),
    mode: z.enum(["a", "b"]).default("a").describe("a | b"),
    retries: z.number().int().min(0).max(9).optional().describe("How often"),
  });
  expect(renderOptionsTable(schema).split("\n")).toEqual([
    "| Option | Type | Default | Meaning |",
    "|---|---|---|---|",
    "| `path` | string | required | Where |",
    "| `size_gb` | number > 0 | required | How much |",
    '| `mode` | "a" \\| "b" | `"a"` | a \\| b |',
    "| `retries` | integer >= 0, <= 9 |  | How often |",
  ]);
});

test("a field without a description, or no object, is refused", () => {
  expect(() => renderOptionsTable(z.strictObject({ path: z.string() }))).toThrow(/path has no description/);
  expect(() => renderOptionsTable(z.string())).toThrow(TypeError);
});

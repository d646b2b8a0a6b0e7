import { strict as assert } from "node:assert";
import { z } from "zod";

/** An invalid configuration: all of it, the option that the complaint is about, and what the complaint says. */
export type InvalidConfig = readonly [
  options: Readonly<Record<string, unknown>>,
  option: string,
  message: RegExp,
];

/** Options of {@link configCases}. */
export interface ConfigCasesOptions {
  /** How your runner declares a test: vitest's or node:test's `test`. */
  readonly test: (name: string, run: () => void) => unknown;
  /** The schema of the adapter's own options. */
  readonly schema: z.ZodType;
  /** A configuration that is good. */
  readonly valid: Readonly<Record<string, unknown>>;
  /** Configurations that are not: at least one for each option of the schema. */
  readonly invalid: readonly InvalidConfig[];
}

/**
 * Declares a test for each invalid configuration: the complaint is about the option, names it, and says what the
 * pattern wants, which is how to put it right. Two more require that an unknown option is refused by its name, and
 * that no option of the schema is without an invalid configuration.
 */
export function configCases({ test, schema, valid, invalid }: ConfigCasesOptions): void {
  for (const [options, option, message] of invalid) {
    test(`${JSON.stringify(options)} is refused with ${option} and remedy`, () => {
      const issues = issuesOf(schema, options);
      assert.ok(issues.length > 0, "the configuration was taken");
      const own = issues.filter(({ path }) => path[0] === option).map((issue) => issue.message);
      const all = issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`).join("; ");
      assert.ok(own.length > 0, `no complaint is about ${option}: ${all}`);
      assert.ok(
        own.some((text) => message.test(text)),
        `no complaint about ${option} matches ${message}: ${own.join("; ")}`,
      );
      for (const text of own)
        assert.ok(text.includes(option), `the complaint does not name ${option}: ${text}`);
    });
  }
  test("an option that there is not is refused by its name", () => {
    assert.deepEqual(issuesOf(schema, valid), [], "the good configuration was refused");
    const messages = issuesOf(schema, { ...valid, no_such_option: 1 }).map((issue) => issue.message);
    assert.ok(
      messages.some((text) => text.includes("no_such_option")),
      `an unknown option was taken, or refused without its name: ${messages.join("; ")}`,
    );
  });
  test("each option has an invalid configuration", () => {
    const tried = new Set(invalid.map(([, option]) => option));
    const known = optionsOf(schema);
    assert.deepEqual(
      known.filter((option) => !tried.has(option)),
      [],
      "options without an invalid configuration",
    );
    const unknown = [...tried].filter((option) => !known.includes(option));
    assert.deepEqual(unknown, [], "options that the schema has not");
  });
}

function issuesOf(schema: z.ZodType, options: Readonly<Record<string, unknown>>): z.core.$ZodIssue[] {
  const parsed = schema.safeParse(options);
  return parsed.success ? [] : parsed.error.issues;
}

function optionsOf(schema: z.ZodType): string[] {
  const { properties } = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" });
  assert.ok(properties !== undefined, "the schema is no object");
  return Object.keys(properties);
}

import { expect, test } from "vitest";
import { z } from "zod";
import { configCases, type InvalidConfig } from "../src/index.ts";

const positive = "size must be a number above 0";
const schema = z.strictObject({
  size: z.number({ error: positive }).positive({ error: positive }),
  name: z.string({ error: "must be text" }).default(""),
});

/** Names of the tests that fail, with why. */
function failures(invalid: readonly InvalidConfig[], of: z.ZodType = schema): Map<string, string> {
  const failed = new Map<string, string>();
  const declare = (name: string, run: () => void): void => {
    try {
      run();
    } catch (error) {
      failed.set(name, (error as Error).message);
    }
  };
  configCases({ test: declare, schema: of, valid: { size: 1 }, invalid });
  return failed;
}

const whole = z.strictObject({ size: z.number({ error: positive }).positive({ error: positive }) });

test("good cases pass", () => {
  expect([...failures([[{ size: 0 }, "size", /above 0/]], whole)]).toEqual([]);
});

test.each<[string, InvalidConfig, RegExp]>([
  ["a configuration that is good", [{ size: 1 }, "size", /above/], /was taken/],
  ["a complaint about another option", [{ size: 0 }, "name", /above/], /no complaint is about name: size/],
  ["another text", [{ size: 0 }, "size", /below/], /matches \/below\/: size must be/],
  ["a text without the option", [{ size: 1, name: 1 }, "name", /text/], /does not name name: must be text/],
])("%s is seen", (_, invalid, message) => {
  const failed = failures([invalid]);
  expect(failed.get(`${JSON.stringify(invalid[0])} is refused with ${invalid[1]} and remedy`)).toMatch(
    message,
  );
});

test("an option without a case is seen, and a case for no option", () => {
  const name = "each option has an invalid configuration";
  expect(failures([[{ size: 0 }, "size", /above/]]).get(name)).toMatch(
    /options without an invalid configuration/,
  );
  expect(failures([[{ size: 0 }, "sise", /above/]], whole).get(name)).toBeDefined();
});

test("a schema that takes unknown options is seen", () => {
  const loose = z.looseObject({ size: z.number({ error: positive }).positive({ error: positive }) });
  const failed = failures([[{ size: 0 }, "size", /above/]], loose);
  expect([...failed.keys()]).toEqual(["an option that there is not is refused by its name"]);
});

import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { EVENT_DEFINITIONS } from "../../src/events/definitions.ts";

const PAGE = readFileSync(new URL("../../../../docs/reference/events.md", import.meta.url), "utf8");

/** Rows of the table of events: name, code, version, fields, meaning. */
function documented(): string[][] {
  return PAGE.split("\n")
    .filter((line) => line.startsWith("| `"))
    .map((line) =>
      line
        .split("|")
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}

it("docs/reference/events.md and EVENT_DEFINITIONS say the same, in both directions", () => {
  const defined = Object.entries(EVENT_DEFINITIONS).map(([type, { code, version, fields, meaning }]) => [
    `\`${type}\``,
    String(code),
    String(version),
    Object.entries(fields)
      .map(([name, kind]) => `\`${name}\` ${kind}`)
      .join(", "),
    meaning,
  ]);
  expect(documented()).toEqual(defined);
});

import { readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { FOREIGN_FLAGS } from "../src/config/lmcache-flags.ts";
import { optionInfos } from "../src/config/options.ts";

const PAGE = new URL("../../../docs/reference/config.md", import.meta.url);

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head), `|${"---|".repeat(head.length)}`, ...rows.map(line)].join("\n");
}

const TABLES: Readonly<Record<string, string>> = {
  options: table(
    ["option", "default", "meaning"],
    optionInfos().map(({ key, defaultValue, description, choices }) => [
      `\`${key}\``,
      defaultValue === undefined ? "-" : `\`${JSON.stringify(defaultValue)}\``,
      choices.length === 0 ? description : `${description} (${choices.join(", ")})`,
    ]),
  ),
  foreign: table(
    ["flag", "what happens", "why"],
    FOREIGN_FLAGS.map(({ key, action, reason, harmless }) => [
      `\`--${key.replaceAll("_", "-")}\``,
      `${action}${harmless.length === 0 ? "" : `, except \`${harmless.join("`, `")}\``}`,
      reason,
    ]),
  ),
};

// `UPDATE_DOCS=1 npx vitest run apps/engine/test/config-docs.test.ts` writes the tables anew.
test.each(Object.entries(TABLES))(
  "docs/reference/config.md has the table of %s as it is in the code",
  (name, wanted) => {
    const text = readFileSync(PAGE, "utf8");
    const block = new RegExp(`<!-- ${name}:begin -->\\n([\\s\\S]*?)\\n?<!-- ${name}:end -->`);
    if (process.env["UPDATE_DOCS"] === "1") {
      writeFileSync(
        PAGE,
        text.replace(block, () => `<!-- ${name}:begin -->\n${wanted}\n<!-- ${name}:end -->`),
      );
      return;
    }
    expect(block.exec(text)?.[1]).toBe(wanted);
  },
);

import { readFileSync, writeFileSync } from "node:fs";
import { Command } from "commander";
import { expect, test } from "vitest";
import { addConfigFlags } from "../src/cli/config-flags.ts";
import { program } from "../src/cli/program.ts";

const PAGE = new URL("../../../docs/reference/cli.md", import.meta.url);
/** These flags have a page of their own. */
const CONFIG_FLAGS = new Set(addConfigFlags(new Command()).options.map((option) => option.long));

function pathOf(command: Command): string {
  return command.parent === null ? "" : `${pathOf(command.parent)} ${command.name()}`.trim();
}

/** Commands that do something, in the order of `--help`. */
function leaves(command: Command): Command[] {
  const own = command.commands.length === 0 || command.name() === "adapters" ? [command] : [];
  return [...own, ...command.commands.flatMap(leaves)];
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

function section(command: Command): string {
  const words = command.registeredArguments.map((argument) => argument.name().toUpperCase());
  const title = [pathOf(command), ...words].join(" ");
  const takesConfig = command.options.some((option) => option.long === "--config");
  const rows = command.options
    .filter((option) => !option.hidden && !(takesConfig && CONFIG_FLAGS.has(option.long)))
    .map((option) => {
      const fallback = typeof option.defaultValue === "string" ? ` (default \`${option.defaultValue}\`)` : "";
      const choices = option.argChoices === undefined ? "" : `: ${option.argChoices.join(", ")}`;
      return `| \`${option.flags}\` | ${`${option.description}${choices}${fallback}`.replaceAll("|", "\\|")} |`;
    });
  const table = rows.length === 0 ? [] : ["", "| flag | meaning |", "|---|---|", ...rows];
  return [`## \`${title}\``, "", sentence(command.description()), ...table].join("\n");
}

async function wanted(): Promise<string> {
  const sections: string[] = [];
  // Each command adds its flags only where the words name it.
  const names = leaves(await program([])).map(pathOf);
  for (const name of names) {
    const all = leaves(await program(name.split(" ")));
    sections.push(section(all.find((command) => pathOf(command) === name)!));
  }
  return sections.join("\n\n");
}

// `UPDATE_DOCS=1 npx vitest run apps/engine/test/cli-docs.test.ts` writes the page anew.
test("docs/reference/cli.md has every command and flag as the program has them", async () => {
  const text = readFileSync(PAGE, "utf8");
  const block = /<!-- commands:begin -->\n([\s\S]*?)\n?<!-- commands:end -->/;
  const commands = await wanted();
  if (process.env["UPDATE_DOCS"] === "1") {
    writeFileSync(
      PAGE,
      text.replace(block, () => `<!-- commands:begin -->\n${commands}\n<!-- commands:end -->`),
    );
    return;
  }
  expect(block.exec(text)?.[1]).toBe(commands);
});

test("every command that prints for people has --json", async () => {
  const without = [];
  for (const name of leaves(await program([])).map(pathOf)) {
    const command = leaves(await program(name.split(" "))).find((found) => pathOf(found) === name)!;
    if (!command.options.some((option) => option.long === "--json")) without.push(name);
  }
  // `serve` logs JSON lines; a JSON Schema is JSON.
  expect(without).toEqual(["serve", "config schema"]);
});

import { relative, resolve } from "node:path";
import { parseArgs } from "node:util";
import { createPackage } from "./create-package.ts";

const USAGE = `usage: npm create cache-l2 NAME [-- --directory PATH]

Makes a package cache-l2-NAME: an L2 adapter for @cache/engine with its tests, green at once.
NAME: lower-case letters, digits, '-' and '_'; @you/NAME for a scope of yours.
`;

const LINKED = `package.json leads to this clone's packages, which must be built (npm run build there). Before you publish
put versions in place of each "file:…".
`;

/** Does what the arguments ask for: the exit code, and what to print. */
export function run(words: readonly string[]): { readonly code: number; readonly text: string } {
  try {
    const { values, positionals } = parseArgs({
      args: [...words],
      allowPositionals: true,
      options: { directory: { type: "string" }, help: { type: "boolean" } },
    });
    const [name] = positionals;
    if (values.help === true) return { code: 0, text: USAGE };
    if (name === undefined || positionals.length > 1) return { code: 2, text: USAGE };
    const directory = values.directory === undefined ? undefined : resolve(values.directory);
    const made = createPackage(name, directory);
    const place = relative(process.cwd(), made.directory) || ".";
    const text = [
      `${made.names.packageName}: ${made.files.length} files in ${place}`,
      "",
      "  src/store.ts    a Map: put your store in its place",
      "  src/config.ts   what a user configures",
      "  src/adapter.ts  what the adapter promises",
      "",
      `  cd ${place} && npm install && npm test`,
      "",
      ...(made.linked ? [LINKED] : []),
    ].join("\n");
    return { code: 0, text };
  } catch (error) {
    return { code: 2, text: `create-cache-l2: ${(error as Error).message}\n` };
  }
}

/** The program. */
export function main(words: readonly string[]): void {
  const { code, text } = run(words);
  (code === 0 ? process.stdout : process.stderr).write(text);
  process.exitCode = code;
}

// The code of the tutorial: what its reader types, taken out of the text. Its test and the publishing check run it.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
/** Where the tutorial has its server; who runs it takes a port that is free. */
const DEPOT_URL = "http://127.0.0.1:8123/";

/** The tutorial's fenced blocks: `language`, `file` (the file that a block is, or null), `run` (commands), `text`. */
export function tutorialBlocks(root = ROOT) {
  const markdown = readFileSync(join(root, "docs", "tutorial", "write-an-l2-adapter.md"), "utf8");
  return [...markdown.matchAll(/^(`{3,})(\w+)(?: (.*))?\n([\s\S]*?)^\1$/gm)].map(
    ([, , language, info = "", text]) => ({
      language,
      file: /^file=(\S+)$/.exec(info)?.[1] ?? null,
      run: info === "run",
      text,
    }),
  );
}

/** Writes every file of the tutorial into a new package. Returns the commands that it has run as they stand. */
export function followTutorial(directory, root = ROOT) {
  const blocks = tutorialBlocks(root);
  for (const { file, text } of blocks) {
    if (file === null) continue;
    mkdirSync(dirname(join(directory, file)), { recursive: true });
    writeFileSync(join(directory, file), text);
  }
  return blocks.filter(({ run }) => run).map(({ text }) => text.trim());
}

/** Lets `npm run report` in a package made with the tutorial ask a server at `url`. */
export function reportTo(directory, url) {
  const file = join(directory, "conformance.json");
  const text = readFileSync(file, "utf8");
  if (!text.includes(DEPOT_URL)) throw new Error(`the tutorial's server is not at ${DEPOT_URL} any more`);
  writeFileSync(file, text.replace(DEPOT_URL, url));
}

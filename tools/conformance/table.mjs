#!/usr/bin/env node
/**
 * The laws of the adapter contract against every adapter of this repository, as one table in Markdown.
 *
 *   node tools/conformance/table.mjs [--json] [--output FILE] [test file or folder…]
 *
 * Runs each test below `packages` that calls `l2AdapterSuite` (or those named), and puts a column for each suite. What
 * was skipped stands below the table with the capability that excused it; a suite that did not run (no redis-server)
 * is listed and fails the command. Adding a column: CONTRIBUTING.md.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { renderTable } from "./render-table.mjs";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..", "..");
const { values: options, positionals } = parseArgs({
  options: { json: { type: "boolean", default: false }, output: { type: "string" } },
  allowPositionals: true,
});

/** Tests of adapters: those of the suite itself try adapters that are wrong on purpose. */
function suiteFiles() {
  const folders = readdirSync(join(root, "packages")).filter((name) => name !== "conformance");
  return folders.flatMap((folder) => {
    const test = join(root, "packages", folder, "test");
    let names = [];
    try {
      names = readdirSync(test, { recursive: true });
    } catch {
      return []; // a package without tests
    }
    return names
      .map(String)
      .filter((name) => name.endsWith(".test.ts"))
      .map((name) => join(test, name))
      .filter((path) => readFileSync(path, "utf8").includes("l2AdapterSuite("));
  });
}

const results = mkdtempSync(join(tmpdir(), "cache-conformance-table-"));
try {
  const files = positionals.length > 0 ? positionals : suiteFiles();
  const ran = spawnSync("npx", ["vitest", "run", "--reporter=dot", ...files], {
    cwd: root,
    stdio: ["ignore", 2, 2], // the table alone is on stdout
    env: { ...process.env, CACHE_CONFORMANCE_RESULTS: results },
  });
  const suites = readdirSync(results)
    .map((name) => JSON.parse(readFileSync(join(results, name), "utf8")))
    .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.began - b.began));
  const text = options.json ? JSON.stringify({ suites }, null, 2) : renderTable(suites);
  if (options.output !== undefined) writeFileSync(options.output, `${text}\n`);
  process.stdout.write(`${text}\n`);
  const bad = suites.filter(({ laws }) => laws === null || laws.some(({ outcome }) => outcome === "failed"));
  if (suites.length === 0)
    process.stderr.write("no suite has run: build first, and look at what vitest says\n");
  process.exitCode = ran.status !== 0 || bad.length > 0 || suites.length === 0 ? 1 : 0;
} finally {
  rmSync(results, { recursive: true, force: true });
}

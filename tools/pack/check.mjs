#!/usr/bin/env node
/**
 * Packs every public package and uses the tarballs as their users would: `npm run check:pack -- [--peers DIR]
 * [--only STORY]… [--list] [--keep]`. The registry is asked for third-party packages; ours come from the tarballs.
 *
 * `--peers DIR` (or CACHE_PEERS_DIR) has the real LMCache, as tools/peers/setup.sh makes it: its client then drives
 * each engine. `--keep` leaves the folders. A line a check, `ok`, `FAIL` or `skip`; exit code 3 if a check failed.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { build, install } from "../dev/lib.mjs";
import { findings, staleOutputs } from "./contents.mjs";
import { lint } from "./lint.mjs";
import { packAll } from "./pack.mjs";
import { makeMachine } from "./place.mjs";
import { findPeers } from "./engine.mjs";
import { serveScope } from "./registry.mjs";
import { report } from "./report.mjs";
import { stories } from "./stories.mjs";

const { values: options } = parseArgs({
  options: {
    peers: { type: "string" },
    only: { type: "string", multiple: true, default: [] },
    list: { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
  },
});
const names = ["contents", "lint", ...Object.keys(stories)];
if (options.list) {
  console.log(names.join("\n"));
  process.exit(0);
}
const unknown = options.only.filter((name) => !names.includes(name));
if (unknown.length > 0) {
  console.error(`no story named ${unknown.join(", ")}; there are: ${names.join(", ")}`);
  process.exit(2);
}
const wanted = (name) => options.only.length === 0 || options.only.includes(name);
const peers = findPeers(options.peers || process.env.CACHE_PEERS_DIR);

const directory = mkdtempSync(join(tmpdir(), "cache-pack-"));
process.on("exit", () => {
  if (options.keep) console.log(`kept: ${directory}`);
  else rmSync(directory, { recursive: true, force: true });
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(130));

install();
build();
const packed = packAll(directory);
report.note(
  `packed ${packed.map(({ tarball, size }) => `${basename(tarball)} ${Math.ceil(size / 1024)} KiB`).join(", ")}`,
);
if (wanted("contents")) contents();
if (wanted("lint")) await lint(packed);

const machine = makeMachine(directory);
const scope = await serveScope(packed);
try {
  const shop = { packed, machine, scope, peers };
  for (const [name, story] of Object.entries(stories)) {
    if (!wanted(name)) continue;
    console.log(`\n== ${name}`);
    try {
      await story(shop);
    } catch (error) {
      report.check(name, false, error instanceof Error ? error.message : String(error));
    }
  }
} finally {
  scope.close();
}
report.close();

function contents() {
  for (const found of packed) {
    const wrong = [...findings(found, packed), ...staleOutputs(found)];
    report.check(`${found.name}: contents and manifest`, wrong.length === 0, wrong.join("; "));
  }
}

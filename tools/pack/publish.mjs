#!/usr/bin/env node
/**
 * Sets versions and publishes, to a registry of its own, from a copy of the working tree; writes an adapter with the
 * tutorial, from `npm create` to `npm publish`; then installs what was published and serves from it: `node tools/pack/publish.mjs [--peers DIR] [--keep]`. Lines, exit code and options as check.mjs.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { DEPOT, publishDepot, publishScoped, SCOPED, startDepot } from "./author.mjs";
import { findings } from "./contents.mjs";
import { changesOfTheTree, copyRepository } from "./copy.mjs";
import { findPeers } from "./engine.mjs";
import { pinnedPnpm, publicPackages, readTarball } from "./pack.mjs";
import { makeMachine, makePlace } from "./place.mjs";
import { report } from "./report.mjs";
import { NPX } from "./stories.mjs";
import { installed, used } from "./uses.mjs";
import { startVerdaccio } from "./verdaccio.mjs";

/** The adapter of ours that is installed beside somebody else's. */
const OUR_ADAPTER = "@cache/l2-redis";

const { values: options } = parseArgs({
  options: { peers: { type: "string" }, keep: { type: "boolean", default: false } },
});
const peers = findPeers(options.peers || process.env.CACHE_PEERS_DIR);
const directory = mkdtempSync(join(tmpdir(), "cache-publish-"));
process.on("exit", () => {
  if (options.keep) console.log(`kept: ${directory}`);
  else rmSync(directory, { recursive: true, force: true });
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(130));

const before = changesOfTheTree();
const registry = await startVerdaccio(join(directory, "verdaccio"));
try {
  await story();
} catch (error) {
  report.check("publish", false, error instanceof Error ? error.message : String(error));
} finally {
  await registry.stop();
}
report.check("the working tree and its tags are as before", changesOfTheTree() === before);
report.close();

async function story() {
  const copy = await copyRepository(join(directory, "copy"));
  const published = await publish(copy);
  report.check(
    "what was published holds what it should",
    published.every((found) => findings(found, published).length === 0),
    published.flatMap((found) => findings(found, published)).join("; "),
  );
  report.check(
    "every package has a changelog",
    published.every(({ files }) => files.has("CHANGELOG.md")),
  );
  const machine = makeMachine(join(directory, "machine"));
  const author = await publishDepot(machine, settingsOnly(), copy.directory);
  await publishScoped(machine, settingsOnly(), copy.directory);

  const ours = published.find(({ name }) => name === OUR_ADAPTER);
  const also = [{ name: OUR_ADAPTER, types: ours.manifest.cacheL2.types }];
  const npm = emptyProject(machine, "npm");
  const packages = ["@cache/engine", OUR_ADAPTER, DEPOT.name];
  await installed(npm, "npm", ["install", "--ignore-scripts", ...packages], "npm", "node_modules");
  await usedWithDepot(author, npm, NPX, { ...DEPOT, also }, "published, npm");
  const pnpm = emptyProject(machine, "pnpm");
  const add = ["-y", pinnedPnpm(), "add", "--ignore-scripts", ...packages, SCOPED.name];
  await installed(pnpm, "npx", add, pinnedPnpm(), "node_modules");
  const command = join(pnpm.directory, "node_modules", ".bin", "cache-engine");
  also.push({ name: SCOPED.name, types: [SCOPED.type] });
  await usedWithDepot(author, pnpm, [command], { ...DEPOT, also }, "published, pnpm");
}

async function usedWithDepot(author, place, command, what, label) {
  const depot = await startDepot(author);
  try {
    await used(peers, place, command, { ...what, keeps: depot.keeps }, label);
  } finally {
    await depot.stop();
  }
}

/** `changeset version` and `changeset publish` in the copy. Returns what the registry then has. */
async function publish(copy) {
  const names = publicPackages().map(({ name }) => `"${name}": patch`);
  // So that each gets a new version, whatever has changed since the last release.
  const changeset = ["---", ...names, "---", "", "Released for a check."].join("\n");
  writeFileSync(join(copy.directory, ".changeset", "release-check.md"), `${changeset}\n`);
  await copy.pnpm("exec", "changeset", "version");
  // The lockfile names no version of ours: what is installed stays as it is.
  await copy.pnpm("install", "--frozen-lockfile");
  await copy.commit("Versions");
  const packages = publicPackages(copy.directory);
  const same = publicPackages().filter(({ name, version }) =>
    packages.some((found) => found.name === name && found.version === version),
  );
  report.check("changeset version: every package has a new one", same.length === 0, versions(packages));
  // Nothing may reach the real registry, and no token of this user's may be there to be used.
  Object.assign(copy.env, settingsOnly());
  await copy.pnpm("exec", "changeset", "publish");
  const found = [];
  for (const { name, version, folder } of packages) found.push(await download(name, version, folder));
  report.check("changeset publish: all are in the registry", found.length === packages.length, found.length);
  const again = await copy.pnpm("exec", "changeset", "publish");
  report.check("a second changeset publish does nothing", /No unpublished projects/i.test(again), "");
  return found;
}

/** A published package, as pack.mjs gives a packed one. */
async function download(name, version, folder) {
  const packument = await (await fetch(`${registry.url}${name.replace("/", "%2f")}`)).json();
  if (packument["dist-tags"]?.latest !== version) throw new Error(`${name} ${version} is not what is latest`);
  const bytes = Buffer.from(await (await fetch(packument.versions[version].dist.tarball)).arrayBuffer());
  const files = readTarball(bytes);
  return { name, version, folder, files, manifest: JSON.parse(files.get("package.json").text()) };
}

function emptyProject(machine, name) {
  const place = makePlace(machine, name, { ...settingsOnly(), XDG_DATA_HOME: join(machine.home, "data") });
  writeFileSync(join(place.directory, "package.json"), '{"private":true}\n');
  return place;
}

/** Environment of who takes everything from our registry, and whose settings are in no other file. */
function settingsOnly() {
  const file = join(directory, "npmrc");
  writeFileSync(file, registry.settings, { mode: 0o600 });
  return { npm_config_userconfig: file, npm_config_registry: registry.url };
}

function versions(packages) {
  return [...new Set(packages.map(({ version }) => version))].join(", ");
}

// How operators install the packages, and what must work afterwards.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../dev/lib.mjs";
import { freePort } from "./engine.mjs";
import { pinnedPnpm } from "./pack.mjs";
import { makePlace, sizeOf } from "./place.mjs";
import { report } from "./report.mjs";
import { packThirdParty, THIRD_PARTY } from "./third-party.mjs";
import { installed, used } from "./uses.mjs";

/** The engine of the folder, and no other. */
export const NPX = ["npx", "--no", "@cache/engine"];
const FS = { name: "@cache/l2-fs", type: "fs" };
const OURS = ["@cache/engine", "@cache/l2-fs"];

/** Each story takes the packed packages, the machine, our scope's registry, LMCache's folder (or null). */
export const stories = {
  npm,
  readme,
  "third-party-npm": npmThird,
  "third-party-pnpm": pnpmThird,
  "third-party-global": globalThird,
};

/** Only the tarballs that are needed, an empty cache, no scripts. */
async function npm(shop) {
  const place = makePlace(shop.machine, "npm");
  const tarballs = needed(shop.packed, OURS).map(({ tarball }) => tarball);
  await installed(
    place,
    "npm",
    ["install", "--ignore-scripts", ...tarballs],
    "empty npm cache",
    "node_modules",
  );
  await used(shop.peers, place, NPX, FS, "npm");
  const redis = await place.run("npx", [
    ...NPX.slice(1),
    "serve",
    "--port",
    String(await freePort()),
    "--http-port",
    String(await freePort()),
    "--state-dir",
    "none",
    "--l2-adapter",
    '{"type":"redis"}',
  ]);
  const says = redis.stderr.split("\n").find((line) => line.startsWith("error ")) ?? redis.stderr.slice(-300);
  report.check(
    "npm: type redis is refused with what to install",
    redis.code === 2 && says.includes("npm install @cache/l2-redis"),
    says,
  );
  const size = sizeOf(join(place.directory, "node_modules"));
  const megabytes = Number(/about (\d+) MB/.exec(installSection())?.[1]);
  report.check(
    "README's size of an installation is right",
    Math.abs(size.bytes / 1e6 - megabytes) <= 10,
    `${megabytes} MB, here ${Math.round(size.bytes / 1e6)}`,
  );
}

/** README's commands as they stand there; our scope comes from a registry of our own. */
async function readme(shop) {
  const place = makePlace(shop.machine, "readme");
  writeFileSync(join(place.directory, ".npmrc"), `@cache:registry=${shop.scope.url}\n`);
  const commands = installSection().match(/^npm install .*$/gm) ?? [];
  report.check("README has the operator's install command", commands.length === 1, commands.join("; "));
  for (const command of commands) {
    await installed(
      place,
      "sh",
      ["-c", command.replace(/\s+#.*$/, "")],
      `README: ${command}`,
      "node_modules",
    );
  }
  await used(shop.peers, place, NPX, { ...FS, drive: false }, "readme");
}

async function npmThird(shop) {
  const place = makePlace(shop.machine, "third-party-npm");
  writeFileSync(join(place.directory, ".npmrc"), `@cache:registry=${shop.scope.url}\n`);
  const tarball = await packThirdParty(makePlace(shop.machine, "author-npm"), shop.packed);
  await installed(
    place,
    "npm",
    ["install", "--ignore-scripts", "@cache/engine", tarball],
    "npm",
    "node_modules",
  );
  await used(shop.peers, place, NPX, { ...THIRD_PARTY, ownCopies: true }, "third party, npm");
}

async function pnpmThird(shop) {
  // A store of its own: the machine's would make the figures meaningless.
  const place = makePlace(shop.machine, "third-party-pnpm", {
    XDG_DATA_HOME: join(shop.machine.home, "data"),
  });
  writeFileSync(join(place.directory, ".npmrc"), `@cache:registry=${shop.scope.url}\n`);
  writeFileSync(join(place.directory, "package.json"), '{"private":true}\n');
  const tarball = await packThirdParty(makePlace(shop.machine, "author-pnpm"), shop.packed);
  const args = ["-y", pinnedPnpm(), "add", "--ignore-scripts", "@cache/engine", tarball];
  await installed(place, "npx", args, pinnedPnpm(), "node_modules");
  await used(
    shop.peers,
    place,
    [join(place.directory, "node_modules", ".bin", "cache-engine")],
    { ...THIRD_PARTY, ownCopies: true },
    "third party, pnpm",
  );
}

async function globalThird(shop) {
  const prefix = join(shop.machine.directory, "prefix");
  const place = makePlace(shop.machine, "third-party-global", {
    "npm_config_@cache:registry": shop.scope.url,
  });
  const tarball = await packThirdParty(makePlace(shop.machine, "author-global"), shop.packed);
  const args = ["install", "--global", "--prefix", prefix, "--ignore-scripts", "@cache/engine", tarball];
  await installed(place, "npm", args, "npm --global", join(prefix, "lib", "node_modules"));
  await used(
    shop.peers,
    place,
    [join(prefix, "bin", "cache-engine")],
    { ...THIRD_PARTY, ownCopies: true },
    "third party, global",
  );
}

/** The packages and those of ours that they need. */
function needed(packed, names) {
  const found = new Map();
  const add = (name) => {
    const entry = packed.find((candidate) => candidate.name === name);
    if (entry === undefined || found.has(name)) return;
    found.set(name, entry);
    const { dependencies, peerDependencies, optionalDependencies } = entry.manifest;
    for (const next of Object.keys({ ...dependencies, ...peerDependencies, ...optionalDependencies }))
      add(next);
  };
  for (const name of names) add(name);
  return [...found.values()];
}

function installSection() {
  const text = readFileSync(join(ROOT, "README.md"), "utf8");
  return /^## Install$.*?(?=^## )/ms.exec(text)?.[0] ?? "";
}

// How operators install the packages, and what must work afterwards.
import { existsSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../dev/lib.mjs";
import { driveWithLmcache, serve } from "./engine.mjs";
import { pinnedPnpm } from "./pack.mjs";
import { makePlace, sizeOf } from "./place.mjs";
import { report } from "./report.mjs";
import { THIRD_PARTY } from "./third-party.mjs";

const NPX = ["npx", "--no", "@cache/engine"];
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
  await used(shop, place, NPX, { name: "@cache/l2-fs", type: "fs" }, "npm");
  const redis = await place.run(
    ...words([...NPX, "serve", "--state-dir", "none", "--l2-adapter", '{"type":"redis"}']),
  );
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

/** README's commands as they stand there, install scripts allowed, our scope from a registry of our own. */
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
  await used(shop, place, NPX, { name: "@cache/l2-fs", type: "fs" }, "readme", false);
}

async function npmThird(shop) {
  const place = makePlace(shop.machine, "third-party-npm");
  writeFileSync(join(place.directory, ".npmrc"), `@cache:registry=${shop.scope.url}\n`);
  const tarball = await shop.thirdParty(makePlace(shop.machine, "author-npm"), shop.packed);
  await installed(
    place,
    "npm",
    ["install", "--ignore-scripts", "@cache/engine", tarball],
    "npm",
    "node_modules",
  );
  await used(shop, place, NPX, THIRD_PARTY, "third party, npm");
}

async function pnpmThird(shop) {
  // A store of its own: the machine's would make the figures meaningless.
  const place = makePlace(shop.machine, "third-party-pnpm", {
    XDG_DATA_HOME: join(shop.machine.home, "data"),
  });
  writeFileSync(join(place.directory, ".npmrc"), `@cache:registry=${shop.scope.url}\n`);
  writeFileSync(join(place.directory, "package.json"), '{"private":true}\n');
  const tarball = await shop.thirdParty(makePlace(shop.machine, "author-pnpm"), shop.packed);
  const args = ["-y", pinnedPnpm(), "add", "--ignore-scripts", "@cache/engine", tarball];
  await installed(place, "npx", args, pinnedPnpm(), "node_modules");
  await used(
    shop,
    place,
    [join(place.directory, "node_modules", ".bin", "cache-engine")],
    THIRD_PARTY,
    "third party, pnpm",
  );
}

async function globalThird(shop) {
  const prefix = join(shop.machine.directory, "prefix");
  const place = makePlace(shop.machine, "third-party-global", {
    "npm_config_@cache:registry": shop.scope.url,
  });
  const tarball = await shop.thirdParty(makePlace(shop.machine, "author-global"), shop.packed);
  const args = ["install", "--global", "--prefix", prefix, "--ignore-scripts", "@cache/engine", tarball];
  await installed(place, "npm", args, "npm --global", join(prefix, "lib", "node_modules"));
  await used(shop, place, [join(prefix, "bin", "cache-engine")], THIRD_PARTY, "third party, global");
}

/** Runs an installation; prints how long it took and how large it is. */
async function installed(place, command, args, how, modules) {
  const done = await place.run(command, args);
  if (done.code !== 0)
    throw new Error(`${command} ${args.join(" ")} ended with ${done.code}:\n${done.stdout}${done.stderr}`);
  const { bytes, packages } = sizeOf(
    join(modules.startsWith("/") ? modules : join(place.directory, modules)),
  );
  report.check(
    `installed: ${how}`,
    true,
    `${done.seconds.toFixed(1)} s, ${(bytes / 1e6).toFixed(0)} MB on disk, ${packages} packages`,
  );
}

/** The adapter is the only one found, the native libraries work, and the engine serves with it. */
async function used(shop, place, command, { name, type }, label, drive = true) {
  const listed = await place.run(...words([...command, "adapters", "--json"]));
  const found = listed.code === 0 ? JSON.parse(listed.stdout).packages : [];
  const facts = found.map((entry) => [entry.name, entry.types, entry.problem]);
  if (!report.equal(`${label}: adapters lists ${name} alone`, facts, [[name, [type], null]]))
    report.note(listed.stderr);
  if (name === THIRD_PARTY.name) ownCopies(found[0]?.realDirectory, label);
  const doctor = await place.run(...words([...command, "doctor", "--state-dir", "none"]));
  const native = ["koffi", "zeromq"].map(
    (part) => new RegExp(`^ok +${part} .*`, "m").exec(doctor.stdout)?.[0] ?? `no ${part}`,
  );
  report.check(
    `${label}: native libraries load`,
    !native.some((line) => line.startsWith("no ")),
    native.map((line) => line.replace(/\s+/g, " ")).join("; "),
  );
  const bench = ["bench", "l2", "--no-skip-verify", "--num-keys", "16", "--data-size-kb", "1024"];
  const adapter = JSON.stringify({ type, base_path: join(place.directory, "bench") });
  const measured = await place.run(...words([...command, ...bench, "--l2-adapter", adapter]));
  report.check(
    `${label}: bench l2 stores, finds and loads equal bytes`,
    measured.code === 0,
    measured.stderr.split("\n").find((line) => line.startsWith("verified") || line.startsWith("error")) ?? "",
  );
  const engine = await serve(place, command, type);
  try {
    report.check(`${label}: serves`, true, `ready in ${engine.readyMs} ms`);
    const ping = await place.run(
      ...words([...command, "ping", "--url", engine.http, "--rpc-url", engine.rpc]),
    );
    report.check(
      `${label}: ping by HTTP and RPC`,
      ping.code === 0,
      (ping.stdout + ping.stderr).trim().replace(/\s+/g, " "),
    );
    if (drive) await lmcache(shop.peers, engine, label);
  } finally {
    report.equal(`${label}: ends on SIGTERM and frees its pool`, await engine.stop(), null);
  }
}

async function lmcache(peers, engine, label) {
  if (peers === null) {
    report.skip(`${label}: the real LMCache client`, "no peers: give --peers DIR");
    return;
  }
  const { code, lines, stderr } = await driveWithLmcache(engine, peers, label);
  report.adopt(lines);
  if (code !== 0 && code !== 3) report.check(`${label}: the real LMCache client`, false, stderr);
}

/** The adapter really runs on copies of zod and the contract that the engine does not use. */
function ownCopies(directory, label) {
  const copies = ["zod", "@cache/contracts"].map((name) =>
    join(directory ?? "", "node_modules", name, "package.json"),
  );
  report.check(
    `${label}: it has copies of its own`,
    copies.every((file) => existsSync(file) && realpathSync(file).startsWith(directory)),
    "zod, @cache/contracts",
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

function words([command, ...args]) {
  return [command, args];
}

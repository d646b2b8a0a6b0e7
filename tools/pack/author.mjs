// Somebody who writes an adapter with the tutorial and publishes it, from an empty folder, with Node and npm alone.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { makePlace } from "./place.mjs";
import { report } from "./report.mjs";
import { followTutorial, reportTo } from "./tutorial.mjs";

export const DEPOT = { name: "cache-l2-depot", type: "depot" };
/** What the creator makes, as it is, under a scope of its author. */
export const SCOPED = { name: "@example/cache-l2-scoped", type: "scoped" };

/** The tutorial from its first command to `npm publish`. Returns the package's place. */
export async function publishDepot(machine, env, root) {
  const place = await create(machine, env, root, DEPOT);
  const commands = followTutorial(place.directory, root);
  await green(place, "the tutorial's package");
  const depot = await startDepot(place);
  try {
    reportTo(place.directory, depot.url);
    for (const command of commands) {
      if (command === "npm test") continue;
      const done = await place.run("sh", ["-c", command]);
      const sum = /\*\*(\d+ laws held, .*)\*\*/.exec(done.stdout)?.[1] ?? "";
      report.check(`tutorial: ${command}`, done.code === 0, done.code === 0 ? sum : tail(done));
    }
    const left = await (await fetch(new URL("objects?prefix=", depot.url))).text();
    report.equal("tutorial: the report leaves nothing in the store", left, "");
  } finally {
    await depot.stop();
  }
  const engine = await place.run("npx", [
    "-y",
    "@cache/engine",
    "adapters",
    "--adapter-root",
    "..",
    "--json",
  ]);
  const found = engine.code === 0 ? JSON.parse(engine.stdout).packages.map(({ name }) => name) : tail(engine);
  report.equal("tutorial: npx @cache/engine adapters --adapter-root ..", found, [DEPOT.name]);
  await publish(place, DEPOT.name);
  return place;
}

/** What the creator makes, green and published without a change. */
export async function publishScoped(machine, env, root) {
  const place = await create(machine, env, root, SCOPED);
  await green(place, "a scoped package");
  await publish(place, SCOPED.name);
}

/** `npm create` from the registry; nothing may have got lost in packing and publishing the creator. */
async function create(machine, env, root, { name, type }) {
  const [scope] = name.startsWith("@") ? name.split("/") : [null];
  const word = scope === null ? type : `${scope}/${type}`;
  const author = makePlace(machine, `author-${type}`, env);
  const done = await author.run("npm", ["create", "cache-l2", word]);
  if (done.code !== 0) throw new Error(`npm create cache-l2 ${word} failed: ${tail(done)}`);
  const { createPackage } = await import(
    pathToFileURL(join(root, "packages", "create-cache-l2", "dist", "index.js")).href
  );
  const wanted = join(machine.directory, `wanted-${type}`);
  const { files } = createPackage(word, wanted);
  const place = makePlace(machine, join(`author-${type}`, `cache-l2-${type}`), env);
  const text = (folder, file) => readFileSync(join(folder, file), "utf8");
  // Made in a clone it leads there; made from the registry it has the versions of that release.
  const released = (file) =>
    text(wanted, file).replaceAll(/"file:.*(packages\/[\w-]+)"/g, (_, folder) => range(folder));
  const range = (folder) => `"^${JSON.parse(text(root, join(folder, "package.json"))).version}"`;
  const wrong = files.filter((file) => text(place.directory, file) !== released(file));
  report.check(
    `npm create cache-l2 ${word}: all files`,
    wrong.length === 0,
    wrong.length === 0 ? `${files.length} files, ${done.seconds.toFixed(1)} s` : wrong.join(", "),
  );
  return place;
}

async function green(place, label) {
  const installed = await place.run("npm", ["install"]);
  if (installed.code !== 0) throw new Error(`${label}: npm install failed: ${tail(installed)}`);
  report.check(`${label}: npm install`, true, `${installed.seconds.toFixed(1)} s`);
  const tested = await place.run("npm", ["test"]);
  const sum = /l2AdapterSuite: (.*)/.exec(tested.stdout)?.[1] ?? "";
  report.check(
    `${label}: npm test`,
    tested.code === 0 && / 0 failed/.test(sum),
    tested.code === 0 ? `${sum}, ${tested.seconds.toFixed(1)} s` : tail(tested),
  );
}

async function publish(place, name) {
  const done = await place.run("npm", ["publish"]);
  report.check(`npm publish: ${name}`, done.code === 0, done.code === 0 ? lastLine(done.stdout) : tail(done));
  if (done.code !== 0) throw new Error(`${name} is not published: what installs it cannot be tried`);
}

/** The tutorial's server on a free port: `url`, `stop()`, and where an adapter keeps things in it. */
export async function startDepot(place) {
  const child = spawn(process.execPath, ["dist/test/depot-server.js"], {
    cwd: place.directory,
    env: { ...place.env, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const closed = once(child, "close");
  const [line] = await Promise.race([once(child.stdout, "data"), closed]);
  const url = String(line).trim();
  if (!url.startsWith("http://127.")) throw new Error(`the tutorial's server did not start: ${url}`);
  return {
    url,
    /** Options for the adapter, and the address that lists what it stored. */
    keeps: (word) => ({ options: { url, prefix: `${word}/` }, objects: `${url}objects?prefix=${word}%2F` }),
    stop: async () => {
      child.kill();
      await closed;
    },
  };
}

function lastLine(text) {
  return text.trim().split("\n").at(-1);
}

function tail({ stdout, stderr }) {
  return `${stdout}${stderr}`.slice(-1500);
}

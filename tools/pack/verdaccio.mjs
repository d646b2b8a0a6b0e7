// A registry that packages are really published to: verdaccio, in a folder of its own. What is ours it never asks the
// real registry for; everything else comes from there, through it.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { freePort } from "./engine.mjs";

/** The last that runs on Node 20. */
const VERSION = "6.1.6";
/** One of its dependencies names this one by a tag, `cjs`, that mirrors of npm's registry may lack. */
const NODE_FETCH = "2.7.0";
const START_TIMEOUT_MS = 60_000;

/** Names that only exist where they were published by the check. */
const OURS = ["@cache/*", "@example/*", "create-cache-l2", "cache-l2-*"];

/**
 * Installs and starts it. Gives `url`, the `settings` (lines of an `.npmrc`) of one who takes all packages from it and
 * may publish, and `stop()`.
 */
export async function startVerdaccio(directory) {
  mkdirSync(directory, { recursive: true });
  const manifest = {
    private: true,
    dependencies: { verdaccio: VERSION },
    overrides: { "node-fetch": NODE_FETCH },
  };
  writeFileSync(join(directory, "package.json"), JSON.stringify(manifest));
  writeFileSync(join(directory, "config.yaml"), config());
  execFileSync("npm", ["install", "--ignore-scripts", "--no-audit"], { cwd: directory, stdio: "pipe" });
  const listen = `127.0.0.1:${await freePort()}`;
  const program = join(directory, "node_modules", "verdaccio", "bin", "verdaccio");
  const child = spawn(process.execPath, [program, "--config", "config.yaml", "--listen", listen], {
    cwd: directory,
    stdio: "ignore",
  });
  const closed = once(child, "close");
  const stop = async () => {
    child.kill("SIGKILL");
    await closed;
  };
  const url = `http://${listen}/`;
  try {
    await answers(`${url}-/ping`, child);
    return { url, stop, settings: `registry=${url}\n//${listen}/:_authToken=${await token(url)}\n` };
  } catch (error) {
    await stop();
    throw error;
  }
}

function config() {
  const real = execFileSync("npm", ["config", "get", "registry"], { encoding: "utf8" }).trim();
  const access = "access: $all, publish: $authenticated";
  const lines = [
    "storage: ./storage",
    "auth: { htpasswd: { file: ./htpasswd, max_users: 1 } }",
    `uplinks: { real: { url: "${real}", timeout: 60s, maxage: 60m } }`,
    "packages:",
    ...OURS.map((name) => `  "${name}": { ${access} }`),
    `  "**": { ${access}, proxy: real }`,
    "web: { enable: false }",
    "max_body_size: 50mb",
    "log: { type: stdout, level: fatal }",
  ];
  return `${lines.join("\n")}\n`;
}

async function answers(url, child) {
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    const reply = await fetch(url).catch(() => null);
    if (reply?.ok) return;
    if (child.exitCode !== null || Date.now() > deadline) throw new Error("verdaccio does not start");
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** Registers its only user, who is made up for this run. */
async function token(url) {
  const [name, password] = ["publisher", crypto.randomUUID()];
  const reply = await fetch(`${url}-/user/org.couchdb.user:${name}`, {
    method: "PUT",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name, password }),
  });
  const { token: given } = await reply.json();
  if (typeof given !== "string") throw new Error(`verdaccio registers no user: ${reply.status}`);
  return given;
}

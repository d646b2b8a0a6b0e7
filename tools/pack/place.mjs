// An empty folder on a machine that has Node, npm and a shell: no compiler, no Python, no settings of this user.
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, realpathSync, statSync, symlinkSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";

/** What npm's and pnpm's links to commands call. */
const COMMANDS = ["npm", "npx", "sh", "env", "dirname", "basename", "sed", "uname", "readlink", "cat"];
/** What a native module would be built with. */
const BUILDERS = [
  "cc",
  "gcc",
  "g++",
  "c++",
  "clang",
  "make",
  "cmake",
  "ninja",
  "python",
  "python3",
  "node-gyp",
];

const RUN_TIMEOUT_MS = 300_000;

/** Makes the machine: a PATH of a few links, a home and an npm cache of its own, all below `directory`. */
export function makeMachine(directory) {
  const path = join(directory, "bin");
  mkdirSync(path, { recursive: true });
  symlinkSync(process.execPath, join(path, "node"));
  for (const name of COMMANDS) {
    const found = which(name);
    if (found !== null) symlinkSync(realpathSync(found), join(path, name));
  }
  const builders = BUILDERS.filter((name) => existsSync(join(path, name)));
  if (builders.length > 0) throw new Error(`the machine without a compiler has ${builders.join(", ")}`);
  const home = join(directory, "home");
  mkdirSync(home);
  return { directory, path, home, env: machineEnv(path, home) };
}

function machineEnv(path, home) {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(npm_|INIT_CWD$|NODE_OPTIONS$|NODE_PATH$|XDG_|CC$|CXX$|PYTHON|PNPM_|CACHE_)/i.test(name),
  );
  const settings = [process.env.npm_config_userconfig, join(homedir(), ".npmrc")].find(
    (file) => file !== undefined && existsSync(file),
  );
  return {
    ...Object.fromEntries(kept),
    PATH: path,
    HOME: home,
    CI: "true",
    npm_config_cache: join(home, "npm-cache"),
    // Where packages come from, and how one may get there, is this user's to say.
    ...(settings === undefined ? {} : { npm_config_userconfig: settings }),
    npm_config_update_notifier: "false",
    npm_config_fund: "false",
    npm_config_audit: "false",
  };
}

function which(name) {
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders.map((folder) => join(folder, name)).find((file) => existsSync(file)) ?? null;
}

/** An empty folder of that machine, and how commands run in it. */
export function makePlace(machine, name, env = {}) {
  const directory = join(machine.directory, name);
  mkdirSync(directory, { recursive: true });
  const place = { directory, env: { ...machine.env, ...env }, machine };
  /** Runs a command to its end: its exit code, both outputs, and how many seconds it took. */
  place.run = (command, args) =>
    new Promise((done) => {
      const begin = performance.now();
      const how = { cwd: directory, env: place.env, timeout: RUN_TIMEOUT_MS, maxBuffer: 2 ** 26 };
      // Not the synchronous form: our scope's registry answers from this very process.
      execFile(command, args, how, (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1;
        const cause = error === null || typeof error.code === "number" ? "" : error.message;
        done({ code, stdout, stderr: `${stderr}${cause}`, seconds: (performance.now() - begin) / 1000 });
      });
    });
  return place;
}

/** Disk space and number of packages below a `node_modules`. A file that several names lead to counts once. */
export function sizeOf(directory) {
  let bytes = 0;
  let packages = 0;
  const seen = new Set();
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const folder = entry.parentPath ?? entry.path;
    const { ino, blocks } = statSync(join(folder, entry.name));
    if (seen.has(ino)) continue;
    seen.add(ino);
    bytes += blocks * 512;
    if (entry.name === "package.json" && /node_modules\/(@[^/]+\/)?[^/]+$/.test(folder)) packages += 1;
  }
  return { bytes, packages };
}

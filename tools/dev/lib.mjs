// What start, test, build and check share. Runs on a bare Node 20 or 24 with npm: no dependencies.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const WORKSPACE_FOLDERS = ["packages", "apps", "tools"];
const STAMP = join(ROOT, "node_modules", ".cache", "install-stamp");

/** Runs a program in the clone with its output on ours; ends this program with its exit code if that is not 0. */
export function run(command, args, options = {}) {
  const code = tryRun(command, args, options);
  if (code !== 0) {
    console.error(`failed (${code}): ${command} ${args.join(" ")}`);
    process.exit(code);
  }
}

/** Runs a program and gives its exit code. */
export function tryRun(command, args, options = {}) {
  const result = spawnSync(command, args, {
    cwd: ROOT,
    stdio: "inherit",
    ...options,
    env: { ...process.env, ...options.env },
  });
  if (result.error) {
    console.error(`cannot run ${command}: ${result.error.message}`);
    return 127;
  }
  return result.status ?? 1;
}

/** Runs a JavaScript program of a dev dependency with this Node, whatever `node` the PATH has. */
export function bin(name) {
  return join(ROOT, "node_modules", ".bin", name);
}

/** Folders of the workspace that hold a package.json, e.g. `packages/l2-fs`. Found, not listed anywhere. */
export function packageFolders() {
  return WORKSPACE_FOLDERS.filter((folder) => existsSync(join(ROOT, folder)))
    .flatMap((folder) => readdirSync(join(ROOT, folder)).map((name) => join(folder, name)))
    .filter((folder) => existsSync(join(ROOT, folder, "package.json")))
    .sort((a, b) => (a < b ? -1 : 1));
}

/** Installs what the lockfile says if node_modules is missing or older than the manifests. */
export function install() {
  const stamp = installStamp();
  if (existsSync(STAMP) && readFileSync(STAMP, "utf8") === stamp) return;
  const pnpm = ["-y", pinnedPnpm(), "install"];
  const frozen = spawnSync("npx", [...pnpm, "--frozen-lockfile"], {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "pipe"],
    env: installEnv(),
  });
  const output = `${frozen.stdout ?? ""}${frozen.stderr ?? ""}`;
  if (frozen.status !== 0) {
    if (!/ERR_PNPM_(OUTDATED_LOCKFILE|LOCKFILE_MISSING|FROZEN_LOCKFILE)/.test(output)) {
      process.stderr.write(output);
      process.exit(frozen.status || 1);
    }
    installUnrecorded(pnpm);
  }
  mkdirSync(dirname(STAMP), { recursive: true });
  writeFileSync(STAMP, installStamp());
}

// A package folder was copied in that the lockfile does not know. It is installed, and the lockfile stays as it is:
// recording is for `pnpm install` by hand.
function installUnrecorded(pnpm) {
  console.error("the lockfile does not know every package here: installing without recording that");
  const file = join(ROOT, "pnpm-lock.yaml");
  const lockfile = existsSync(file) ? readFileSync(file) : null;
  let code;
  try {
    code = tryRun("npx", [...pnpm, "--no-frozen-lockfile"], { env: installEnv(), stdio: ["ignore", 2, 2] });
  } finally {
    if (lockfile !== null) writeFileSync(file, lockfile);
  }
  if (code !== 0) process.exit(code);
}

function installEnv() {
  return { ...process.env, CI: "true" };
}

function pinnedPnpm() {
  return JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).packageManager;
}

function installStamp() {
  const hash = createHash("sha256");
  const manifests = packageFolders().map((folder) => join(folder, "package.json"));
  for (const file of ["pnpm-lock.yaml", "pnpm-workspace.yaml", "package.json", ...manifests]) {
    hash.update(`${file}\0`).update(existsSync(join(ROOT, file)) ? readFileSync(join(ROOT, file)) : "");
  }
  return hash.digest("hex");
}

/** Packages whose sources are TypeScript. */
export function typescriptFolders() {
  return packageFolders().filter((folder) => existsSync(join(ROOT, folder, "tsconfig.json")));
}

/** Packages whose `dist` is missing or older than a source. */
export function staleFolders() {
  return typescriptFolders().filter((folder) => {
    const sources = newest(join(ROOT, folder, "src"), (name) => name.endsWith(".ts"));
    const info = join(ROOT, folder, "dist", ".tsbuildinfo");
    return (
      sources > 0 &&
      (!existsSync(info) ||
        statSync(info).mtimeMs < sources ||
        !existsSync(join(ROOT, folder, "dist", "index.js")))
    );
  });
}

function newest(directory, matches) {
  if (!existsSync(directory)) return 0;
  let latest = 0;
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() && matches(entry.name)) {
      latest = Math.max(latest, statSync(join(entry.parentPath ?? entry.path, entry.name)).mtimeMs);
    }
  }
  return latest;
}

/** Builds every package; the references in their tsconfig.json give the order. */
export function build() {
  run(bin("tsc"), ["-b", ...typescriptFolders()]);
  // A source whose time changed and whose text did not is compiled to what is there: note that it was looked at.
  const now = new Date();
  for (const folder of staleFolders()) utimesSync(join(ROOT, folder, "dist", ".tsbuildinfo"), now, now);
}

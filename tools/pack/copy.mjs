// A copy of the repository as it is in the working tree, in which versions are set and packages published.
import { execFile, execFileSync } from "node:child_process";
import { cpSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { ROOT } from "../dev/lib.mjs";
import { pinnedPnpm } from "./pack.mjs";

const RUN_TIMEOUT_MS = 300_000;
const IDENTITY = { NAME: "release check", EMAIL: "release@example.invalid" };

/** Copies what git tracks or would track, commits it there, installs and builds. `run` runs a command in it, with `env`. */
export async function copyRepository(directory) {
  const listed = git(["ls-files", "--cached", "--others", "--exclude-standard", "-z", "--deduplicate"]);
  for (const path of listed.split("\0").filter((name) => name !== "")) {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    // A tracked file that was deleted and not committed is not there to be copied.
    cpSync(join(ROOT, path), join(directory, path), { force: true, verbatimSymlinks: true });
  }
  const copy = { directory, env: {}, run: (command, args) => runIn(directory, command, args, copy.env) };
  copy.pnpm = (...args) => copy.run("npx", ["-y", pinnedPnpm(), ...args]);
  copy.commit = async (subject) => {
    await copy.run("git", ["add", "--all"]);
    await copy.run("git", ["commit", "--quiet", "--message", subject]);
  };
  await copy.run("git", ["init", "--quiet"]);
  await copy.commit("The working tree");
  await copy.pnpm("install", "--frozen-lockfile");
  await copy.run(process.execPath, [join(directory, "tools", "dev", "build.mjs")]);
  return copy;
}

/** What git says that is changed in the repository itself. */
export function changesOfTheTree() {
  return git(["status", "--porcelain"]) + git(["tag"]);
}

function git(args) {
  return execFileSync("git", args, { cwd: ROOT, encoding: "utf8", maxBuffer: 2 ** 26 });
}

function runIn(cwd, command, args, more) {
  const names = Object.entries(IDENTITY).flatMap(([name, value]) => [
    [`GIT_AUTHOR_${name}`, value],
    [`GIT_COMMITTER_${name}`, value],
  ]);
  const env = { ...process.env, CI: "true", ...Object.fromEntries(names), ...more };
  // Not the synchronous form: connections to the registry would be found dead by the next request.
  return new Promise((done, failed) => {
    execFile(
      command,
      args,
      { cwd, env, maxBuffer: 2 ** 26, timeout: RUN_TIMEOUT_MS },
      (error, stdout, stderr) => {
        const output = `${stdout}${stderr}`;
        if (error === null) done(output);
        else
          failed(new Error(`${command} ${args.join(" ")} failed:\n${output.slice(-3000)}`, { cause: error }));
      },
    );
  });
}

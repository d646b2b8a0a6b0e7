import { spawn } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL("..", import.meta.url));
export const ROOT = join(HERE, "..", "..");
const PROGRAMS = { tsc: "typescript", "cache-conformance": "@cache/conformance" };

/** What `npm install` would do, with this clone's packages and without a registry. */
export function linkDependencies(directory: string): void {
  const { dependencies, devDependencies } = JSON.parse(
    readFileSync(join(directory, "package.json"), "utf8"),
  ) as Record<"dependencies" | "devDependencies", Record<string, string>>;
  const modules = join(directory, "node_modules");
  for (const name of Object.keys({ ...dependencies, ...devDependencies })) {
    const installed = join(HERE, "node_modules", name);
    if (!existsSync(installed))
      throw new Error(`${name} is no devDependency of create-cache-l2: add it for its tests`);
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(installed, join(modules, name));
  }
  mkdirSync(join(modules, ".bin"), { recursive: true });
  for (const [program, name] of Object.entries(PROGRAMS)) {
    const { bin } = JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8")) as {
      bin: Record<string, string>;
    };
    const file = join(modules, ".bin", program);
    writeFileSync(
      file,
      `#!/bin/sh\nexec ${process.execPath} ${join(modules, name, bin[program] ?? "")} "$@"\n`,
    );
    chmodSync(file, 0o755);
  }
}

/** How a program ended. */
export interface Ended {
  readonly code: number | null;
  readonly out: string;
}

/** Runs a shell command in a directory; both its outputs. */
export function sh(directory: string, command: string, env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    // A runner's own variables would change what the commands do.
    const { NODE_OPTIONS: _, NODE_TEST_CONTEXT: __, VITEST: ___, ...clean } = process.env;
    const child = spawn("sh", ["-c", command], { cwd: directory, env: { ...clean, ...env } });
    let out = "";
    child.stdout.on("data", (text) => (out += text));
    child.stderr.on("data", (text) => (out += text));
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, out }));
  });
}

/** A block of code in the tutorial. */
export interface Block {
  readonly language: string;
  /** The file that it is, or null. */
  readonly file: string | null;
  /** True for commands that are run as they stand. */
  readonly run: boolean;
  readonly text: string;
}

interface Tutorial {
  tutorialBlocks(): Block[];
  followTutorial(directory: string): string[];
  reportTo(directory: string, url: string): void;
}

/** What takes the tutorial's code out of its text. */
export async function loadTutorial(): Promise<Tutorial> {
  // Not typed: a program that runs on a bare Node.
  return (await import(String(new URL("../../../tools/pack/tutorial.mjs", import.meta.url)))) as Tutorial;
}

/** `text` with the path of this machine's clone cut out, for messages. */
export function shortened(text: string): string {
  return text.replaceAll(relative("/", ROOT), "…").slice(-6000);
}

import { CacheError } from "@cache/contracts";
import { existsSync, readFileSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { AdapterRoot, AdapterRootOrigin } from "./types.ts";

/** Where to search. */
export interface AdapterRootsOptions {
  /** Directory in which the program was started, usually `process.cwd()`. */
  readonly startDirectory: string;
  /** The path by which the engine was started (`process.argv[1]`), symbolic links kept. */
  readonly enginePath?: string | undefined;
  /** Replaces every other root (`--adapter-root`). Relative ones count from the start directory. */
  readonly only?: readonly string[] | undefined;
}

/**
 * The roots in order of precedence: `node_modules` upwards from the start directory, from the path by which the
 * engine was started and from its real path (a global install is found by the latter two), and `packages` of the
 * clone that the engine runs from. Only directories that exist; each once.
 *
 * @throws CacheError `INVALID_CONFIG` if a root of `only` is not a directory.
 */
export function adapterRoots(options: AdapterRootsOptions): AdapterRoot[] {
  const start = resolve(options.startDirectory);
  if (options.only !== undefined && options.only.length > 0) {
    return unique(options.only.map((path) => namedRoot(resolve(start, path))));
  }
  const roots = nodeModulesUpwards(start, "start-directory");
  if (options.enginePath !== undefined) {
    const enginePath = resolve(start, options.enginePath);
    roots.push(...nodeModulesUpwards(dirname(enginePath), "engine-path"));
    const real = realPathOrNull(enginePath);
    if (real !== null) {
      roots.push(...nodeModulesUpwards(dirname(real), "engine-real-path"));
      const clone = cloneOf(dirname(real));
      if (clone !== null) {
        roots.push({ directory: join(clone, "packages"), origin: "clone", layout: "packages" });
      }
    }
  }
  return unique(roots);
}

function namedRoot(directory: string): AdapterRoot {
  if (!isDirectory(directory)) {
    throw new CacheError(
      "INVALID_CONFIG",
      `adapter root ${directory} is not a directory; name a node_modules folder or a folder of l2-* packages with --adapter-root`,
      { details: { directory } },
    );
  }
  return { directory, origin: "option", layout: "both" };
}

function nodeModulesUpwards(from: string, origin: AdapterRootOrigin): AdapterRoot[] {
  const found: AdapterRoot[] = [];
  for (const directory of ancestors(from)) {
    // As Node resolves: a folder named node_modules is searched itself, it has no node_modules of its own.
    const candidate = basename(directory) === "node_modules" ? directory : join(directory, "node_modules");
    if (isDirectory(candidate)) found.push({ directory: candidate, origin, layout: "modules" });
  }
  return found;
}

/** The clone that holds the engine: the workspace whose `apps/engine` is this engine's package. */
function cloneOf(from: string): string | null {
  for (const directory of ancestors(from)) {
    const manifest = join(directory, "apps", "engine", "package.json");
    if (existsSync(join(directory, "pnpm-workspace.yaml")) && existsSync(manifest)) {
      try {
        const { name } = JSON.parse(readFileSync(manifest, "utf8")) as { name?: unknown };
        if (name === "@cache/engine" && isDirectory(join(directory, "packages"))) return directory;
      } catch {
        // Not ours: a workspace whose engine cannot be read is no clone of this repository.
      }
    }
  }
  return null;
}

function* ancestors(from: string): Iterable<string> {
  let directory = from;
  for (;;) {
    yield directory;
    const parent = dirname(directory);
    if (parent === directory) return;
    directory = parent;
  }
}

function unique(roots: readonly AdapterRoot[]): AdapterRoot[] {
  const seen = new Set<string>();
  return roots.filter((root) => {
    const real = realPathOrNull(root.directory) ?? root.directory;
    if (seen.has(real)) return false;
    seen.add(real);
    return true;
  });
}

function realPathOrNull(path: string): string | null {
  try {
    return realpathSync(path);
  } catch {
    return null;
  }
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

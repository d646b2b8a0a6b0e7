import { existsSync, readdirSync, realpathSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { CacheError, messageOf } from "@cache/contracts";
import { type ForeignLibrary, type Koffi, loadKoffi } from "@cache/libc";
import { bindCalls, type NixlCalls } from "./calls.ts";
import { ErrorOutput } from "./error-output.ts";

/** Environment variable that names the library, or a folder that holds it. */
export const LIBRARY_VARIABLE = "CACHE_NIXL_LIBRARY";
const FILE = "libnixl_capi.so";
const HOW_TO_GET_IT = `install NIXL 1.5 or newer, e.g. \`pip install nixl\`, and name its ${FILE} with the option library or the environment variable ${LIBRARY_VARIABLE} if it is not found by itself`;
/** Came with NIXL 1.5; older libraries report input and output that failed as done. */
const FUNCTION_OF_1_5 = "nixl_capi_opt_args_set_custom_param";

/** The library, loaded. */
export interface NixlLibrary {
  readonly path: string;
  readonly calls: NixlCalls;
  readonly errorOutput: ErrorOutput;
  /** Where a buffer lies. */
  address(buffer: Uint8Array): number;
  /** What the dynamic loader says of the plugin for a backend; null if it loads. */
  explainPlugin(backend: string): string | null;
}

/** Folder of a wheel's libraries; the number is CUDA's. */
const WHEEL = /^\.nixl(?:_cu([0-9]+))?\.mesonpy\.libs$/;

type Environment = Readonly<Record<string, string | undefined>>;

function names(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Folders of installed Python packages: of the active environment, of the `python3` on the path, of the system. */
function pythonFolders(environment: Environment): string[] {
  const home = environment["HOME"] ?? homedir();
  const prefixes = [environment["VIRTUAL_ENV"], environment["CONDA_PREFIX"]];
  for (const folder of (environment["PATH"] ?? "").split(delimiter)) {
    const python = join(folder, "python3");
    if (folder === "" || !existsSync(python)) continue;
    prefixes.push(dirname(resolve(folder)));
    try {
      prefixes.push(dirname(dirname(realpathSync(python))));
    } catch {
      // a broken link
    }
  }
  prefixes.push(join(home, ".local"), "/usr/local", "/usr");
  const folders = (environment["PYTHONPATH"] ?? "").split(delimiter);
  for (const prefix of prefixes) {
    if (prefix === undefined || prefix === "") continue;
    for (const python of names(join(prefix, "lib")).filter((name) => /^python3[.\d]*$/.test(name))) {
      for (const kind of ["site-packages", "dist-packages"]) folders.push(join(prefix, "lib", python, kind));
    }
  }
  return [...new Set(folders.filter((folder) => folder !== ""))];
}

/**
 * The library inside a folder: itself, or that of a wheel unpacked there. Of several the one whose CUDA is installed,
 * else the oldest: its plugins ask for least (OBJ of the wheel for CUDA 13 does not load without CUDA).
 */
function inFolder(folder: string, canLoad: (library: string) => boolean): string | null {
  const direct = join(folder, FILE);
  if (existsSync(direct)) return direct;
  const wheels = names(folder)
    .filter((name) => WHEEL.test(name) && existsSync(join(folder, name, FILE)))
    .sort();
  const chosen =
    wheels.length > 1
      ? wheels.find((name) => canLoad(`libcudart.so.${WHEEL.exec(name)?.[1] ?? ""}`))
      : wheels[0];
  const name = chosen ?? wheels[0];
  return name === undefined ? null : join(folder, name, FILE);
}

function named(what: string, path: string, canLoad: (library: string) => boolean): string {
  const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  const found = isFolder ? inFolder(path, canLoad) : path;
  if (found !== null && existsSync(found)) return resolve(found);
  throw new CacheError(
    "INVALID_CONFIG",
    `${what} ${JSON.stringify(path)} holds no ${FILE}; ${HOW_TO_GET_IT}`,
    {
      details: { option: "library" },
    },
  );
}

/**
 * Where the library is: as the option says, else as the environment says, else in an installed wheel; null if it is
 * left to the dynamic loader.
 *
 * @param canLoad says whether the dynamic loader finds a library.
 * @throws CacheError `INVALID_CONFIG` if the place that is named does not hold it.
 */
export function findLibrary(
  option: string,
  environment: Environment = process.env,
  canLoad: (library: string) => boolean = () => false,
): string | null {
  if (option !== "") return named("library", option, canLoad);
  const variable = environment[LIBRARY_VARIABLE] ?? "";
  if (variable !== "") return named(LIBRARY_VARIABLE, variable, canLoad);
  for (const folder of pythonFolders(environment)) {
    const found = inFolder(folder, canLoad);
    if (found !== null) return found;
  }
  return null;
}

const loaded = new Map<string, NixlLibrary>();
let errorOutput: ErrorOutput | null = null;

/**
 * Finds and loads the library; once for each path, since it cannot be unloaded.
 *
 * @throws CacheError `UNSUPPORTED` if koffi or the library is missing, does not load, is a stub or too old: the
 *   message says how to get it. `INVALID_CONFIG` as {@link findLibrary}.
 */
export function loadNixl(option: string, environment: Environment = process.env): NixlLibrary {
  const koffi = loadKoffi();
  if (koffi === null) {
    throw new CacheError(
      "UNSUPPORTED",
      "NIXL needs the npm package koffi, which is not installed or has no binary for this machine; `npm install koffi`",
    );
  }
  const canLoad = (name: string): boolean => {
    try {
      koffi.load(name);
      return true;
    } catch {
      return false;
    }
  };
  const path = findLibrary(option, environment, canLoad) ?? FILE;
  const known = loaded.get(path);
  if (known !== undefined) return known;
  const library = load(koffi, path);
  loaded.set(path, library);
  return library;
}

function load(koffi: Koffi, path: string): NixlLibrary {
  let library: ForeignLibrary;
  let calls: NixlCalls;
  let isStub: unknown;
  try {
    library = koffi.load(path);
    isStub = library.func("bool nixl_capi_is_stub()")();
    calls = bindCalls(library);
  } catch (error) {
    const found = path === FILE ? "NIXL was not found" : `${path} cannot be used`;
    throw new CacheError("UNSUPPORTED", `${found} (${messageOf(error)}); ${HOW_TO_GET_IT}`, { cause: error });
  }
  if (isStub !== false) {
    throw new CacheError(
      "UNSUPPORTED",
      `${path} is a stub without the real NIXL behind it; ${HOW_TO_GET_IT}`,
    );
  }
  try {
    library.func(`int ${FUNCTION_OF_1_5}(void *, void *, size_t)`);
  } catch {
    throw new CacheError(
      "UNSUPPORTED",
      `${path} is older than NIXL 1.5, which reports failed input and output as done; ${HOW_TO_GET_IT}`,
    );
  }
  errorOutput ??= new ErrorOutput(koffi);
  return {
    path,
    calls,
    errorOutput,
    address: (buffer) => Number(koffi.address(buffer)),
    explainPlugin: (backend) => explainPlugin(koffi, path, backend),
  };
}

function explainPlugin(koffi: Koffi, path: string, backend: string): string | null {
  const folder = process.env["NIXL_PLUGIN_DIR"] || join(dirname(path), "plugins");
  const plugin = join(folder, `libplugin_${backend}.so`);
  if (!existsSync(plugin)) {
    const there = names(folder).flatMap((name) => /^libplugin_(.+)\.so$/.exec(name)?.[1] ?? []);
    return `${folder} has no plugin for it (it has ${there.sort().join(", ") || "none"})`;
  }
  try {
    koffi.load(plugin);
    return null;
  } catch (error) {
    return messageOf(error);
  }
}

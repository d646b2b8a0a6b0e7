import { CacheError, L2_API_VERSION } from "@cache/contracts";
import { readFileSync, realpathSync, statSync } from "node:fs";
import { basename, join, relative, resolve, sep } from "node:path";

/** Longest package.json that is read, in bytes. */
const PACKAGE_JSON_BYTES_MAX = 1024 * 1024;
const TYPE_GRAMMAR = /^[a-z0-9][a-z0-9_-]*$/;
/** Conditions of `exports` that an `import` of ours meets. */
const CONDITIONS = new Set(["node", "import", "module-sync", "default"]);

/** What package.json says of an adapter. */
export interface PackageManifest {
  readonly name: string;
  readonly version: string | null;
  readonly types: readonly string[];
  readonly hasManifest: boolean;
  readonly apiVersion: number | null;
  readonly entry: string | null;
  readonly problem: CacheError | null;
}

/** Reads package.json of a package; undefined if there is none. Never throws: what is wrong is in `problem`. */
export function readPackageManifest(directory: string): PackageManifest | undefined {
  const folderName = nameFromPath(directory);
  const file = join(directory, "package.json");
  const broken = (name: string, version: string | null, cause: string): PackageManifest => {
    const types = typesFromName(name, directory);
    return {
      name,
      version,
      types,
      hasManifest: false,
      apiVersion: null,
      entry: null,
      problem: new CacheError(
        "ADAPTER_LOAD_FAILED",
        `package ${name} (adapter type '${types.join(", ")}') cannot be read: ${cause} (${file}); reinstall or remove it`,
        { details: { package: name, types, directory } },
      ),
    };
  };
  let json: unknown;
  try {
    const stat = statSync(file, { throwIfNoEntry: false });
    if (stat === undefined) return undefined;
    if (stat.size > PACKAGE_JSON_BYTES_MAX) {
      return broken(
        folderName,
        null,
        `package.json has ${stat.size} bytes, more than ${PACKAGE_JSON_BYTES_MAX}`,
      );
    }
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    return broken(folderName, null, (error as Error).message);
  }
  if (!isRecord(json)) return broken(folderName, null, "package.json is not a JSON object");
  const name = typeof json["name"] === "string" && json["name"] !== "" ? json["name"] : folderName;
  const version = typeof json["version"] === "string" ? json["version"] : null;
  const entry = entryOf(json, directory);
  const declared = json["cacheL2"];
  if (declared === undefined) {
    const types = typesFromName(name, directory);
    return { name, version, types, hasManifest: false, apiVersion: null, entry, problem: null };
  }
  const manifest = parseManifest(declared);
  if (typeof manifest === "string") return broken(name, version, `"cacheL2" ${manifest}`);
  return { name, version, ...manifest, hasManifest: true, entry, problem: apiProblem(name, manifest) };
}

function apiProblem(
  name: string,
  manifest: { types: readonly string[]; apiVersion: number },
): CacheError | null {
  if (manifest.apiVersion === L2_API_VERSION) return null;
  const remedy = manifest.apiVersion > L2_API_VERSION ? "upgrade @cache/engine" : `upgrade ${name}`;
  return new CacheError(
    "ADAPTER_API_INCOMPATIBLE",
    `package ${name} (adapter type '${manifest.types.join(", ")}') was built for adapter API ${manifest.apiVersion}, this engine has ${L2_API_VERSION}; ${remedy}`,
    { details: { package: name, types: manifest.types, apiVersion: manifest.apiVersion } },
  );
}

function parseManifest(value: unknown): { types: readonly string[]; apiVersion: number } | string {
  if (!isRecord(value)) return 'must be an object like { "types": ["foo"], "apiVersion": 1 }';
  const { types, apiVersion } = value;
  if (!Array.isArray(types) || types.length === 0) return '"types" must be a list of at least one type';
  const names: string[] = [];
  for (const type of types) {
    if (typeof type !== "string" || !TYPE_GRAMMAR.test(type)) {
      return `"types" has ${JSON.stringify(type)}; use lower-case letters, digits, '_' and '-'`;
    }
    names.push(type);
  }
  if (typeof apiVersion !== "number" || !Number.isInteger(apiVersion)) {
    return `"apiVersion" must be an integer, is ${JSON.stringify(apiVersion)}`;
  }
  return { types: names, apiVersion };
}

/** `@cache/l2-foo`, `cache-l2-foo` and `@scope/cache-l2-foo` stand for type `foo`; else the folder's name decides. */
function typesFromName(name: string, directory: string): readonly string[] {
  const match = /^(?:@cache\/l2-|(?:@[^/]+\/)?cache-l2-|l2-)(.+)$/.exec(name);
  const fromFolder = /^(?:cache-)?l2-(.+)$/.exec(basename(directory));
  const type = match?.[1] ?? fromFolder?.[1] ?? name;
  return [type];
}

function nameFromPath(directory: string): string {
  const parts = directory.split(sep);
  const scope = parts.at(-2);
  return scope?.startsWith("@") === true ? `${scope}/${basename(directory)}` : basename(directory);
}

/** The file that `import` of the package loads, absolute; null if there is none inside the package. */
function entryOf(json: Record<string, unknown>, directory: string): string | null {
  const target =
    json["exports"] === undefined ? mainOf(json, directory) : exportTarget(rootExport(json["exports"]));
  if (target === null) return null;
  try {
    const real = realpathSync(directory);
    const path = realpathSync(resolve(directory, target));
    const inside = relative(real, path);
    return inside.startsWith("..") || !statSync(path).isFile() ? null : path;
  } catch {
    return null;
  }
}

function mainOf(json: Record<string, unknown>, directory: string): string | null {
  const main = typeof json["main"] === "string" ? json["main"] : "index.js";
  const candidates = [main, `${main}.js`, join(main, "index.js"), "index.js"];
  const isFile = (path: string) =>
    statSync(join(directory, path), { throwIfNoEntry: false })?.isFile() === true;
  return candidates.find(isFile) ?? null;
}

function rootExport(exported: unknown): unknown {
  if (isRecord(exported) && Object.keys(exported).some((key) => key.startsWith("."))) return exported["."];
  return exported;
}

function exportTarget(target: unknown): string | null {
  if (typeof target === "string") return target.startsWith("./") ? target : null;
  if (Array.isArray(target)) {
    for (const option of target) {
      const found = exportTarget(option);
      if (found !== null) return found;
    }
    return null;
  }
  if (!isRecord(target)) return null;
  for (const [condition, option] of Object.entries(target)) {
    const found = CONDITIONS.has(condition) ? exportTarget(option) : null;
    if (found !== null) return found;
  }
  return null;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

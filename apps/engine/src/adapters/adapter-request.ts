import { CacheError, messageOf } from "@cache/contracts";
import { type AdapterListing, listAdapters } from "@cache/discovery";
import { lstat, realpath } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, resolve, sep } from "node:path";
import { adapterSpec } from "../config/adapter-spec.ts";
import type { AdapterSpec, EngineConfig } from "../config/engine-config.ts";
import { maskSecrets } from "../config/mask.ts";
import { discoveryOptions, type ResolvedAdapter, resolveAdapter, schemaKeys } from "./resolve-adapters.ts";

/** Keys whose texts are paths, whatever they look like. */
const PATH_KEY =
  /(^|_)(path|paths|dir|dirs|directory|file|files|folder|root|library|socket|mount|device)$|(path|dir|file)name$/i;
/** Keys whose texts name code to be loaded: nothing that can be written over the network may become a program. */
const CODE_KEY =
  /(^|_)(librar(y|ies)|lib|plugins?|modules?|executable|program|command|script|preload)(_(path|dir|file|name)s?)?$/i;
/** A path below another option's: it must stay there. */
const RELATIVE_KEY = /^relative_/i;
/** Texts that lead to a file, under whatever key. */
const PATH_TEXT = /^(\/|~|\.{1,2}(\/|$)|file:)/i;

/** Time to look at a path, in milliseconds: a dead mount answers never, and the engine must not wait with it. */
const LOOK_MS_MAX = 3_000;

type Config = Readonly<Record<string, unknown>>;

/** An adapter that an operator asks for, checked, and what the journal keeps of it. */
export interface RequestedAdapter {
  readonly adapter: ResolvedAdapter;
  /** JSON with absolute, real paths and without secrets: it gives the same adapter again. */
  readonly config: string;
  readonly warnings: readonly string[];
}

/**
 * Checks the configuration of an adapter that comes over HTTP: its keys as at a start, and beyond that a type that
 * discovery lists, paths below a configured root, no secret and no code in it.
 *
 * @param taken ids that it does not get where it names none.
 * @param configured adapters of the command line: a path of theirs is taken in their spelling, so that the same data
 *   has the same location.
 * @throws CacheError `INVALID_CONFIG` naming key and fix, `ADAPTER_TYPE_UNKNOWN`, other errors of discovery.
 */
export async function requestedAdapter(
  raw: Config,
  discovery: EngineConfig["discovery"],
  taken: ReadonlySet<string>,
  configured: readonly AdapterSpec[] = [],
): Promise<RequestedAdapter> {
  const asked = adapterSpec(raw, taken);
  const listing = await listAdapters(discoveryOptions(discovery));
  assertListed(asked.type, listing);
  const { adapter: first } = await resolveAdapter(asked, listing);
  assertNoSecret(asked, schemaKeys(first.registration.configSchema));
  const spelled = new Map<string, string>();
  for (const { type, own } of configured) if (type === asked.type) await noteSpelling(own, spelled);
  const rules = { type: asked.type, roots: discovery.pathRoots, spelled };
  const own = (await realPaths(asked.own, rules)) as Config;
  const spec = { ...asked, own };
  const { adapter, warnings } = await resolveAdapter(spec, listing);
  return { adapter, warnings, config: JSON.stringify({ ...raw, ...own, type: spec.type, id: spec.id }) };
}

/** The same adapter again at a later start. @throws as {@link requestedAdapter} for keys and packages. */
export async function rememberedAdapter(
  id: string,
  config: string,
  discovery: EngineConfig["discovery"],
): Promise<ResolvedAdapter> {
  const spec = adapterSpec({ ...(JSON.parse(config) as Config), id }, new Set());
  const listing = await listAdapters(discoveryOptions(discovery));
  return (await resolveAdapter(spec, listing)).adapter;
}

/** Over HTTP no package is imported to see what it registers: it must be listed under that type. */
function assertListed(type: string, { packages }: AdapterListing): void {
  const usable = packages.filter((one) => one.allowed && one.shadowedBy === null && one.problem === null);
  if (usable.some(({ types }) => types.includes(type))) return;
  const listed = [...new Set(usable.flatMap(({ types }) => types))].sort().join(", ") || "none";
  throw new CacheError(
    "ADAPTER_TYPE_UNKNOWN",
    `type '${type}' is none of those that discovery lists (${listed}); install its package on the engine's host, or see \`npx @cache/engine adapters\``,
    { details: { type } },
  );
}

function assertNoSecret({ type, own }: AdapterSpec, keys: readonly string[]): void {
  const key = secretKey(own);
  if (key === null) return;
  const name = key.split(".").at(-1) ?? key;
  const instead = keys.filter((other) => other === `${name}_file` || other === `${name}_env`);
  const isUrl = /url|uri|endpoint/i.test(name);
  const fix =
    instead.length > 0
      ? `use '${instead.join("' or '")}'`
      : isUrl
        ? "leave the user part out of the URL and name the secret's file or environment variable"
        : "configure this adapter on the command line or in the file of --config";
  throw new CacheError(
    "INVALID_CONFIG",
    `adapter ('${type}'): '${key}' carries a secret, and what is added while the engine runs is kept in its journal: ${fix}`,
    { details: { type, key } },
  );
}

/** The first key whose value would be masked; null if none would. */
function secretKey(config: Config): string | null {
  const masked = maskSecrets(config) as Config;
  for (const [key, value] of Object.entries(config)) {
    if (JSON.stringify(masked[key]) === JSON.stringify(value)) continue;
    const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
    const inner = isObject ? secretKey(value as Config) : null;
    return inner === null ? key : `${key}.${inner}`;
  }
  return null;
}

/** Notes how a configuration writes each path, by the real path. */
async function noteSpelling(value: unknown, spelled: Map<string, string>, key = ""): Promise<void> {
  if (typeof value === "object" && value !== null) {
    for (const [name, item] of Object.entries(value))
      await noteSpelling(item, spelled, Array.isArray(value) ? key : name);
  }
  if (typeof value !== "string" || value === "" || RELATIVE_KEY.test(key)) return;
  if (!PATH_KEY.test(key) && !PATH_TEXT.test(value)) return;
  const path = resolve(value);
  // What cannot be looked at cannot be asked for either.
  const real = await inTime(realPath(path)).catch(() => path);
  spelled.set(real, path);
}

interface PathRules {
  readonly type: string;
  readonly roots: readonly string[];
  readonly spelled: ReadonlyMap<string, string>;
}

/** The value with every path in it made real, and held to lie below a root. */
async function realPaths(value: unknown, rules: PathRules, key = ""): Promise<unknown> {
  if (Array.isArray(value)) {
    const items: unknown[] = [];
    for (const item of value) items.push(await realPaths(item, rules, key));
    return items;
  }
  if (typeof value === "object" && value !== null) {
    const entries: [string, unknown][] = [];
    for (const [name, item] of Object.entries(value))
      entries.push([name, await realPaths(item, rules, name)]);
    return Object.fromEntries(entries);
  }
  return typeof value === "string" && value !== "" ? await checkedText(value, rules, key) : value;
}

async function checkedText(value: string, { type, roots, spelled }: PathRules, key: string): Promise<string> {
  const refuse = (text: string): CacheError =>
    new CacheError("INVALID_CONFIG", `adapter ('${type}'): ${key}: ${text}`, { details: { type, key } });
  if (CODE_KEY.test(key)) {
    throw refuse("it names code to load, which is not taken over HTTP: configure this adapter at the start");
  }
  if (RELATIVE_KEY.test(key)) {
    if (!isAbsolute(value) && !value.split(/[/\\]/).includes("..")) return value;
    throw refuse(`'${value}' leads out of the directory that it is relative to`);
  }
  if (!PATH_KEY.test(key) && !PATH_TEXT.test(value)) return value;
  if (roots.length === 0) {
    throw refuse(
      "paths are not taken over HTTP: start the engine with --adapter-path-root and the directory to allow",
    );
  }
  if (!isAbsolute(value)) throw refuse(`'${value}' must be an absolute path`);
  let real: string;
  try {
    real = await inTime(realPath(value));
  } catch (error) {
    throw refuse(`'${value}' cannot be looked at: ${messageOf(error)}`);
  }
  const troubles: string[] = [];
  for (const root of roots) {
    const below = await inTime(isBelow(real, root)).catch((error: unknown) => {
      const trouble = isAbsence(error)
        ? "does not exist: make it first (the engine need not be started again)"
        : `cannot be looked at: ${messageOf(error)}`;
      troubles.push(`; ${root} ${trouble}`);
      return false;
    });
    if (below) return spelled.get(real) ?? real;
  }
  const really = real === value ? "" : ` (which is ${real})`;
  throw refuse(
    `'${value}'${really} lies below none of --adapter-path-root: ${roots.join(", ")}${troubles.join("")}`,
  );
}

/** What `look` finds. @throws Error if it takes longer than a living filesystem needs. */
async function inTime<T>(look: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const text = `its filesystem does not answer in ${LOOK_MS_MAX / 1_000} s; check the mount`;
    timer = setTimeout(() => reject(new Error(text)), LOOK_MS_MAX);
  });
  try {
    return await Promise.race([look, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A path without links, `.` and `..`; its last parts need not exist. */
async function realPath(path: string): Promise<string> {
  if (path.split("/").includes("..")) throw new Error("it must not contain '..'");
  try {
    return await realpath(path);
  } catch (error) {
    if (!isAbsence(error) || dirname(path) === path) throw error;
    // Whoever writes through a link that leads nowhere makes what it names, wherever that is.
    const isThere = await lstat(path).then(
      () => true,
      (problem: unknown) => {
        if (isAbsence(problem)) return false;
        throw problem;
      },
    );
    if (isThere) throw new Error("it is a link that leads nowhere", { cause: error });
    return join(await realPath(dirname(path)), basename(path));
  }
}

function isAbsence(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOENT";
}

async function isBelow(path: string, root: string): Promise<boolean> {
  const real = await realpath(root);
  return path === real || path.startsWith(real.endsWith(sep) ? real : real + sep);
}

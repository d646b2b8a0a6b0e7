import { CacheError, messageOf } from "@cache/contracts";
import { readFileSync, statSync } from "node:fs";
import { parseTypedJson } from "./adapter-json.ts";
import type { ConfigOrigin } from "./engine-config.ts";
import { unknownKey } from "./issues.ts";
import { FOREIGN_FLAGS, type ForeignFlag } from "./lmcache-flags.ts";
import type { OptionInfo, OptionKind } from "./options.ts";

/** Longest configuration file, in bytes. */
const FILE_BYTES_MAX = 1024 * 1024;
const PREFIX = "CACHE_ENGINE_";
/** Variables that are no options: the file to read, and the switch that hides koffi (`@cache/libc`). */
const NO_OPTIONS = new Set([`${PREFIX}CONFIG`, `${PREFIX}NO_KOFFI`]);
const FOREIGN = new Map(FOREIGN_FLAGS.map((flag) => [flag.key, flag]));

/** A value before it is checked, and how to name its place in a message. */
export interface SourcedValue {
  readonly value: unknown;
  readonly origin: ConfigOrigin;
  /** E.g. `--port`, `CACHE_ENGINE_PORT` or `port in engine.yaml`. */
  readonly place: string;
}

/** What one source says: options by key, and warnings about what has no effect. */
export interface Source {
  readonly values: ReadonlyMap<string, SourcedValue>;
  readonly warnings: readonly string[];
}

/** Reads the configuration file: YAML, of which JSON is a part. */
export async function fileSource(path: string, options: readonly OptionInfo[]): Promise<Source> {
  const content = await parseFile(path);
  const known = [...options.map((option) => option.key), ...FOREIGN.keys()];
  const values = new Map<string, SourcedValue>();
  const warnings: string[] = [];
  for (const [key, raw] of Object.entries(content)) {
    const place = `${key} in ${path}`;
    const option = options.find((candidate) => candidate.key === key);
    const foreign = FOREIGN.get(key);
    if (option !== undefined) {
      const single = option.kind === "json-list" || option.kind === "list" ? !Array.isArray(raw) : false;
      values.set(key, { value: single ? [raw] : raw, origin: "file", place });
    } else if (foreign !== undefined) {
      noteForeign(foreign, raw, place, warnings);
    } else {
      throw new CacheError("INVALID_CONFIG", `${path}: unknown key ${unknownKey(key, known)}`, {
        details: { key },
      });
    }
  }
  return { values, warnings };
}

async function parseFile(path: string): Promise<Record<string, unknown>> {
  let content: unknown;
  try {
    const { size } = statSync(path);
    if (size > FILE_BYTES_MAX) throw new Error(`it has ${size} bytes, at most ${FILE_BYTES_MAX}`);
    const text = readFileSync(path, "utf8");
    const { parse } = await import("yaml");
    content = parse(text);
  } catch (error) {
    throw new CacheError("INVALID_CONFIG", `configuration file ${path} cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (content === null || content === undefined) return {};
  if (typeof content !== "object" || Array.isArray(content)) {
    throw new CacheError(
      "INVALID_CONFIG",
      `configuration file ${path} must hold keys and values, e.g. port: 5555`,
    );
  }
  return content as Record<string, unknown>;
}

/** Reads `CACHE_ENGINE_*`. */
export function environmentSource(
  environment: Readonly<Record<string, string | undefined>>,
  options: readonly OptionInfo[],
): Source {
  const known = [...options.map((option) => option.key), ...FOREIGN.keys()];
  const values = new Map<string, SourcedValue>();
  const warnings: string[] = [];
  for (const [place, text] of Object.entries(environment)) {
    if (!place.startsWith(PREFIX) || text === undefined || NO_OPTIONS.has(place)) continue;
    if (isServiceLink(place, text)) {
      warnings.push(`${place} was set by Kubernetes for a service of that name and is ignored`);
      continue;
    }
    const key = place.slice(PREFIX.length).toLowerCase();
    const option = options.find((candidate) => candidate.key === key);
    const foreign = FOREIGN.get(key);
    if (option !== undefined) {
      values.set(key, { value: fromEnvironment(text, option.kind, place), origin: "environment", place });
    } else if (foreign !== undefined) {
      noteForeign(foreign, toValue(text, foreign.values === "none" ? "boolean" : "text"), place, warnings);
    } else {
      const near = unknownKey(key, known).replace(
        /'([a-z0-9_]+)'\?/,
        (_, name: string) => `'${PREFIX}${name.toUpperCase()}'?`,
      );
      throw new CacheError(
        "INVALID_CONFIG",
        `environment variable ${place} is no option: unknown key ${near}`,
        {
          details: { key },
        },
      );
    }
  }
  return { values, warnings };
}

// A service named "cache-engine" makes Kubernetes set CACHE_ENGINE_PORT=tcp://… and CACHE_ENGINE_SERVICE_* in each pod.
function isServiceLink(name: string, text: string): boolean {
  return (
    /^CACHE_ENGINE_SERVICE_(HOST|PORT)/.test(name) ||
    /^CACHE_ENGINE_PORT_\d+_(TCP|UDP)/.test(name) ||
    (name === "CACHE_ENGINE_PORT" && /^(tcp|udp):\/\//.test(text))
  );
}

function fromEnvironment(text: string, kind: OptionKind, place: string): unknown {
  if (kind === "list") return text === "" ? [] : text.split(",").map((item) => item.trim());
  if (kind !== "json-list") return toValue(text, kind);
  if (text.trim() === "") return [];
  const parsed = parseJson(text, place);
  return Array.isArray(parsed) ? parsed : [parsed];
}

/** Values of flags: texts as they were typed, `true`/`false` for switches. */
export function flagSource(
  flags: Readonly<Record<string, string | boolean | readonly string[] | undefined>>,
  options: readonly OptionInfo[],
): Source {
  const values = new Map<string, SourcedValue>();
  const warnings: string[] = [];
  for (const [key, raw] of Object.entries(flags)) {
    if (raw === undefined) continue;
    const option = options.find((candidate) => candidate.key === key);
    const foreign = FOREIGN.get(key);
    if (foreign !== undefined) {
      noteForeign(foreign, raw, `--${key.replaceAll("_", "-")}`, warnings);
    } else if (option !== undefined) {
      values.set(key, { value: fromFlag(raw, option), origin: "flag", place: option.flag });
    }
  }
  return { values, warnings };
}

function fromFlag(raw: string | boolean | readonly string[], option: OptionInfo): unknown {
  if (typeof raw === "boolean") return raw;
  if (typeof raw === "string") return toValue(raw, option.kind);
  if (option.kind !== "json-list") return [...raw];
  return raw.map((text, index) => parseJson(text, `${option.flag} #${index + 1}`));
}

function parseJson(text: string, place: string): unknown {
  const value = parseTypedJson(text, place);
  if (place.includes("#") && (typeof value !== "object" || value === null || Array.isArray(value))) {
    throw new CacheError("INVALID_CONFIG", `${place}: expected a JSON object, got ${describeValue(value)}`);
  }
  return value;
}

function describeValue(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "a list" : `a ${typeof value}`;
}

function toValue(text: string, kind: OptionKind): unknown {
  if (kind === "number") return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  if (kind !== "boolean") return text;
  const word = text.trim().toLowerCase();
  if (["true", "1", "yes", "on"].includes(word)) return true;
  return ["false", "0", "no", "off", ""].includes(word) ? false : text;
}

function noteForeign(flag: ForeignFlag, value: unknown, place: string, warnings: string[]): void {
  // Turning off what is not there, and asking for the only thing there is, is what this engine does anyway.
  const harmless =
    value === false ||
    value === null ||
    (typeof value === "string" && (value === "" || flag.harmless.includes(value)));
  if (flag.action === "accepted" || harmless) return;
  if (flag.action === "refused") {
    throw new CacheError(
      "INVALID_CONFIG",
      `${place} is an option of LMCache's server that is refused here: ${flag.reason}`,
      {
        details: { key: flag.key },
      },
    );
  }
  warnings.push(`${place} has no effect: ${flag.reason}`);
}

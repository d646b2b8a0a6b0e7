import { CacheError } from "@cache/contracts";
import { z } from "zod";
import type { AdapterSpec, EvictionSpec } from "./engine-config.ts";
import { describeIssues } from "./issues.ts";

/** Most adapters in one configuration. */
const ADAPTERS_MAX = 64;

const flag = z.union([z.boolean(), z.literal([0, 1])]).transform(Boolean);

const evictionKeys = z.strictObject({
  eviction_policy: z
    .string()
    .superRefine((policy, context) => {
      if (policy === "LRU" || policy === "noop") return;
      const known = policy === "ARC" || policy === "IsolatedLRU";
      const text = known ? `'${policy}' is not served here; use LRU` : `must be LRU or noop, is '${policy}'`;
      context.addIssue({ code: "custom", message: text });
    })
    .meta({ description: "which objects leave the adapter: LRU or noop (none)", enum: ["LRU", "noop"] }),
  trigger_watermark: z
    .number()
    .min(0)
    .max(1)
    .default(0.8)
    .describe("share of the capacity in use that starts an eviction"),
  eviction_ratio: z
    .number()
    .min(0)
    .max(1)
    .default(0.2)
    .describe("share of the capacity that one eviction frees"),
});

/** The common keys under LMCache's names. The engine takes them out before the adapter's schema sees the rest. */
export const commonKeys = z.object({
  type: z
    .string()
    .regex(/^[a-z0-9][a-z0-9_-]*$/, "is a word of lower-case letters, digits, '_' and '-', e.g. fs")
    .describe("which adapter"),
  id: z.string().optional().describe("name of this adapter: its type, or its type, a dot and a word"),
  eviction: evictionKeys.nullish().describe("when objects leave the adapter; absent: never"),
  shared: flag.default(false).describe("other engines write to the same data"),
  persist_enabled: flag
    .default(true)
    .refine((keep) => keep, "what an adapter holds is kept when the engine stops; leave the key out")
    .describe("what an adapter holds is kept when the engine stops: true"),
  affinity_tag: z
    .string()
    .refine((tag) => tag === "_default", "there is one L1 here, with the tag '_default'; leave the key out")
    .default("_default")
    .describe("there is one L1 here, with the tag '_default'"),
  serde: z
    .unknown()
    .optional()
    .refine(
      (value) => value === undefined || value === null,
      "serialisers are not served here: objects are stored as they are; leave the key out, and do not share a store with nodes that use one",
    ),
});

const COMMON_KEYS = new Set(Object.keys(commonKeys.shape));

/**
 * Checks the common keys of each configured adapter and gives each its id.
 *
 * @param place where the list was given, for errors: the flag, or key and file.
 * @throws CacheError `INVALID_CONFIG` with the adapter's number (from 1), the key and the fix.
 */
export function adapterSpecs(
  list: readonly Readonly<Record<string, unknown>>[],
  place = "--l2-adapter",
): AdapterSpec[] {
  if (list.length > ADAPTERS_MAX) {
    throw new CacheError("INVALID_CONFIG", `${place}: ${list.length} adapters, at most ${ADAPTERS_MAX}`);
  }
  const parsed = list.map((raw, index) => parseCommon(raw, numbered(place, index + 1)));
  const taken = new Set<string>();
  for (const [index, { type, id }] of parsed.entries()) {
    if (id === undefined) continue;
    const where = numbered(place, index + 1);
    assertIdOf(where, type, id);
    if (taken.has(id))
      throw invalid(where, type, `id: '${id}' is the id of another adapter; give each its own`);
    taken.add(id);
  }
  return list.map((raw, index) => {
    const keys = parsed[index]!;
    const id = keys.id ?? freeId(keys.type, taken);
    taken.add(id);
    return specOf(raw, keys, id, numbered(place, index + 1).text);
  });
}

/** Where an adapter was configured, and its number there; null: no list names it. */
interface Where {
  readonly text: string;
  readonly number: number | null;
}

const ADDED: Where = { text: "adapter", number: null };

/** `--l2-adapter #1`, `l2_adapter #1 in engine.yaml`. */
function numbered(place: string, number: number): Where {
  const [name = "", ...file] = place.split(" ");
  return { text: [`${name} #${number}`, ...file].join(" "), number };
}

/**
 * The same for one adapter that comes while the engine runs.
 *
 * @param taken ids that an adapter without one does not get.
 * @throws CacheError `INVALID_CONFIG` with the key and the fix.
 */
export function adapterSpec(raw: Readonly<Record<string, unknown>>, taken: ReadonlySet<string>): AdapterSpec {
  const keys = parseCommon(raw, ADDED);
  const { type, id } = keys;
  if (id !== undefined) assertIdOf(ADDED, type, id);
  return specOf(raw, keys, id ?? freeId(type, taken), ADDED.text);
}

function specOf(
  raw: Readonly<Record<string, unknown>>,
  keys: z.output<typeof commonKeys>,
  id: string,
  place: string,
): AdapterSpec {
  return {
    place,
    id,
    type: keys.type,
    common: {
      shared: keys.shared,
      persistEnabled: keys.persist_enabled,
      affinityTag: keys.affinity_tag,
      eviction: evictionSpec(keys.eviction),
    },
    own: Object.fromEntries(Object.entries(raw).filter(([key]) => !COMMON_KEYS.has(key))),
  };
}

function parseCommon(raw: Readonly<Record<string, unknown>>, where: Where): z.output<typeof commonKeys> {
  if (raw["type"] === undefined)
    throw invalid(where, null, `missing 'type', e.g. {"type":"fs","base_path":"/data"}`);
  const result = commonKeys.safeParse(raw);
  if (result.success) return result.data;
  const type = typeof raw["type"] === "string" ? raw["type"] : null;
  throw invalid(where, type, describeIssues(result.error.issues, Object.keys(evictionKeys.shape), raw));
}

function assertIdOf(where: Where, type: string, id: string): void {
  if (isIdOf(type, id)) return;
  const rule = `must be '${type}' or '${type}.' and a name of letters, digits, '_' and '-'`;
  throw invalid(where, type, `id: '${id}' ${rule}`);
}

function isIdOf(type: string, id: string): boolean {
  return (
    id === type || (id.startsWith(`${type}.`) && /^[A-Za-z0-9_-]{1,64}$/.test(id.slice(type.length + 1)))
  );
}

function freeId(type: string, taken: ReadonlySet<string>): string {
  if (!taken.has(type)) return type;
  for (let number = 2; ; number++) {
    if (!taken.has(`${type}.${number}`)) return `${type}.${number}`;
  }
}

function evictionSpec(keys: z.output<typeof evictionKeys> | null | undefined): EvictionSpec | null {
  if (keys === null || keys === undefined) return null;
  return {
    policy: keys.eviction_policy === "noop" ? "noop" : "LRU",
    triggerWatermark: keys.trigger_watermark,
    ratio: keys.eviction_ratio,
  };
}

function invalid({ text: place, number }: Where, type: string | null, text: string): CacheError {
  const named = type === null ? "" : ` ('${type}')`;
  return new CacheError("INVALID_CONFIG", `${place}${named}: ${text}`, {
    details: { ...(number === null ? {} : { adapter: number }), ...(type === null ? {} : { type }) },
  });
}

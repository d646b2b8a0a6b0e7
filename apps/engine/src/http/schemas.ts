import { z } from "zod";

// Requests and replies of the management API: LMCache's fields, types and defaults (0.5.6).

const count = () => z.int().min(0);
/** Names of tiers. */
const tier = z.enum(["l1", "l2", "all"]);
/** A number in a query. */
const queryInt = (min: number, max: number) =>
  z.preprocess(
    (text) => (typeof text === "string" && /^-?\d{1,15}$/.test(text) ? Number(text) : text),
    z.int().min(min).max(max),
  );
/** A yes or no in a query. */
const queryFlag = () =>
  z.preprocess((text) => {
    if (typeof text !== "string") return text;
    if (/^(1|true|t|yes|y|on)$/i.test(text)) return true;
    return /^(0|false|f|no|n|off)$/i.test(text) ? false : text;
  }, z.boolean());

/** Keys of one delete. */
export const DELETE_KEYS_MAX = 10_000;

const encodedKey = z.object({
  chunk_hash_hex: z.string().describe("chunk hash, hexadecimal"),
  model_name: z.string(),
  kv_rank: z.int(),
  object_group_id: z.int().default(0),
  cache_salt: z.string().default(""),
});

export const clearRequest = z.object({ tier: tier.default("l1"), force: z.boolean().default(false) });
export const clearReply = z.object({ status: z.literal("ok"), cleared: z.object({ tier: z.literal("l1") }) });

export const objectsQuery = z.object({
  tier: tier.default("l2"),
  adapter: z.string().optional().describe("type or id of an adapter; default: the first"),
  model_name: z.string().optional(),
  page_size: queryInt(1, 5_000).default(500),
  page_token: z.string().optional(),
});
export const objectsReply = z.object({
  adapter: z.string(),
  shared: z.boolean(),
  entries: z.array(z.object({ key: encodedKey, size_bytes: count() })),
  next_page_token: z.string().nullable(),
});

export const deleteRequest = z.object({
  keys: z.array(encodedKey),
  tier: tier.default("l2"),
  force: z.boolean().default(false),
  adapter: z.string().nullable().default(null),
});
export const deleteReply = z.object({
  deleted: count(),
  skipped: count(),
  ok: z.boolean(),
  error: z.string().optional(),
});

export const prefetchRequest = z.object({
  model_name: z.string(),
  world_size: z.int(),
  token_ids: z.array(z.int()),
  cache_salt: z.string().default(""),
  source_tier: tier.default("l2"),
  target_tier: tier.default("l1"),
});
export const prefetchReply = z.union([
  z.object({ request_id: z.string(), chunks: count(), status: z.literal("submitted") }),
  z.object({ chunks: z.literal(0), status: z.literal("noop") }),
]);
export const prefetchStatusReply = z.union([
  z.object({ request_id: z.string(), status: z.literal("pending") }),
  z.object({
    request_id: z.string(),
    status: z.literal("completed"),
    found_keys: count(),
    total_keys: count(),
  }),
]);

export const checksumRequest = z.object({
  block_ids: z.array(z.int()).default([]),
  chunk_size: z.int().default(0),
  instance_id: z.int().default(0),
  layerwise: z.boolean().default(false),
});

export const quotaRequest = z.object({ limit_gb: z.number().min(0).describe("GiB (2^30 bytes)") });
export const quotaSetReply = z.object({
  cache_salt: z.string(),
  limit_gb: z.number(),
  status: z.literal("ok"),
});
export const quotaReply = z.object({
  cache_salt: z.string(),
  limit_gb: z.number(),
  current_usage_gb: z.number(),
  exists: z.boolean(),
});
export const quotaRemovedReply = z.object({
  cache_salt: z.string(),
  status: z.enum(["removed", "not_found"]),
});
export const quotasReply = z.object({
  users: z.record(z.string(), z.object({ limit_gb: z.number(), current_usage_gb: z.number() })),
});

export const adaptersReply = z.object({
  adapters: z.array(
    z.object({
      index: count(),
      type_name: z.string(),
      tier: z.literal("l2"),
      primary: z.boolean(),
      reconfigurable: z.boolean(),
      id: z.string(),
    }),
  ),
});

export const adapterSetReply = z.object({
  adapters: z.array(
    z.object({
      id: z.string(),
      type: z.string(),
      location: z.string(),
      stage: z.enum(["active", "draining", "removing"]),
      added: z.boolean().describe("it came while an engine ran"),
      healthy: z.boolean(),
      objects: count(),
      bytes: count(),
      queued_stores: count(),
    }),
  ),
  change: z
    .object({ operation: z.enum(["add", "drain", "remove"]), id: z.string(), seconds: count() })
    .nullable(),
  unsettled: z.array(z.object({ id: z.string(), operations: count() })),
});
export const adapterRequest = z.record(z.string(), z.unknown());
export const adapterAddedReply = z.object({
  id: z.string(),
  type: z.string(),
  location: z.string(),
  status: z.literal("added"),
});
export const drainQuery = z.object({
  drain_timeout: queryInt(0, 3_600)
    .optional()
    .describe("seconds for what is under way; default: --adapter-drain-timeout-seconds"),
});
export const removeQuery = drainQuery.extend({
  forget: queryFlag().default(false).describe("drop the account of what it holds, too"),
});
const drained = {
  id: z.string(),
  drained: z.boolean(),
  given_up_stores: count(),
  only_copies: z.object({ objects: count(), bytes: count() }),
};
export const adapterDrainedReply = z.object({ ...drained, status: z.literal("draining") });
export const adapterRemovedReply = z.object({
  ...drained,
  cut_prefetches: count(),
  stuck_operations: count(),
  status: z.literal("removed"),
});

export const loglevelQuery = z.object({ logger_name: z.string().optional(), level: z.string().optional() });
export const threadsQuery = z.object({
  name: z.string().optional(),
  thread_id: queryInt(0, Number.MAX_SAFE_INTEGER).optional(),
});
export const periodicQuery = z.object({
  level: z.string().optional(),
  running_only: queryFlag().default(false),
  active_only: queryFlag().default(false),
});

const size = z.union([z.int(), z.string()]);
export const daxL1Add = z.strictObject({ device_path: z.string(), size });
export const daxL1Remove = z.strictObject({
  device_path: z.string(),
  mode: z.enum(["drain"]).default("drain"),
});
const daxL2 = { adapter_index: z.int().default(0), device_path: z.string() };
export const daxL2Operations: Readonly<
  Record<string, z.ZodType<{ adapter_index: number; size?: number | string }>>
> = {
  add: z.strictObject({ ...daxL2, size }),
  remove: z.strictObject({
    ...daxL2,
    mode: z.enum(["migrate", "evict", "drain"]).default("migrate"),
    force: z.boolean().default(false),
  }),
  resize: z.strictObject({
    ...daxL2,
    size,
    mode: z.enum(["migrate", "evict"]).default("migrate"),
    force: z.boolean().default(false),
  }),
};
export const reconfigureRequest = z.looseObject({ adapter_index: z.int().default(0) });
export const reconfigureStatusReply = z.object({
  enabled: z.boolean(),
  backend: z.string(),
  num_adapters: count(),
  adapters: z.array(z.record(z.string(), z.unknown())),
});

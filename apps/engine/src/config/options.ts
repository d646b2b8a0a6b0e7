import { z } from "zod";

// One schema gives parsing, defaults, `--help`, `config check` and docs/reference/config.md. Keys are the names in
// a file; a flag has dashes in place of underscores; the environment has CACHE_ENGINE_ and capitals.

const HOURS_24_SECONDS = 86_400;
const count = (min: number, max: number) => z.number().int().min(min).max(max);
const amount = (min: number, max: number) => z.number().min(min).max(max);
const share = () => z.number().min(0).max(1);
const port = () => count(1, 65_535);
/** Names that stand in file names and in a shared-memory name. */
const fileSafe = (what: string) =>
  z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, `${what}: up to 64 letters, digits, '.', '_' and '-'`);
const refusedChoice = <T extends string>(allowed: readonly [T, ...T[]], refused: Record<string, string>) =>
  z
    .string()
    .transform((value, context): T => {
      const found = allowed.find((name) => name === value);
      if (found !== undefined) return found;
      const reason = refused[value] ?? `use ${allowed.join(" or ")}`;
      context.addIssue({ code: "custom", message: `'${value}' is not served here: ${reason}` });
      return z.NEVER;
    })
    // For the JSON Schema, which cannot see into a transform.
    .meta({ enum: [...allowed] });

const EVICTION_REFUSED = {
  ARC: "use LRU, which evicts by bytes and the tails of prefixes first",
  IsolatedLRU: "use LRU; limits per cache_salt are quotas and hold with it",
};

/** Names and texts of every option that has an effect. */
export const engineOptions = z.strictObject({
  host: z.string().min(1).default("127.0.0.1").describe("address of the RPC server (localhost is 127.0.0.1)"),
  port: port().default(5555).describe("port of the RPC server"),
  http_host: z.string().min(1).default("127.0.0.1").describe("address of the HTTP server"),
  http_port: port().default(8080).describe("port of the HTTP server"),
  http_allowed_host: z
    .array(z.string().min(1))
    .default([])
    .describe("Host header, beside loopback, with which HTTP requests may change something; repeatable"),
  http_token_file: z
    .string()
    .min(1)
    .optional()
    .describe(
      "file with the bearer token that changes over HTTP need; without it they are refused beyond loopback",
    ),
  metrics_salt_label: z
    .boolean()
    .default(false)
    .describe("metrics carry the tenant (cache_salt) as a label, for at most 100 tenants"),
  chunk_size: count(1, 65_536).default(256).describe("tokens of a chunk"),
  hash_algorithm: refusedChoice(["blake3"], {
    builtin: "its hashes differ from process to process; use blake3",
    sha256_cbor: "use blake3, LMCache's default",
  })
    .default("blake3")
    .describe("hash of token chunks; only blake3"),
  supported_transfer_mode: refusedChoice(["auto", "engine_driven"], {
    lmcache_driven:
      "the server would need CUDA to copy; use auto here and LMCACHE_MP_TRANSFER_MODE=engine_driven in vLLM's environment",
  })
    .default("auto")
    .describe("auto or engine_driven; both serve engine-driven clients"),

  l1_size_gb: amount(0.000_01, 65_536)
    .optional()
    .describe("size of L1 in GiB; default: the least of 4, a quarter of the memory and half of /dev/shm"),
  l1_align_bytes: count(4096, 1 << 30)
    .refine((value) => (value & (value - 1)) === 0, "must be a power of two")
    .default(4096)
    .describe("objects in L1 begin at multiples of this, in bytes"),
  shm_name: z
    .string()
    .regex(/^\/?[A-Za-z0-9._-]{0,200}$/, "letters, digits, '.', '_' and '-'")
    .optional()
    .describe(
      'name of the shared-memory pool; "" turns shared memory off; default: derived from the instance',
    ),
  shm_mode: z
    .string()
    .regex(/^0?[0-7]{3}$/, "three octal digits, e.g. 0600")
    .default("0600")
    .describe("mode of the pool file, octal"),
  shm_group: z.string().min(1).optional().describe("group of the pool file, by name or number"),
  l1_write_ttl_seconds: count(1, HOURS_24_SECONDS)
    .default(600)
    .describe("a hand-out that its client never commits is given up after this, in seconds"),
  l1_read_ttl_seconds: count(1, HOURS_24_SECONDS)
    .default(300)
    .describe("a lookup lock ends after this, in seconds"),
  store_wait_ms: count(0, 60_000)
    .default(200)
    .describe(
      "how long prepare_store waits for room in L1, in milliseconds; the client's model thread waits with it",
    ),
  free_pool_on_exit: z.boolean().default(false).describe("remove the pool at a clean stop"),
  eviction_policy: refusedChoice(["LRU", "noop"], EVICTION_REFUSED)
    .default("LRU")
    .describe("which objects leave L1: LRU or noop (none)"),
  eviction_trigger_watermark: share()
    .default(0.8)
    .describe("share of L1 in use that starts an eviction, 0 to 1"),
  eviction_ratio: share().default(0.2).describe("share of L1 that one eviction frees, 0 to 1"),

  l2_adapter: z
    .array(z.record(z.string(), z.unknown()))
    .default([])
    .describe('JSON of an L2 adapter, e.g. {"type":"fs","base_path":"/data"}; repeatable, in order'),
  default_l2_size_gb: amount(0, 1 << 20)
    .default(0)
    .describe(
      "without --l2-adapter: keep an fs adapter of at most this many GiB in the state directory; 0: none",
    ),
  l2_store_policy: z
    .enum(["default", "skip_l1"])
    .default("default")
    .describe("default, or skip_l1 to drop stored objects from L1"),
  l2_prefetch_policy: z
    .enum(["default", "retain"])
    .default("default")
    .describe("default, or retain to keep loaded objects in L1"),
  l2_prefetch_max_in_flight: count(1, 1024).default(8).describe("requests that load from L2 at a time"),
  l2_prefetch_timeout_ms: count(1, 600_000)
    .default(2000)
    .describe(
      "time for the prefetch of one request, in milliseconds, plus l2_prefetch_timeout_ms_per_1k_tokens",
    ),
  l2_prefetch_timeout_ms_per_1k_tokens: count(0, 60_000)
    .default(100)
    .describe("added for each 1,024 tokens, in milliseconds"),
  l2_prefetch_timeout_max_ms: count(1, 600_000)
    .default(30_000)
    .describe("most time for a prefetch, in milliseconds; then the longest prefix that arrived is served"),
  l2_lookup_timeout_ms: count(1, 600_000)
    .default(1000)
    .describe("time for a lookup in an adapter, in milliseconds"),
  l2_transfer_timeout_ms: count(1, 600_000)
    .default(5000)
    .describe(
      "time for a load or store of an adapter, in milliseconds, plus its bytes at l2_transfer_mb_per_second",
    ),
  l2_transfer_mb_per_second: amount(0.001, 1_000_000)
    .default(50)
    .describe("slowest rate that a load or store is given time for, in MB (10^6 bytes) per second"),
  l2_delete_timeout_ms: count(1, 600_000)
    .default(30_000)
    .describe("time for a delete of an adapter, in milliseconds"),
  l2_store_retries: count(0, 100).default(3).describe("how often a failed store is tried again"),
  adapter_drain_timeout_seconds: count(0, 3600)
    .default(60)
    .describe(
      "time for what is under way when an adapter is drained or removed while the engine runs, in seconds; then it goes on without",
    ),
  runtime_adapters: z
    .enum(["keep", "forget"])
    .default("keep")
    .describe(
      "what was changed about the adapters while an engine ran: keep, or forget to go back to those of l2_adapter",
    ),
  l2_breaker_failures: count(1, 10_000)
    .default(5)
    .describe("failures that open the circuit breaker of an adapter"),
  l2_breaker_window_ms: count(100, 3_600_000)
    .default(10_000)
    .describe("time in which these failures count, in milliseconds"),
  l2_breaker_probe_min_ms: count(10, 3_600_000)
    .default(1000)
    .describe(
      "time to the first probe of an open breaker, in milliseconds; doubled up to l2_breaker_probe_max_ms",
    ),
  l2_breaker_probe_max_ms: count(10, 3_600_000)
    .default(30_000)
    .describe("longest time between probes, in milliseconds"),

  session_ttl_seconds: count(1, HOURS_24_SECONDS)
    .default(600)
    .describe("a request session that is idle ends after this, in seconds"),
  max_sessions: count(1, 10_000_000).default(65_536).describe("request sessions kept at a time"),
  worker_reap_timeout_seconds: count(0, HOURS_24_SECONDS)
    .default(120)
    .describe("a worker that has pinged is dropped after this silence, in seconds; 0: never"),
  worker_registration_grace_seconds: count(0, 7 * HOURS_24_SECONDS)
    .default(3600)
    .describe("a worker that never pinged is dropped after this silence, in seconds"),
  kv_event_log_size: count(0, 10_000_000)
    .default(32_768)
    .describe("KV events kept for subscribers that fall behind; 0 turns KV events off"),
  client_grace_seconds: count(1, 7 * HOURS_24_SECONDS)
    .default(600)
    .describe(
      "where it cannot be seen who maps the pool: slots of a silent client are reused after this, in seconds",
    ),

  state_dir: z
    .string()
    .min(1)
    .optional()
    .describe(
      "directory of the journal and the adapters' state; none keeps it in memory; default: see docs/reference/config.md",
    ),
  instance_id: fileSafe("instance id")
    .optional()
    .describe("names this engine on its host; default: the RPC port"),
  cache_identity: z
    .string()
    .min(1)
    .max(1024)
    .optional()
    .describe(
      "opens a namespace of keys of its own: model revision, chat template, anything the key does not contain",
    ),
  journal_fsync: z
    .enum(["none", "batch", "always"])
    .default("batch")
    .describe("when the journal reaches the disk: none, batch (every 50 ms) or always (before replies)"),
  adapter_root: z
    .array(z.string().min(1))
    .default([])
    .describe("directory to search for adapter packages, in place of the usual ones; repeatable"),
  adapter_path_root: z
    .array(z.string().min(1))
    .default([])
    .describe(
      "directory below which an adapter that is added over HTTP may have its paths, and which must exist by then; without one it may have none; repeatable",
    ),
  adapter_allow: z
    .array(z.string().min(1))
    .default([])
    .describe("name of a package that may be imported as an adapter, and no others; repeatable"),
  log_level: z
    .enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"])
    .default("info")
    .describe("least level that is logged"),
});

/** Values of {@link engineOptions}, checked, with defaults. */
export type EngineOptions = z.output<typeof engineOptions>;
/** A key of {@link engineOptions}. */
export type OptionKey = keyof EngineOptions;

/** How text (a flag, an environment variable) becomes a value. */
export type OptionKind = "text" | "number" | "boolean" | "list" | "json-list";

/** What help, sources and docs need to know of an option. */
export interface OptionInfo {
  readonly key: OptionKey;
  readonly flag: string;
  readonly environment: string;
  readonly kind: OptionKind;
  readonly choices: readonly string[];
  readonly defaultValue: unknown;
  readonly description: string;
}

/** All options in the order of the schema. */
export function optionInfos(): OptionInfo[] {
  return Object.entries(engineOptions.shape).map(([key, schema]) => {
    const inner = unwrap(schema);
    return {
      key: key as OptionKey,
      flag: `--${key.replaceAll("_", "-")}`,
      environment: `CACHE_ENGINE_${key.toUpperCase()}`,
      kind: kindOf(key, inner),
      choices: inner instanceof z.ZodEnum ? inner.options.map(String) : [],
      defaultValue: schema instanceof z.ZodDefault ? schema.def.defaultValue : undefined,
      description: schema.description ?? "",
    };
  });
}

function unwrap(schema: z.core.$ZodType): z.core.$ZodType {
  return schema instanceof z.ZodDefault || schema instanceof z.ZodOptional
    ? unwrap(schema.def.innerType)
    : schema;
}

function kindOf(key: string, schema: z.core.$ZodType): OptionKind {
  if (schema instanceof z.ZodNumber) return "number";
  if (schema instanceof z.ZodBoolean) return "boolean";
  if (schema instanceof z.ZodArray) return key === "l2_adapter" ? "json-list" : "list";
  return "text";
}

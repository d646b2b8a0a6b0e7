import { resolve } from "node:path";
import { z } from "zod";
import { LIBRARY_VARIABLE } from "./library.ts";

/** Backends whose objects lie in files (LMCache 0.5.6). */
export const FILE_BACKENDS = ["POSIX", "GDS", "GDS_MT", "HF3FS", "IBM_SCALE"] as const;
/** Backends whose objects lie in an object store (LMCache 0.5.6). */
export const OBJECT_BACKENDS = ["OBJ", "AZURE_BLOB"] as const;

const GIB = 1024 ** 3;
const MODE_RULE = "three octal digits, with or without a leading 0, e.g. ";

/** The permission bits of `file_mode` or `directory_mode`, `NaN` if they are no such digits. Digits are octal. */
export function permissionBits(value: string | number): number {
  return /^0?[0-7]{3}$/.test(String(value)) ? Number.parseInt(String(value), 8) : Number.NaN;
}

const parameterValue = z.union([z.string(), z.number(), z.boolean()]).transform(String);

const backendParams = z
  .record(z.string(), parameterValue, {
    error: 'backend_params must be an object of names and values, e.g. {"file_path":"/mnt/nvme/kv"}',
  })
  .default({})
  .refine((params) => !Object.entries(params).some((pair) => pair.join("").includes("\0")), {
    error: "backend_params contains NUL: remove it",
  });

const library = z
  .string({ error: "library must be a string: the path of libnixl_capi.so, or a folder that holds it" })
  .refine((value) => !value.startsWith("~"), {
    error: "library begins with '~', which only a shell expands: write the home directory out",
  })
  .refine((value) => !value.includes("\0"), { error: "library contains NUL: remove it" })
  .default("")
  .describe(
    `Path of \`libnixl_capi.so\`, or a folder that holds it. Empty: \`${LIBRARY_VARIABLE}\`, else an installed wheel.`,
  );

const requestTimeout = z
  .number({ error: "request_timeout must be a number of seconds above 0, at most 3600" })
  .positive({ error: "request_timeout must be a number of seconds above 0, at most 3600" })
  .max(3600, { error: "request_timeout must be a number of seconds above 0, at most 3600" })
  .default(30)
  .describe(
    "Seconds after which a request counts as stalled and the adapter as unhealthy. NIXL cannot end one early.",
  );

function mode(option: string, needed: number, forbidden: number, example: string, who: string) {
  return z
    .union([z.string(), z.number()], { error: `${option} must be ${MODE_RULE}"${example}"` })
    .refine((value) => (permissionBits(value) & (needed | forbidden)) === needed, {
      error: (issue) =>
        `${option} is ${JSON.stringify(issue.input)}: write ${MODE_RULE}"${example}", and let the owner ${who}`,
    });
}

const fileMode = mode("file_mode", 0o600, 0o100, "0600", "read and write, not execute")
  .default("0600")
  .describe("Permissions of files, in octal digits. The owner's execute bit marks LMCache's files.");
const directoryMode = mode("directory_mode", 0o700, 0, "0700", "read, write and enter")
  .default("0700")
  .describe("Permissions of directories that the adapter makes, in octal digits.");

type Parameters = Readonly<Record<string, string>>;
type Complain = (parameter: string, message: string) => void;

function checkFileParameters(backend: string, params: Parameters, complain: Complain): void {
  const { file_path, use_direct_io } = params;
  const path = file_path ?? "";
  const inside = "in backend_params";
  if (path === "") {
    complain("file_path", `file_path ${inside} is required for ${backend}: name the directory for its files`);
  } else if (path.startsWith("~")) {
    complain(
      "file_path",
      `file_path ${inside} begins with '~', which only a shell expands: write the home directory out`,
    );
  } else if (/^\/(proc|sys)(\/|$)/.test(resolve(path))) {
    complain(
      "file_path",
      `file_path ${inside} lies in /proc or /sys, where no files can be kept: name a directory on a disk`,
    );
  }
  if (!/^(true|false)$/i.test(use_direct_io ?? "")) {
    complain(
      "use_direct_io",
      `use_direct_io ${inside} must be "true" or "false" for ${backend}: "true" bypasses the page cache`,
    );
  }
}

const staticOptions = z.strictObject({
  backend: z
    .enum([...FILE_BACKENDS, ...OBJECT_BACKENDS], {
      error: (issue) =>
        `backend ${JSON.stringify(issue.input) ?? "is missing: it"} must be one of ${[...FILE_BACKENDS, ...OBJECT_BACKENDS].join(", ")}`,
    })
    .describe("NIXL's name of the storage plugin."),
  backend_params: backendParams.describe(
    "Parameters for the plugin, passed on unchanged. Files: `file_path` and `use_direct_io` are required, `file_size` (bytes of a file) is the L1 alignment unless given. OBJ: `bucket`, `endpoint_override`, `region`, …",
  ),
  pool_size: z
    .number({ error: "pool_size must be a whole number above 0: how many files or objects the pool has" })
    .int({ error: "pool_size must be a whole number above 0: how many files or objects the pool has" })
    .positive({ error: "pool_size must be a whole number above 0: how many files or objects the pool has" })
    .max(2 ** 24, { error: "pool_size must be at most 16777216: use a larger file_size or object_size" })
    .describe("How many files or objects the pool has. Files are all open while the adapter is."),
  object_size: z
    .number({ error: "object_size must be a whole number of bytes above 0, or null" })
    .int({ error: "object_size must be a whole number of bytes above 0, or null" })
    .positive({ error: "object_size must be a whole number of bytes above 0, or null" })
    .max(4 * GIB, { error: "object_size must be at most 4294967296 (4 GiB)" })
    .nullable()
    .default(null)
    .describe(
      "OBJ and AZURE_BLOB: most bytes of one object of the pool; null: the L1 alignment, as LMCache has it. Best the length of a chunk.",
    ),
  pool_name: z
    .string({ error: "pool_name must be a word of letters, digits, '_', '-' and '.'" })
    .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/, {
      error: (issue) =>
        `pool_name ${JSON.stringify(issue.input)} must begin with a letter or digit and have at most 64 letters, digits, '_', '-' and '.'`,
    })
    .default("obj")
    .describe("What the names of the pool's files or objects begin with: each engine needs one of its own."),
  fsync: z
    .enum(["none", "data"], { error: "fsync must be none or data" })
    .default("none")
    .describe(
      "Before a store is acknowledged: nothing; data and slot map on the disk. With none the pool is empty after a power failure.",
    ),
  request_timeout: requestTimeout,
  file_mode: fileMode,
  directory_mode: directoryMode,
  library,
});

/** Options of `nixl_store`, without those common to all adapters. */
export const staticConfigSchema = staticOptions.superRefine((options, context) => {
  const { backend, backend_params, object_size } = options;
  const complain: Complain = (parameter, message) =>
    context.addIssue({ code: "custom", path: ["backend_params", parameter], message });
  if ((OBJECT_BACKENDS as readonly string[]).includes(backend)) return;
  checkFileParameters(backend, backend_params, complain);
  const size = Number(backend_params["file_size"] ?? 1);
  if (!Number.isSafeInteger(size) || size < 1) {
    complain(
      "file_size",
      `file_size ${JSON.stringify(backend_params["file_size"])} in backend_params must be a whole number of bytes, a multiple of the L1 alignment`,
    );
  }
  if (object_size !== null) {
    const message = `object_size is for OBJ and AZURE_BLOB: for ${backend} set file_size in backend_params`;
    context.addIssue({ code: "custom", path: ["object_size"], message });
  }
});

const dynamicOptions = z.strictObject({
  backend: z
    .enum(FILE_BACKENDS, {
      error: (issue) =>
        `backend ${JSON.stringify(issue.input) ?? "is missing: it"} must be one of ${FILE_BACKENDS.join(", ")}; for object stores use the type nixl_store`,
    })
    .describe("NIXL's name of the storage plugin."),
  backend_params: backendParams.describe(
    'Parameters for the plugin, passed on unchanged. Required: `file_path`, `use_direct_io`, `max_capacity_gb` (GiB; a store beyond it fails, and the engine may evict). `shard_dirs`: `"true"` spreads files over subdirectories.',
  ),
  fsync: z
    .enum(["none", "data", "full"], { error: "fsync must be none, data or full" })
    .default("none")
    .describe("Before a store is acknowledged: nothing; the file's data; the file and its directory entry."),
  request_timeout: requestTimeout,
  scan_interval_seconds: z
    .number({ error: "scan_interval_seconds must be a number of seconds, 1 or more" })
    .min(1, { error: "scan_interval_seconds must be a number of seconds, 1 or more" })
    .max(1_000_000, { error: "scan_interval_seconds must be at most 1000000" })
    .default(3600)
    .describe("Seconds from the end of one background scan of the directory to the start of the next."),
  file_mode: fileMode,
  directory_mode: directoryMode,
  library,
});

/** Options of `nixl_store_dynamic`, without those common to all adapters. */
export const dynamicConfigSchema = dynamicOptions.superRefine((options, context) => {
  const { backend, backend_params } = options;
  const complain: Complain = (parameter, message) =>
    context.addIssue({ code: "custom", path: ["backend_params", parameter], message });
  checkFileParameters(backend, backend_params, complain);
  const capacity = Number(backend_params["max_capacity_gb"] ?? Number.NaN);
  if (!(capacity > 0 && capacity <= 2 ** 22)) {
    complain(
      "max_capacity_gb",
      "max_capacity_gb in backend_params must be a number of GiB above 0, at most 4194304",
    );
  }
  if (!/^(true|false)$/i.test(backend_params["shard_dirs"] ?? "false")) {
    complain("shard_dirs", 'shard_dirs in backend_params must be "true" or "false"');
  }
});

/** A checked configuration of `nixl_store`. */
export type StaticConfig = z.output<typeof staticConfigSchema>;
/** A checked configuration of `nixl_store_dynamic`. */
export type DynamicConfig = z.output<typeof dynamicConfigSchema>;

/** True for a parameter that says "true" as LMCache reads it. */
export function isTrue(parameter: string | undefined): boolean {
  return (parameter ?? "").toLowerCase() === "true";
}

/** Bytes of `max_capacity_gb`. */
export function capacityBytes(config: DynamicConfig): number {
  return Math.floor(Number(config.backend_params["max_capacity_gb"]) * GIB);
}

import { resolve } from "node:path";
import { z } from "zod";

const MODE_RULE = "three octal digits, with or without a leading 0, e.g. ";

/**
 * The permission bits of `file_mode` or `directory_mode`, `NaN` if they are no such digits. Digits are octal, also
 * of a number: JSON and YAML have no octal notation that both read.
 */
export function permissionBits(value: string | number): number {
  return /^0?[0-7]{3}$/.test(String(value)) ? Number.parseInt(String(value), 8) : Number.NaN;
}

function mode(
  option: string,
  needed: number,
  example: string,
  who: string,
): z.ZodUnion<readonly [z.ZodString, z.ZodNumber]> {
  return z
    .union([z.string(), z.number()], { error: `${option} must be ${MODE_RULE}"${example}"` })
    .refine((value) => (permissionBits(value) & needed) === needed, {
      error: (issue) =>
        `${option} is ${JSON.stringify(issue.input)}: write ${MODE_RULE}"${example}", and let the owner ${who}`,
    });
}

function isRelativeDirectory(value: string): boolean {
  const parts = value.replace(/\/$/, "").split("/");
  return !value.includes("\0") && parts.every((part) => part !== "" && part !== "." && part !== "..");
}

/** Options of the `fs` adapter, without those common to all adapters. */
export const fsConfigSchema = z.strictObject({
  base_path: z
    .string({ error: "base_path is required: name the directory for the cache's files" })
    .min(1, { error: "base_path is empty: name the directory for the cache's files" })
    .refine((value) => !value.includes("\0"), { error: "base_path contains NUL: remove it" })
    .refine((value) => !value.startsWith("~"), {
      error: "base_path begins with '~', which only a shell expands: write the home directory out",
    })
    // Node's recursive mkdir never returns below /proc (Node 20).
    .refine((value) => !/^\/(proc|sys)(\/|$)/.test(resolve(value)), {
      error: "base_path lies in /proc or /sys, where no files can be kept: name a directory on a disk",
    })
    .describe(
      "Directory of the object files; made if absent. A relative path starts at the working directory.",
    ),
  relative_tmp_dir: z
    .string({ error: "relative_tmp_dir must be a string: a directory below base_path" })
    .refine(isRelativeDirectory, {
      error: (issue) =>
        `relative_tmp_dir ${JSON.stringify(issue.input)} must lie below base_path: a relative path without '.', '..' and empty parts`,
    })
    .refine((value) => value.split("/")[0] !== ".quarantine", {
      error: "relative_tmp_dir is '.quarantine', where damaged objects are kept: choose another name",
    })
    .nullable()
    .default(null)
    .describe(
      "Directory below `base_path` for files being written, on the same filesystem; null: `base_path`.",
    ),
  read_ahead_size: z
    .number({ error: "read_ahead_size must be a whole number of bytes above 0, or null" })
    .int({ error: "read_ahead_size must be a whole number of bytes above 0, or null" })
    .positive({ error: "read_ahead_size must be a whole number of bytes above 0, or null" })
    .max(2 ** 30, { error: "read_ahead_size must be at most 1 GiB (1073741824)" })
    .nullable()
    .default(null)
    .describe("Bytes of a first small read that starts the filesystem's read-ahead; null: one read."),
  use_odirect: z
    .boolean({ error: "use_odirect must be true or false" })
    .default(false)
    .describe("Bypass the page cache where length and address are multiples of the filesystem's block."),
  num_workers: z
    .number({ error: "num_workers must be a whole number, 0 to 16, or null" })
    .int({ error: "num_workers must be a whole number, 0 to 16, or null" })
    .min(0, { error: "num_workers must be 0 or more (0: no threads)" })
    .max(16, { error: "num_workers must be at most 16" })
    .nullable()
    .default(null)
    .describe("Threads for files, about 10 MB each; null: as many as cores, 2 to 4. 0: asynchronous calls."),
  max_capacity_gb: z
    .number({ error: "max_capacity_gb must be a number of GiB, 0 or more (0: no limit)" })
    .min(0, { error: "max_capacity_gb must be a number of GiB, 0 or more (0: no limit)" })
    .max(2 ** 22, { error: "max_capacity_gb must be at most 4194304 GiB" })
    .default(0)
    .describe(
      "Capacity in GiB (1024^3 bytes); a store beyond it fails, and the engine may evict. 0: no limit.",
    ),
  fsync: z
    .enum(["none", "data", "full"], { error: "fsync must be none, data or full" })
    .default("none")
    .describe("Before a store is acknowledged: nothing; the file's data; the file and its directory entry."),
  file_mode: mode("file_mode", 0o600, "0600", "read and write")
    .default("0600")
    .describe("Permissions of object files, in octal digits."),
  directory_mode: mode("directory_mode", 0o700, "0700", "read, write and enter")
    .default("0700")
    .describe("Permissions of directories that the adapter makes, in octal digits."),
  scan_interval_seconds: z
    .number({ error: "scan_interval_seconds must be a number of seconds, 1 or more" })
    .min(1, { error: "scan_interval_seconds must be a number of seconds, 1 or more" })
    .max(1_000_000, { error: "scan_interval_seconds must be at most 1000000" })
    .default(3600)
    .describe("Seconds from the end of one background scan of the directory to the start of the next."),
  scan_files_per_second: z
    .number({ error: "scan_files_per_second must be a whole number, 1 or more" })
    .int({ error: "scan_files_per_second must be a whole number, 1 or more" })
    .min(1, { error: "scan_files_per_second must be a whole number, 1 or more" })
    .max(1_000_000, { error: "scan_files_per_second must be at most 1000000" })
    .default(5000)
    .describe("Most files that the background scan measures in a second."),
});

/** A checked configuration. */
export type FsConfig = z.output<typeof fsConfigSchema>;

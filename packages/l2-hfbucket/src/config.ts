import { z } from "zod";

const HANDLE_FORM = "hf://buckets/<namespace>/<bucket>[/<prefix>]";
const HANDLE_HEAD = "hf://buckets/";

/** Where objects lie: a bucket, and what stands before their names in it. */
export interface BucketHandle {
  /** `namespace/bucket`. */
  readonly bucketId: string;
  /** Folder of the objects without slashes at its ends; empty for the bucket's root. */
  readonly prefix: string;
}

/**
 * Reads a handle as LMCache 0.5.6 does: surplus slashes are dropped, everything after the bucket is the prefix.
 * Null if it is none, or has a part that cannot stand in a URL as it is.
 */
export function parseBucketHandle(text: string): BucketHandle | null {
  const trimmed = text.trim();
  if (!trimmed.startsWith(HANDLE_HEAD)) return null;
  const [namespace, bucket, ...folders] = trimmed
    .slice(HANDLE_HEAD.length)
    .split("/")
    .filter((part) => part !== "");
  if (namespace === undefined || bucket === undefined) return null;
  const isName = (part: string): boolean => /^[A-Za-z0-9._-]+$/.test(part) && !/^\.{1,2}$/.test(part);
  if (!isName(namespace) || !isName(bucket)) return null;
  // oxlint-disable-next-line no-control-regex -- they are what is refused
  if (folders.some((part) => part === "." || part === ".." || /[\u0000-\u001f\u007f]/.test(part)))
    return null;
  return { bucketId: `${namespace}/${bucket}`, prefix: folders.join("/") };
}

/** A server's address without credentials, query or fragment, without a slash at its end; null if the text is none. */
export function parseEndpoint(text: string): string | null {
  if (!URL.canParse(text)) return null;
  const { protocol, username, password, search, hash, host, pathname } = new URL(text);
  if (protocol !== "https:" && protocol !== "http:") return null;
  if (host === "" || username !== "" || password !== "" || search !== "" || hash !== "") return null;
  return `${protocol}//${host}${pathname.replace(/\/+$/, "")}`;
}

/** Why a token cannot be one; null if it can. The Hub's client library refuses others before it sends them. */
export function tokenFault(token: string): string | null {
  if (!token.startsWith("hf_")) return "does not begin with hf_: use an access token of the Hub";
  return /^[\x21-\x7e]+$/.test(token)
    ? null
    : "contains spaces, line breaks or other characters: copy it anew";
}

/** Options of the `hfbucket` adapter, without those common to all adapters. */
export const hfBucketConfigSchema = z.strictObject({
  bucket_handle: z
    .string({ error: `bucket_handle is required: name the bucket as ${HANDLE_FORM}` })
    .refine((value) => parseBucketHandle(value) !== null, {
      error: (issue) =>
        `bucket_handle ${JSON.stringify(issue.input)} must be ${HANDLE_FORM}; namespace and bucket of letters, ` +
        "digits, '.', '_' and '-', no part '.' or '..'",
    })
    .describe(`\`${HANDLE_FORM}\`: the bucket, and a folder in it.`),
  token_env: z
    .string({ error: "token_env must be a string: the name of an environment variable" })
    .refine((value) => value === "" || /^(?!hf_)[A-Za-z_][A-Za-z0-9_]*$/.test(value), {
      error:
        "token_env is no name of an environment variable (letters, digits, '_'; a token begins with hf_): " +
        "give the name, not the token",
    })
    .default("HF_TOKEN")
    .describe("Environment variable with the access token; wins over `token` if it is set. Empty: none."),
  token: z
    .string({ error: "token must be a string or null: an access token of the Hub" })
    .refine((value) => tokenFault(value) === null, {
      error: (issue) => `token ${tokenFault(String(issue.input)) ?? ""}`,
    })
    .nullable()
    .default(null)
    .describe("Access token. On a command line everybody sees it (`ps`): prefer `token_env`."),
  create_bucket_if_missing: z
    .boolean({ error: "create_bucket_if_missing must be true or false" })
    .default(false)
    .describe("Make the bucket at the first store if it is not there."),
  download_tmp_dir: z
    .string({ error: "download_tmp_dir must be a string: a directory" })
    .min(1, { error: "download_tmp_dir is empty: name a directory, or leave it out" })
    .refine((value) => !value.includes("\0"), { error: "download_tmp_dir contains NUL: remove it" })
    .nullable()
    .default(null)
    .describe("LMCache's directory for downloads. Without effect: objects go from the network into memory."),
  metadata_cache_ttl_secs: z
    .number({ error: "metadata_cache_ttl_secs must be a number of seconds, 0 or more" })
    .min(0, { error: "metadata_cache_ttl_secs must be a number of seconds, 0 or more" })
    .max(86_400, { error: "metadata_cache_ttl_secs must be at most 86400" })
    .default(30)
    .describe(
      "Seconds for which it is remembered whether an object is there, and its length. 0: not at all.",
    ),
  num_workers: z
    .number({ error: "num_workers must be a whole number from 1 to 64" })
    .int({ error: "num_workers must be a whole number from 1 to 64" })
    .min(1, { error: "num_workers must be a whole number from 1 to 64" })
    .max(64, { error: "num_workers must be a whole number from 1 to 64" })
    .default(4)
    .describe("Most threads that hash, pack and transfer; started when there is work for them."),
  max_capacity_gb: z
    .number({ error: "max_capacity_gb must be a number of GiB, 0 or more (0: no limit)" })
    .min(0, { error: "max_capacity_gb must be a number of GiB, 0 or more (0: no limit)" })
    .max(2 ** 22, { error: "max_capacity_gb must be at most 4194304 GiB" })
    .default(0)
    .describe(
      "Capacity in GiB (1024^3 bytes); a store beyond it fails, and the engine may evict. 0: no limit.",
    ),
  endpoint: z
    .string({ error: "endpoint must be a string: the URL of the Hub" })
    .refine((value) => value === "" || parseEndpoint(value) !== null, {
      error:
        "endpoint must be an http or https URL without user, query and fragment, e.g. https://huggingface.co",
    })
    .default("")
    .describe("URL of the Hub. Empty: `HF_ENDPOINT`, else `https://huggingface.co`."),
  verify_content: z
    .boolean({ error: "verify_content must be true or false" })
    .default(true)
    .describe("Compare the hash of what was loaded with the one that the Hub has for the object."),
});

/** A checked configuration. */
export type HfBucketConfig = z.output<typeof hfBucketConfigSchema>;

/** What is worth telling about a configuration that is good. */
export function configNotes({ download_tmp_dir }: HfBucketConfig): string[] {
  if (download_tmp_dir === null) return [];
  return ["download_tmp_dir has no effect: objects go from the network into memory, and no file is written"];
}

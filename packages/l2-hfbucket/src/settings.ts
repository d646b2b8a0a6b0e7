import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { CacheError, messageOf } from "@cache/contracts";
import { type HfBucketConfig, parseBucketHandle, parseEndpoint, tokenFault } from "./config.ts";

const HUB = "https://huggingface.co";

type Environment = Readonly<Record<string, string | undefined>>;

/** Where the data is. */
export interface Place {
  /** URL of the Hub, without a slash at its end. */
  readonly endpoint: string;
  /** `namespace/bucket`. */
  readonly bucketId: string;
  /** What all names begin with: empty, or a folder with a slash at its end. */
  readonly namePrefix: string;
  /** Identifies the data; without secrets. */
  readonly location: string;
}

/**
 * Bucket, folder and Hub of a configuration.
 *
 * @throws CacheError `INVALID_CONFIG` for an `HF_ENDPOINT` that is no URL.
 */
export function placeOf(config: HfBucketConfig, environment: Environment = process.env): Place {
  const handle = parseBucketHandle(config.bucket_handle);
  if (handle === null) throw new TypeError("the configuration was not checked");
  const fromEnvironment = environment["HF_ENDPOINT"] || HUB;
  const endpoint = parseEndpoint(config.endpoint || fromEnvironment);
  if (endpoint === null) {
    throw new CacheError(
      "INVALID_CONFIG",
      "HF_ENDPOINT is no http or https URL without user, query and fragment: correct or unset it, or set endpoint",
    );
  }
  const { bucketId, prefix } = handle;
  const head = endpoint === HUB ? "hf://" : `${endpoint}/`;
  return {
    endpoint,
    bucketId,
    namePrefix: prefix === "" ? "" : `${prefix}/`,
    location: `${head}buckets/${bucketId}${prefix === "" ? "" : `/${prefix}`}`,
  };
}

function checked(token: string, from: string): string {
  const fault = tokenFault(token);
  if (fault === null) return token;
  throw new CacheError("INVALID_CONFIG", `the access token in ${from} ${fault}`);
}

/**
 * The access token: of `token_env`, else `token`, else where `huggingface_hub` looks (`HF_TOKEN`,
 * `HUGGING_FACE_HUB_TOKEN`, the file that a login left), else null: public buckets need none for reading.
 *
 * @throws CacheError `INVALID_CONFIG` for something that is no token; its value is not told.
 */
export async function readToken(
  config: HfBucketConfig,
  environment: Environment = process.env,
): Promise<string | null> {
  const own = config.token_env === "" ? "" : (environment[config.token_env] ?? "").trim();
  if (own !== "") return checked(own, `the environment variable ${config.token_env}`);
  if (config.token !== null) return config.token;
  for (const name of ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
    const value = (environment[name] ?? "").trim();
    if (value !== "") return checked(value, `the environment variable ${name}`);
  }
  const cache = environment["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  const home = environment["HF_HOME"] || join(cache, "huggingface");
  const file = environment["HF_TOKEN_PATH"] || join(home, "token");
  let text: string;
  try {
    text = (await readFile(file, "utf8")).trim();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return null;
    throw new CacheError("INVALID_CONFIG", `the token file ${file} cannot be read: ${messageOf(error)}`);
  }
  return text === "" ? null : checked(text, file);
}

import { readFile } from "node:fs/promises";
import type { ConnectionOptions as TlsOptions } from "node:tls";
import { CacheError, messageOf } from "@cache/contracts";
import { ENVIRONMENT, type NodeAddress, parseNodes, parseRedisUrl, type RedisConfig } from "./config.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** Where the data is: known before anything is read or opened, without secrets. */
export interface Place {
  readonly mode: "single" | "cluster" | "sentinel";
  /** The server; the nodes of a cluster to begin with; the Sentinels. At least one. */
  readonly nodes: readonly NodeAddress[];
  readonly sentinelMaster: string;
  readonly tls: boolean;
  readonly database: number;
  readonly keyPrefix: string;
  /** E.g. `redis://127.0.0.1:6379/0`, with `#prefix` if there is one. */
  readonly location: string;
}

/** `host:port`, an IPv6 address in brackets. */
export function addressText({ host, port }: NodeAddress): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** Reads the place out of a checked configuration. */
export function placeOf(config: RedisConfig, environment: Environment = process.env): Place {
  const fromUrl = parseRedisUrl(config.url);
  const tls = config.tls_enable || fromUrl?.tls === true;
  const database = config.database_id ?? fromUrl?.database ?? 0;
  const mode = config.cluster_mode ? "cluster" : config.sentinel_nodes === "" ? "single" : "sentinel";
  const listed = parseNodes(config.sentinel_nodes || config.startup_nodes);
  const nodes = listed ?? [fromUrl?.node ?? plainNode(config, environment)];
  const scheme = `redis${tls ? "s" : ""}${mode === "single" ? "" : `+${mode}`}`;
  const master = mode === "sentinel" ? `/${config.sentinel_master}` : "";
  const prefix = config.key_prefix === "" ? "" : `#${config.key_prefix}`;
  const location = `${scheme}://${nodes.map(addressText).join(",")}${master}/${database}${prefix}`;
  return {
    mode,
    nodes,
    sentinelMaster: config.sentinel_master,
    tls,
    database,
    keyPrefix: config.key_prefix,
    location,
  };
}

function plainNode(config: RedisConfig, environment: Environment): NodeAddress {
  const port = config.port ?? Number(environment[ENVIRONMENT.port] || 6379);
  if (!Number.isInteger(port) || port < 1 || port > 65535) {
    const value = JSON.stringify(environment[ENVIRONMENT.port]);
    throw new CacheError(
      "INVALID_CONFIG",
      `${ENVIRONMENT.port} ${value} is no port: set port, or a number from 1 to 65535`,
    );
  }
  return { host: config.host || (environment[ENVIRONMENT.host] ?? ""), port };
}

/** What a server wants to see. Never log it. */
export interface Credentials {
  readonly username: string;
  readonly password: string;
  readonly tls: TlsOptions | null;
}

async function readOption(option: keyof RedisConfig, path: string): Promise<Buffer> {
  try {
    const content = await readFile(path);
    if (content.length === 0) throw new Error("the file is empty");
    return content;
  } catch (error) {
    throw new CacheError(
      "INVALID_CONFIG",
      `${option} ${JSON.stringify(path)} cannot be read: ${messageOf(error)}`,
    );
  }
}

/**
 * Reads passwords, certificates and keys from where the configuration says they are.
 *
 * @throws CacheError `INVALID_CONFIG` for a file that cannot be read or holds no password.
 */
export async function readCredentials(
  config: RedisConfig,
  place: Place,
  environment: Environment = process.env,
): Promise<Credentials> {
  const fromUrl = parseRedisUrl(config.url);
  let password = config.password || (fromUrl?.password ?? "");
  if (config.password_file !== "") {
    const content = (await readOption("password_file", config.password_file)).toString("utf8");
    password = content.split(/\r?\n/, 1)[0] ?? "";
    if (password === "") {
      throw new CacheError(
        "INVALID_CONFIG",
        `password_file ${JSON.stringify(config.password_file)} has an empty first line`,
      );
    }
  }
  if (password === "") password = environment[ENVIRONMENT.password] ?? "";
  const username = config.username || fromUrl?.username || (environment[ENVIRONMENT.username] ?? "");
  return { username, password, tls: place.tls ? await readTls(config) : null };
}

async function readTls(config: RedisConfig): Promise<TlsOptions> {
  const tls: TlsOptions = {};
  if (config.tls_ca_file !== "") tls.ca = await readOption("tls_ca_file", config.tls_ca_file);
  if (config.tls_cert_file !== "") tls.cert = await readOption("tls_cert_file", config.tls_cert_file);
  if (config.tls_key_file !== "") tls.key = await readOption("tls_key_file", config.tls_key_file);
  return tls;
}

import { z } from "zod";

/** LMCache's environment variables for what the configuration leaves out (LMCache 0.5.6, `resp`). */
export const ENVIRONMENT = {
  host: "LMCACHE_RESP_HOST",
  port: "LMCACHE_RESP_PORT",
  username: "LMCACHE_RESP_USERNAME",
  password: "LMCACHE_RESP_PASSWORD",
} as const;

const NODES_RULE = "must be host:port, or several with commas between them, e.g. 10.0.0.1:6379,10.0.0.2:6379";
const PORT_RULE = "must be a whole number from 1 to 65535";
const NODES_MAX = 100;

/** A server's address. */
export interface NodeAddress {
  readonly host: string;
  readonly port: number;
}

/** The addresses of `host:port[,host:port…]`, `[v6]:port` too; null if the text is none. */
export function parseNodes(text: string): NodeAddress[] | null {
  const nodes: NodeAddress[] = [];
  for (const part of text.split(",")) {
    const [, bracketed, plain, port] =
      /^\s*(?:\[([^\]\s]+)\]|([^\s:[\]@/]+)):([0-9]{1,5})\s*$/.exec(part) ?? [];
    const host = bracketed ?? plain;
    if (host === undefined || Number(port) < 1 || Number(port) > 65535) return null;
    nodes.push({ host, port: Number(port) });
  }
  return nodes.length <= NODES_MAX ? nodes : null;
}

function text(option: string, what: string): z.ZodString {
  return z
    .string({ error: `${option} must be a string: ${what}` })
    .refine((value) => !/[\0\r\n]/.test(value), {
      error: `${option} contains NUL or a line break: remove it`,
    });
}

function nodeList(option: string): z.ZodString {
  return text(option, "addresses").refine((value) => value === "" || parseNodes(value) !== null, {
    error: (issue) => `${option} ${JSON.stringify(issue.input)} ${NODES_RULE} (at most ${NODES_MAX})`,
  });
}

function seconds(option: string): z.ZodNumber {
  const rule = `${option} must be a number of seconds above 0, at most 3600`;
  return z.number({ error: rule }).positive({ error: rule }).max(3600, { error: rule });
}

function file(option: string, what: string): z.ZodDefault<z.ZodString> {
  return text(option, `the path of ${what}`)
    .refine((value) => !value.startsWith("~"), {
      error: `${option} begins with '~', which only a shell expands: write the home directory out`,
    })
    .default("");
}

const optionsSchema = z.strictObject({
  host: text("host", "name or address of the server")
    .refine((value) => !/^(?:[^:]*|\[.*\]):\d*$/.test(value), {
      error: (issue) => `host ${JSON.stringify(issue.input)} ends in a port: the port has its own key: port`,
    })
    .refine((value) => !/[\s@/]/.test(value), {
      error: (issue) =>
        `host ${JSON.stringify(issue.input)} is no host name: leave scheme, user and port out, or use url`,
    })
    .default("")
    .describe(
      `Name or address of the server. Empty: \`${ENVIRONMENT.host}\`. Or use \`url\`, \`startup_nodes\`, \`sentinel_nodes\`.`,
    ),
  port: z
    .number({ error: `port ${PORT_RULE}` })
    .int({ error: `port ${PORT_RULE}` })
    .min(1, { error: `port ${PORT_RULE}` })
    .max(65535, { error: `port ${PORT_RULE}` })
    .nullable()
    .default(null)
    .describe(`Port of \`host\`. Null: \`${ENVIRONMENT.port}\`, else 6379.`),
  url: text("url", "redis://[user[:password]@]host[:port][/database]")
    .default("")
    .describe("`redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS."),
  startup_nodes: nodeList("startup_nodes")
    .default("")
    .describe("`host:port`, or several with commas: the nodes of a cluster that are asked for the others."),
  sentinel_nodes: nodeList("sentinel_nodes")
    .default("")
    .describe("`host:port`, or several with commas: Sentinels that know the master of `sentinel_master`."),
  sentinel_master: text("sentinel_master", "the name under which the Sentinels watch the master")
    .default("")
    .describe("Name under which the Sentinels watch the master."),
  cluster_mode: z
    .boolean({ error: "cluster_mode must be true or false" })
    .default(false)
    .describe("The servers are a Redis Cluster or Valkey Cluster."),
  username: text("username", "the ACL user")
    .default("")
    .describe(`ACL user. Empty: \`${ENVIRONMENT.username}\`, else the default user.`),
  password: text("password", "the password")
    .default("")
    .describe(
      `Password. On a command line everybody sees it (\`ps\`): prefer \`password_file\` or \`${ENVIRONMENT.password}\`.`,
    ),
  password_file: file("password_file", "a file with the password").describe(
    "File whose first line is the password; read at start.",
  ),
  database_id: z
    .number({ error: "database_id must be a whole number, 0 or more" })
    .int({ error: "database_id must be a whole number, 0 or more" })
    .min(0, { error: "database_id must be a whole number, 0 or more" })
    .max(1_000_000, { error: "database_id must be at most 1000000" })
    .nullable()
    .default(null)
    .describe("Database of the server, null for 0. LMCache's `resp` knows only 0, a cluster has only 0."),
  key_prefix: text("key_prefix", "what all keys begin with")
    .refine((value) => !value.includes("@"), {
      error: (issue) =>
        `key_prefix ${JSON.stringify(issue.input)} contains '@', which stands between prefix and key: remove it`,
    })
    .refine((value) => Buffer.byteLength(value) <= 256, { error: "key_prefix must have at most 256 bytes" })
    .default("")
    .describe("Namespace: keys get it and `@` in front. Not empty: not shared with LMCache's `resp`."),
  ttl_seconds: z
    .number({ error: "ttl_seconds must be a whole number of seconds above 0, or null" })
    .int({ error: "ttl_seconds must be a whole number of seconds above 0, or null" })
    .positive({ error: "ttl_seconds must be a whole number of seconds above 0, or null" })
    .max(2 ** 31, { error: "ttl_seconds must be at most 2147483648" })
    .nullable()
    .default(null)
    .describe("Seconds after which Redis drops an object; null: never. LMCache's `resp` writes without one."),
  num_workers: z
    .number({ error: "num_workers must be a whole number from 1 to 64" })
    .int({ error: "num_workers must be a whole number from 1 to 64" })
    .min(1, { error: "num_workers must be a whole number from 1 to 64" })
    .max(64, { error: "num_workers must be a whole number from 1 to 64" })
    .default(8)
    .describe("Most connections for objects, to each node of a cluster; opened when needed."),
  max_capacity_gb: z
    .number({ error: "max_capacity_gb must be a number of GiB, 0 or more (0: no limit)" })
    .min(0, { error: "max_capacity_gb must be a number of GiB, 0 or more (0: no limit)" })
    .max(2 ** 22, { error: "max_capacity_gb must be at most 4194304 GiB" })
    .default(0)
    .describe(
      "Capacity in GiB (1024^3 bytes); a store beyond it fails, and the engine may evict. 0: no limit.",
    ),
  request_timeout: seconds("request_timeout")
    .default(5)
    .describe(
      "Seconds that a server may be silent while it owes an answer; then its connection is replaced.",
    ),
  connection_timeout: seconds("connection_timeout")
    .default(10)
    .describe("Seconds for one attempt to connect."),
  tls_enable: z
    .boolean({ error: "tls_enable must be true or false" })
    .default(false)
    .describe("Talk TLS with all servers, Sentinels included. `rediss://` does the same."),
  tls_ca_file: file("tls_ca_file", "certificates of the authorities, PEM").describe(
    "Authorities to trust, PEM. Empty: those that Node brings.",
  ),
  tls_cert_file: file("tls_cert_file", "our certificate, PEM").describe("Certificate of our own, PEM."),
  tls_key_file: file("tls_key_file", "our certificate's key, PEM").describe("Its private key, PEM."),
  scan_interval_seconds: z
    .number({ error: "scan_interval_seconds must be a number of seconds, 1 or more" })
    .min(1, { error: "scan_interval_seconds must be a number of seconds, 1 or more" })
    .max(1_000_000, { error: "scan_interval_seconds must be at most 1000000" })
    .default(3600)
    .describe("Seconds from the end of one background count of the cache's keys to the start of the next."),
});

type Options = z.output<typeof optionsSchema>;
type Complain = (option: keyof Options, message: string) => void;

/** What a `url` says; null if it is none of ours. */
export function parseRedisUrl(url: string): {
  readonly node: NodeAddress;
  readonly tls: boolean;
  readonly username: string;
  readonly password: string;
  readonly database: number | null;
} | null {
  if (!URL.canParse(url)) return null;
  const { protocol, hostname, port, username, password, pathname, search, hash } = new URL(url);
  const path = pathname.replace(/^\//, "");
  if (protocol !== "redis:" && protocol !== "rediss:") return null;
  if (hostname === "" || search !== "" || hash !== "" || !/^[0-9]{0,7}$/.test(path) || port === "0")
    return null;
  try {
    return {
      node: { host: hostname.replace(/^\[|\]$/g, ""), port: port === "" ? 6379 : Number(port) },
      tls: protocol === "rediss:",
      username: decodeURIComponent(username),
      password: decodeURIComponent(password),
      database: path === "" ? null : Number(path),
    };
  } catch {
    return null; // a stray percent sign
  }
}

function checkPlace(options: Options, complain: Complain): void {
  const { host, url, startup_nodes, sentinel_nodes, sentinel_master, cluster_mode, port, database_id } =
    options;
  const given = Object.entries({ host, url, startup_nodes, sentinel_nodes }).filter(
    ([, value]) => value !== "",
  );
  if (given.length === 0 && (process.env[ENVIRONMENT.host] ?? "") === "") {
    complain(
      "host",
      `host is required: name the server (or url, startup_nodes, sentinel_nodes, or ${ENVIRONMENT.host})`,
    );
  }
  if (given.length > 1) {
    const names = given.map(([name]) => name);
    complain(
      names[1] as keyof Options,
      `${names.join(" and ")} both say where the server is: keep one of them`,
    );
  }
  if (url !== "" && parseRedisUrl(url) === null) {
    complain("url", "url must be redis://[user[:password]@]host[:port][/database], or rediss:// for TLS");
  }
  if (port !== null && given.some(([name]) => name !== "host")) {
    complain("port", "port belongs to host: write it into url, startup_nodes or sentinel_nodes");
  }
  if (startup_nodes.includes(",") && !cluster_mode) {
    complain("startup_nodes", "startup_nodes names several nodes: set cluster_mode to true, or keep one");
  }
  if (cluster_mode && sentinel_nodes !== "") {
    complain(
      "cluster_mode",
      "cluster_mode and sentinel_nodes exclude each other: a cluster has no Sentinels; remove one",
    );
  }
  if (sentinel_nodes !== "" && sentinel_master === "") {
    complain(
      "sentinel_master",
      "sentinel_master is required with sentinel_nodes: name the master that they watch",
    );
  }
  if (sentinel_nodes === "" && sentinel_master !== "") {
    complain("sentinel_nodes", "sentinel_nodes is required with sentinel_master: name the Sentinels");
  }
  const fromUrl = parseRedisUrl(url)?.database ?? null;
  if (cluster_mode && (database_id ?? fromUrl ?? 0) !== 0) {
    complain(
      "database_id",
      "database_id must be 0 with cluster_mode: a cluster has one database; use key_prefix",
    );
  }
  if (fromUrl !== null && database_id !== null && fromUrl !== database_id) {
    complain("database_id", "database_id differs from the database in url: keep one of them");
  }
}

function checkSecrets(options: Options, complain: Complain): void {
  const { username, password, password_file, url, tls_cert_file, tls_key_file, tls_ca_file, tls_enable } =
    options;
  const inUrl = parseRedisUrl(url);
  const passwords = { password, password_file, url: inUrl?.password ?? "" };
  const given = Object.entries(passwords).filter(([, value]) => value !== "");
  if (given.length > 1) {
    const names = given.map(([name]) => name);
    complain(
      names[0] as keyof Options,
      `${names.join(" and ")} both give a password: keep one, best password_file`,
    );
  }
  if (username !== "" && (inUrl?.username ?? "") !== "" && username !== inUrl?.username) {
    complain("username", "username differs from the user in url: keep one of them");
  }
  const hasUser = username !== "" || (inUrl?.username ?? "") !== "";
  if (hasUser && given.length === 0 && (process.env[ENVIRONMENT.password] ?? "") === "") {
    complain(
      "password_file",
      `a user without a password cannot log in: set password_file (or ${ENVIRONMENT.password})`,
    );
  }
  if ((tls_cert_file === "") !== (tls_key_file === "")) {
    const missing = tls_cert_file === "" ? "tls_cert_file" : "tls_key_file";
    complain(missing, `${missing} is required too: a certificate and its key go together`);
  }
  const tlsFile = Object.entries({ tls_ca_file, tls_cert_file, tls_key_file }).find(
    ([, value]) => value !== "",
  );
  if (tlsFile !== undefined && !tls_enable && inUrl?.tls !== true) {
    complain("tls_enable", `tls_enable must be true for ${tlsFile[0]} to count (or url rediss://)`);
  }
}

/** Options of the `resp` and `redis` adapter, without those common to all adapters. */
export const redisConfigSchema = optionsSchema.superRefine((options, context) => {
  const complain: Complain = (option, message) =>
    context.addIssue({ code: "custom", path: [option], message });
  checkPlace(options, complain);
  checkSecrets(options, complain);
});

/** A checked configuration. */
export type RedisConfig = z.output<typeof redisConfigSchema>;

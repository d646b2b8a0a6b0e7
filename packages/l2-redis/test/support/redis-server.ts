import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { until } from "../../../../tools/testing/src/adapter-fixtures.ts";
import { findRedis } from "./redis-program.ts";

/** A port that nobody listens on now, low enough for a cluster's second port 10000 above it. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    if ((await canListen(port)) && (await canListen(port + 10_000))) return port;
  }
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });
}

/** How the test itself gets in. */
export interface Login {
  readonly username?: string;
  readonly password?: string;
  readonly tls?: { readonly ca: Buffer; readonly cert: Buffer; readonly key: Buffer };
}

/** A real server in a directory of its own. */
export class RedisServer {
  readonly port: number;
  readonly directory: string;
  readonly #words: readonly string[];
  readonly #login: Login;
  #process: ChildProcess | null = null;
  #admin: Redis | null = null;

  private constructor(port: number, directory: string, words: readonly string[], login: Login) {
    this.port = port;
    this.directory = directory;
    this.#words = words;
    this.#login = login;
  }

  /** Starts one; `words` come on top of what keeps it small, local and quick. `login` is for {@link admin}. */
  static async start(words: readonly string[] = [], login: Login = {}): Promise<RedisServer> {
    const port = await freePort();
    const directory = await mkdtemp(join(tmpdir(), "cache-l2-redis-"));
    const server = new RedisServer(port, directory, words, login);
    await server.run();
    return server;
  }

  /** Starts the process (again) and waits until it answers. */
  async run(): Promise<void> {
    const program = await findRedis();
    if (program === null) throw new Error("no redis-server");
    const port =
      this.#login.tls === undefined
        ? ["--port", String(this.port)]
        : ["--port", "0", "--tls-port", String(this.port)];
    const base = ["--bind", "127.0.0.1", "--dir", this.directory, "--save", "", "--daemonize", "no"];
    await writeFile(join(this.directory, "redis.conf"), "", { flag: "a" });
    const isSentinel = this.#words.includes("--sentinel");
    const words = isSentinel
      ? [
          join(this.directory, "redis.conf"),
          "--sentinel",
          ...port,
          "--bind",
          "127.0.0.1",
          "--dir",
          this.directory,
        ]
      : [...port, ...base, ...this.#words];
    this.#process = spawn(program.path, words, { stdio: "ignore", env: program.environment });
    await until(() =>
      this.admin.ping().then(
        () => true,
        () => false,
      ),
    );
  }

  /** A client for the test itself. */
  get admin(): Redis {
    this.#admin ??= new Redis({
      host: "127.0.0.1",
      port: this.port,
      protocol: 2,
      disableClientInfo: true,
      maxRetriesPerRequest: 0,
      enableReadyCheck: false,
      retryStrategy: () => 5,
      ...this.#login,
    }).on("error", () => undefined);
    return this.#admin;
  }

  /** Sends a signal, e.g. SIGSTOP. */
  signal(signal: NodeJS.Signals): void {
    this.#process?.kill(signal);
  }

  /** Ends the process at once and waits for its end. */
  async kill(): Promise<void> {
    const ending = this.#process;
    this.#process = null;
    if (ending === null || ending.exitCode !== null || ending.signalCode !== null) return;
    await new Promise<void>((resolve) => {
      ending.once("exit", () => resolve());
      ending.kill("SIGKILL");
    });
  }

  /** Ends it and removes its directory. */
  async destroy(): Promise<void> {
    this.#admin?.disconnect();
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** Three masters that share the slots. */
export async function startCluster(): Promise<RedisServer[]> {
  const words = [
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "2000",
    "--cluster-require-full-coverage",
    "no",
  ];
  const servers = await Promise.all([0, 1, 2].map(() => RedisServer.start(words)));
  const [first] = servers as [RedisServer];
  const share = Math.ceil(16_384 / servers.length);
  for (const [i, server] of servers.entries()) {
    await server.admin.call("CLUSTER", "ADDSLOTSRANGE", i * share, Math.min(16_383, (i + 1) * share - 1));
    await server.admin.call("CLUSTER", "SET-CONFIG-EPOCH", i + 1);
  }
  for (const server of servers.slice(1)) await first.admin.call("CLUSTER", "MEET", "127.0.0.1", server.port);
  await until(async () => {
    const infos = await Promise.all(servers.map((server) => server.admin.call("CLUSTER", "INFO")));
    return infos.every(
      (info) => /cluster_state:ok/.test(String(info)) && /cluster_slots_ok:16384/.test(String(info)),
    );
  });
  return servers;
}

import { abortedError, orAborted } from "@cache/adapter-kit";
import { CacheError } from "@cache/contracts";
import type { Cluster, Redis } from "ioredis";
import type { NodeAddress } from "./config.ts";
import { backendError, type Redact } from "./errors.ts";
import { clusterSlot } from "./names.ts";
import { addressText, type Credentials, type Place } from "./settings.ts";

/** Commands that go to a node in one write. */
const PIPELINE_COMMANDS = 1024;
/** Pauses between attempts to connect again, in milliseconds: the first, and the longest. */
const RETRY_MIN_MS = 50;
const RETRY_MAX_MS = 2000;

/** A command, in lower case as the library wants it, whose first argument is a key of ours. */
export type KeyCommand = readonly [command: string, name: string, ...rest: readonly (string | number)[]];

/** One node, for commands that are not about one key. */
export interface TopologyNode {
  readonly address: string;
  call(command: string, ...words: (string | number)[]): Promise<unknown>;
}

/** What a {@link Topology} works with. */
export interface TopologyOptions {
  readonly place: Place;
  readonly credentials: Credentials;
  readonly connectTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly redact: Redact;
}

/**
 * Who serves which key, through ioredis: it finds the nodes of a cluster and the master behind Sentinels, logs in,
 * connects again, and carries everything that is not the bytes of an object.
 */
export class Topology {
  readonly #options: TopologyOptions;
  #single: Redis | null = null;
  #cluster: Cluster | null = null;
  #isOpened = false;
  #isClosed = false;
  #lastError: unknown = null;

  constructor(options: TopologyOptions) {
    this.#options = options;
  }

  /**
   * Connects.
   *
   * @throws CacheError `BACKEND_UNAVAILABLE` if nobody answers, `BACKEND_REFUSED` if we are not let in.
   */
  async open(signal: AbortSignal): Promise<void> {
    const { Cluster: ClusterClient, Redis: RedisClient } = await import("ioredis");
    if (this.#isClosed || signal.aborted) throw abortedError();
    const { place } = this.#options;
    if (place.mode === "cluster") this.#cluster = this.#makeCluster(ClusterClient);
    else this.#single = new RedisClient(this.#redisOptions());
    const client = this.#cluster ?? this.#single;
    if (client === null) throw new TypeError("no client was made");
    // Without a listener the library writes to the console.
    client.on("error", (error: unknown) => {
      this.#lastError = error;
    });
    client.on("node error", (error: unknown) => {
      this.#lastError = error;
    });
    const end = (): void => client.disconnect();
    signal.addEventListener("abort", end, { once: true });
    try {
      await client.connect();
      this.#isOpened = true;
    } catch (error) {
      client.disconnect();
      if (signal.aborted || this.#isClosed) throw abortedError();
      throw this.#error(this.#lastError ?? error, "connect to");
    } finally {
      signal.removeEventListener("abort", end);
    }
  }

  /** Disconnects. */
  close(): void {
    this.#isClosed = true;
    this.#single?.disconnect();
    this.#cluster?.disconnect();
  }

  /** True while the server, or the cluster, is there. */
  get isReady(): boolean {
    return (this.#single ?? this.#cluster)?.status === "ready";
  }

  #retryDelay(attempt: number): number | null {
    if (!this.#isOpened || this.#isClosed) return null;
    return Math.min(RETRY_MIN_MS * 2 ** Math.min(attempt - 1, 10), RETRY_MAX_MS);
  }

  /** What holds for each connection, whatever it leads to. */
  #loginOptions() {
    const { credentials, connectTimeoutMs, requestTimeoutMs } = this.#options;
    const { username, password, tls } = credentials;
    return {
      protocol: 2 as const,
      replyMapping: "legacy" as const,
      disableClientInfo: true,
      connectionName: "cache-engine",
      connectTimeout: connectTimeoutMs,
      socketTimeout: requestTimeoutMs,
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 0,
      ...(username !== "" && { username }),
      ...(password !== "" && { password }),
      ...(tls !== null && { tls }),
    };
  }

  #redisOptions() {
    const { place, credentials, requestTimeoutMs } = this.#options;
    const { tls } = credentials;
    const address = place.nodes[0];
    const common = {
      ...this.#loginOptions(),
      lazyConnect: true,
      db: place.database,
      enableOfflineQueue: false,
      retryStrategy: (attempt: number) => this.#retryDelay(attempt),
    };
    if (place.mode !== "sentinel") return address === undefined ? common : { ...common, ...address };
    return {
      ...common,
      sentinels: [...place.nodes],
      name: place.sentinelMaster,
      failoverDetector: true,
      sentinelRetryStrategy: (attempt: number) => this.#retryDelay(attempt),
      sentinelReconnectStrategy: () => RETRY_MAX_MS,
      sentinelCommandTimeout: requestTimeoutMs,
      // A master that became a replica: ask the Sentinels again.
      reconnectOnError: (error: Error) => error.message.startsWith("READONLY"),
      ...(tls !== null && { enableTLSForSentinelMode: true, sentinelTLS: tls }),
    };
  }

  #makeCluster(ClusterClient: typeof Cluster): Cluster {
    const { place, connectTimeoutMs, credentials } = this.#options;
    return new ClusterClient([...place.nodes], {
      lazyConnect: true,
      enableOfflineQueue: false,
      redisOptions: this.#loginOptions(),
      slotsRefreshTimeout: connectTimeoutMs,
      slotsRefreshInterval: 30_000,
      clusterRetryStrategy: (attempt) => this.#retryDelay(attempt),
      // A certificate names hosts, not the addresses that a look-up gives.
      ...(credentials.tls !== null && { dnsLookup: (host, done) => done(null, host) }),
    });
  }

  #error(error: unknown, action: string): CacheError {
    return backendError(error, action, this.#options.place.location, this.#options.redact);
  }

  #unavailable(what: string): CacheError {
    const { location, mode } = this.#options.place;
    const seen = this.#lastError === null ? "" : ` (${this.#error(this.#lastError, "reach").message})`;
    return new CacheError(
      "BACKEND_UNAVAILABLE",
      `${what} of ${location} is not known now${seen}; the ${mode} is asked again`,
    );
  }

  /**
   * The node that holds a key now, as far as the library knows.
   *
   * @throws CacheError `BACKEND_UNAVAILABLE` while it does not know.
   */
  nodeOf(name: string): NodeAddress {
    const { place } = this.#options;
    if (place.mode === "single") return place.nodes[0] as NodeAddress;
    if (place.mode === "sentinel") return this.#master();
    const slot = clusterSlot(name);
    const key = this.#cluster?.slots[slot]?.[0];
    if (key === undefined) this.refresh();
    // Whoever is asked first says where the slot is.
    return (key === undefined ? null : addressOf(key)) ?? (place.nodes[0] as NodeAddress);
  }

  /** Where the library's own connection leads: to the master that the Sentinels named. */
  #master(): NodeAddress {
    const { remoteAddress, remotePort } = this.#single?.stream ?? {};
    if (this.#single?.status !== "ready" || remoteAddress === undefined || remotePort === undefined) {
      throw this.#unavailable("the master");
    }
    return { host: remoteAddress, port: remotePort };
  }

  /** Asks the cluster anew who serves what; does not wait. */
  refresh(): void {
    if (!this.#isClosed && this.#cluster?.status === "ready") this.#cluster.refreshSlotsCache();
  }

  /** The masters, or the one server. */
  nodes(): TopologyNode[] {
    const clients = this.#cluster?.nodes("master") ?? (this.#single === null ? [] : [this.#single]);
    const { place } = this.#options;
    return clients
      .map((client) => {
        const { host = "", port = 0 } = client.options;
        const address = place.mode === "cluster" ? addressText({ host, port }) : this.#singleAddress();
        return {
          address,
          call: async (command: string, ...words: (string | number)[]): Promise<unknown> => {
            try {
              return await client.call(command, ...words);
            } catch (error) {
              throw this.#error(error, `run ${command} on`);
            }
          },
        };
      })
      .toSorted((a, b) => (a.address < b.address ? -1 : 1));
  }

  #singleAddress(): string {
    try {
      return addressText(this.nodeOf(""));
    } catch {
      return "?";
    }
  }

  /**
   * Runs commands of one key each, in one write a node. One result a command: its reply or its error.
   *
   * @throws CacheError `ABORTED` as soon as the signal fires: nothing of ours is touched by a late reply.
   */
  async run(commands: readonly KeyCommand[], signal: AbortSignal): Promise<unknown[]> {
    const results: unknown[] = [];
    for (let at = 0; at < commands.length; at += PIPELINE_COMMANDS) {
      const part = commands.slice(at, at + PIPELINE_COMMANDS);
      results.push(...(await orAborted(this.#runPart(part), signal)));
    }
    return results;
  }

  async #runPart(commands: readonly KeyCommand[]): Promise<unknown[]> {
    const results: unknown[] = commands.map(() => null);
    const byClient = new Map<Redis, number[]>();
    for (const [i, command] of commands.entries()) {
      const client = this.#single ?? this.#clientOf(command[1]);
      if (client === null) results[i] = this.#unavailable("the node of a key");
      else byClient.set(client, [...(byClient.get(client) ?? []), i]);
    }
    const parts = [...byClient].map(async ([client, positions]) => {
      const calls = positions.map((i) => [...(commands[i] as KeyCommand)]);
      try {
        const replies = (await client.pipeline(calls).exec()) ?? [];
        for (const [n, i] of positions.entries()) {
          const [error, reply] = replies[n] ?? [new Error("the connection was lost"), null];
          results[i] = error ?? reply;
        }
      } catch (error) {
        for (const i of positions) results[i] = error;
      }
    });
    await Promise.all(parts);
    return Promise.all(results.map((result, i) => this.#settle(commands[i] as KeyCommand, result)));
  }

  #clientOf(name: string): Redis | null {
    const key = this.#cluster?.slots[clusterSlot(name)]?.[0];
    const found = this.#cluster
      ?.nodes("master")
      .find(({ options }) => `${options.host}:${options.port}` === key);
    if (found === undefined) this.refresh();
    return found ?? null;
  }

  /** Sends what a cluster node sent elsewhere again, through the library, which follows redirections. */
  async #settle(command: KeyCommand, result: unknown): Promise<unknown> {
    if (!(result instanceof Error)) return result;
    const isMoved = this.#cluster !== null && /^(MOVED|ASK|TRYAGAIN) /.test(result.message);
    if (!isMoved) return this.#error(result, "talk to");
    this.refresh();
    try {
      const [word, ...words] = command;
      return await this.#cluster?.call(word, ...words);
    } catch (error) {
      return this.#error(error, "talk to");
    }
  }
}

/** The address of `host:port` as the library and the servers write it, IPv6 without brackets too. */
export function addressOf(text: string): NodeAddress | null {
  const colon = text.lastIndexOf(":");
  const host = text.slice(0, colon).replace(/^\[|\]$/g, "");
  const port = Number(text.slice(colon + 1));
  return colon < 0 || host === "" || !Number.isInteger(port) || port < 1 || port > 65535
    ? null
    : { host, port };
}

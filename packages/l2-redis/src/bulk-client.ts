import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { abortedError } from "@cache/adapter-kit";
import { isCacheError } from "@cache/contracts";
import type { OnRead } from "./bulk-connection.ts";
import { BulkPool } from "./bulk-pool.ts";
import type { BulkRequest } from "./bulk-request.ts";
import type { NodeAddress } from "./config.ts";
import { backendError, type Redact } from "./errors.ts";
import { addressText, type Credentials, type Place } from "./settings.ts";
import { addressOf, type Topology } from "./topology.ts";

/** Times a cluster may send one request elsewhere. */
const REDIRECTS_MAX = 5;

/** What a {@link BulkClient} works with. */
export interface BulkClientOptions {
  readonly topology: Topology;
  readonly place: Place;
  readonly credentials: Credentials;
  readonly connectionsMax: number;
  readonly connectTimeoutMs: number;
  readonly stallTimeoutMs: number;
  readonly ttlSeconds: number | null;
  readonly redact: Redact;
  /** An object was read or written whole, also where its caller has given up. */
  readonly transferred: (request: BulkRequest) => void;
}

/** Reads and writes objects over connections of its own; the topology says to which node. */
export class BulkClient {
  readonly #options: BulkClientOptions;
  readonly #handshake: readonly (readonly string[])[];
  readonly #pools = new Map<string, BulkPool>();
  #lostConnections = 0;
  #isClosed = false;

  constructor(options: BulkClientOptions) {
    this.#options = options;
    const { username, password } = options.credentials;
    const handshake: string[][] = [];
    if (username !== "") handshake.push(["AUTH", username, password]);
    else if (password !== "") handshake.push(["AUTH", password]);
    if (options.place.database !== 0) handshake.push(["SELECT", String(options.place.database)]);
    this.#handshake = handshake;
  }

  /** Plain figures for an operator, a node each. */
  get nodes(): readonly Record<string, unknown>[] {
    return [...this.#pools].map(([node, pool]) => ({ node, ...pool.figures }));
  }

  /** Connections lost since the start. */
  get lostConnections(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.lostConnections, this.#lostConnections);
  }

  /** Runs requests; settles when each has, which is when nothing touches its bytes any more. Never rejects. */
  async run(requests: readonly BulkRequest[], signal: AbortSignal): Promise<void> {
    if (requests.length === 0) return;
    const abort = (): void => {
      for (const request of requests) cancel(request);
    };
    await new Promise<void>((resolve) => {
      let left = requests.length;
      for (const request of requests) {
        request.whenSettled(() => {
          if (--left === 0) resolve();
        });
      }
      this.#submit(requests);
      if (signal.aborted) abort();
      else signal.addEventListener("abort", abort, { once: true });
    });
    signal.removeEventListener("abort", abort);
  }

  /** Makes one connection, or rejects with the reason why there can be none. */
  async probe(signal: AbortSignal): Promise<void> {
    const pool = this.#pool(this.#options.topology.nodeOf(""));
    await pool.probe(signal);
  }

  /** Closes the idle connections to nodes that are none of these any more. */
  retainNodes(addresses: ReadonlySet<string>): void {
    for (const [address, pool] of this.#pools) {
      const { queued, in_flight } = pool.figures;
      if (addresses.has(address) || queued + in_flight > 0) continue;
      this.#pools.delete(address);
      this.#lostConnections += pool.lostConnections;
      void pool.close();
    }
  }

  /** Ends all; settles when nothing touches any buffer any more. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all([...this.#pools.values()].map((pool) => pool.close()));
  }

  #submit(requests: readonly BulkRequest[]): void {
    const byPool = new Map<BulkPool, BulkRequest[]>();
    for (const request of requests) {
      try {
        if (this.#isClosed) throw abortedError();
        const pool = this.#pool(this.#options.topology.nodeOf(request.name));
        const share = byPool.get(pool);
        if (share === undefined) byPool.set(pool, [request]);
        else share.push(request);
      } catch (error) {
        const { place, redact } = this.#options;
        request.reject(
          isCacheError(error) ? error : backendError(error, "find the node in", place.location, redact),
        );
      }
    }
    for (const [pool, share] of byPool) pool.submit(share);
  }

  #pool(node: NodeAddress): BulkPool {
    const address = addressText(node);
    const known = this.#pools.get(address);
    if (known !== undefined) return known;
    const { connectionsMax, connectTimeoutMs, stallTimeoutMs, ttlSeconds, redact, topology, transferred } =
      this.#options;
    const pool = new BulkPool({
      location: this.#options.place.mode === "single" ? this.#options.place.location : `node ${address}`,
      connectionsMax,
      connectTimeoutMs,
      stallTimeoutMs,
      ttlSeconds,
      redact,
      handshake: this.#handshake,
      dial: (onread) => this.#dial(node, onread),
      events: {
        transferred,
        suspect: () => topology.refresh(),
        errorReply: (request, text) => this.#redirect(node, request, text),
      },
    });
    this.#pools.set(address, pool);
    return pool;
  }

  #dial({ host, port }: NodeAddress, onread: OnRead): Socket {
    const { tls } = this.#options.credentials;
    const options = { host, port, onread, noDelay: true, keepAlive: true, keepAliveInitialDelay: 30_000 };
    if (tls === null) return connectTcp(options);
    return connectTls({ ...tls, ...options });
  }

  /** Follows `MOVED slot host:port` and `ASK slot host:port`; false for anything else, or for too many of them. */
  #redirect(from: NodeAddress, request: BulkRequest, text: string): boolean {
    if (this.#options.place.mode !== "cluster") return false;
    const [word, , target = ""] = text.split(" ");
    if (word === "READONLY" || word === "CLUSTERDOWN") this.#options.topology.refresh();
    if (word !== "MOVED" && word !== "ASK") return false;
    // A node that does not know its own name leaves the host out: it is the one that we talk to.
    const node = addressOf(target.startsWith(":") ? `${from.host}${target}` : target);
    if (node === null || ++request.redirects > REDIRECTS_MAX) return false;
    if (word === "MOVED") this.#options.topology.refresh();
    else request.asking = true;
    if (this.#isClosed) return false;
    request.attempts--;
    this.#pool(node).submit([request]);
    return true;
  }
}

/** Ends a request early: now where it only waits, else as soon as nothing touches its bytes. */
function cancel(request: BulkRequest): void {
  if (request.isSettled) return;
  request.isCancelled = true;
  if (request.carrier === null) request.reject(abortedError());
  else request.carrier.cancel(request);
}

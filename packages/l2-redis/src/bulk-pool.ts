import type { Socket } from "node:net";
import { abortedError, orAborted } from "@cache/adapter-kit";
import type { CacheError } from "@cache/contracts";
import { BulkConnection, type ConnectionEnd, HandshakeError, type OnRead } from "./bulk-connection.ts";
import type { BulkRequest } from "./bulk-request.ts";
import { backendError, type Redact, replyError } from "./errors.ts";

/** Times a request may be the one at which its connection breaks. */
const ATTEMPTS_MAX = 2;
/** Times a request may be on a connection that falls silent, if another stands before it; else once. */
const STALLS_MAX = 2;
/**
 * Bytes that all connections together have under way where the objects are small. More only fills the server's memory
 * with replies that fall out of its caches before they are sent: 16 MiB cost Redis twice the time.
 */
const IN_FLIGHT_BYTES = 2 * 1024 * 1024;
/** The least share of it for a connection. */
const DEPTH_BYTES_MIN = 256 * 1024;
/** Time without further attempts to connect while other connections to the node serve, in milliseconds. */
const REFUSED_PAUSE_MS = 1000;

/** What the connections to one node have in common. */
export interface PoolOptions {
  /** For messages: what this node is, without secrets. */
  readonly location: string;
  /** Most connections. */
  readonly connectionsMax: number;
  readonly dial: (onread: OnRead) => Socket;
  readonly handshake: readonly (readonly string[])[];
  readonly connectTimeoutMs: number;
  readonly stallTimeoutMs: number;
  readonly ttlSeconds: number | null;
  readonly redact: Redact;
  readonly events: PoolEvents;
}

/** Whom a {@link BulkPool} tells what. */
export interface PoolEvents {
  transferred(request: BulkRequest): void;
  /** An error reply; true if somebody else takes care of the request from now on (a redirection). */
  errorReply(request: BulkRequest, text: string): boolean;
  /** A connection was lost or could not be made: the node may not be what it was. */
  suspect(): void;
}

/** The connections to one node: opened when needed, each takes requests from one queue while it has room. */
export class BulkPool {
  readonly #options: PoolOptions;
  readonly #connections = new Set<BulkConnection>();
  /** Connections that cannot take requests yet. */
  readonly #opening = new Set<BulkConnection>();
  #queue: BulkRequest[] = [];
  #queueHead = 0;
  readonly #probes: { resolve: () => void; reject: (error: CacheError) => void }[] = [];
  #isPumping = false;
  #refusedAt = Number.NEGATIVE_INFINITY;
  #isClosed = false;
  #onEmpty: (() => void) | null = null;
  /** Connections lost since the start, other than by an early end of ours. */
  lostConnections = 0;

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /** Plain figures for an operator. */
  get figures(): { connections: number; queued: number; in_flight: number } {
    let inFlight = 0;
    for (const connection of this.#connections) inFlight += connection.inFlight;
    return {
      connections: this.#connections.size - this.#opening.size,
      queued: this.#queue.length - this.#queueHead,
      in_flight: inFlight,
    };
  }

  /** Takes requests; each settles by itself. */
  submit(requests: readonly BulkRequest[]): void {
    if (this.#isClosed) for (const request of requests) request.reject(abortedError());
    else this.#queue.push(...requests);
    this.#pump();
  }

  /** Settles when there is a connection; rejects with the reason why there is none. */
  async probe(signal: AbortSignal): Promise<void> {
    if (this.#connections.size > this.#opening.size) return;
    const probing = new Promise<void>((resolve, reject) => this.#probes.push({ resolve, reject }));
    if (this.#connections.size === 0) this.#openOne();
    await orAborted(probing, signal);
  }

  /** Ends all; settles when every connection is closed and every request has settled. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#failQueue(abortedError());
    for (const probe of this.#probes.splice(0)) probe.reject(abortedError());
    if (this.#connections.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#onEmpty = resolve;
      for (const connection of this.#connections) connection.destroy(new Error("the adapter closes"));
    });
  }

  #next(): BulkRequest | null {
    while (this.#queueHead < this.#queue.length) {
      const request = this.#queue[this.#queueHead] as BulkRequest;
      if (!request.isSettled) return request;
      this.#queueHead++;
    }
    this.#queue = [];
    this.#queueHead = 0;
    return null;
  }

  /** Gives out what the connections can take, a request to each in turn, and opens more while requests wait. */
  #pump(): void {
    if (this.#isPumping || this.#isClosed) return;
    this.#isPumping = true;
    const takers = [...this.#connections]
      .filter((connection) => connection.isHungry)
      .map((connection) => ({ connection, share: [] as BulkRequest[], bytes: 0 }));
    let gave = takers.length > 0;
    while (gave) {
      gave = false;
      for (const taker of takers) {
        const request = this.#next();
        if (request === null) break;
        const bytes = taker.bytes + request.bytes.byteLength;
        if (!taker.connection.hasRoom(bytes, taker.share.length)) continue;
        this.#queueHead++;
        taker.share.push(request);
        taker.bytes = bytes;
        gave = true;
      }
    }
    for (const { connection, share } of takers) if (share.length > 0) connection.send(share);
    this.#isPumping = false;
    this.#open();
  }

  /** Opens connections for what waits; not at once again where the node just refused one and others serve. */
  #open(): void {
    const waiting = this.#queue.length - this.#queueHead;
    const serving = this.#connections.size - this.#opening.size;
    if (serving > 0 && performance.now() - this.#refusedAt < REFUSED_PAUSE_MS) return;
    while (this.#opening.size < waiting && this.#connections.size < this.#options.connectionsMax) {
      this.#openOne();
    }
  }

  #openOne(): void {
    const { dial, handshake, connectionsMax, connectTimeoutMs, stallTimeoutMs, ttlSeconds, events } =
      this.#options;
    const connection: BulkConnection = new BulkConnection({
      dial,
      handshake,
      connectTimeoutMs,
      stallTimeoutMs,
      depthBytes: Math.max(DEPTH_BYTES_MIN, IN_FLIGHT_BYTES / connectionsMax),
      ttlSeconds,
      events: {
        room: () => {
          this.#opening.delete(connection);
          for (const probe of this.#probes.splice(0)) probe.resolve();
          if (this.#queue.length > 0 && connection.isHungry) this.#pump();
        },
        transferred: (request) => events.transferred(request),
        errorReply: (request, text) => this.#errorReply(request, text),
        closed: (unanswered, end) => this.#closed(connection, unanswered, end),
      },
    });
    this.#connections.add(connection);
    this.#opening.add(connection);
    connection.open();
  }

  #errorReply(request: BulkRequest, text: string): void {
    if (request.isSettled) return;
    if (text.startsWith("WRONGTYPE")) request.resolve(request.kind === "get" ? "other-length" : "exists");
    else if (!this.#options.events.errorReply(request, text)) {
      request.reject(replyError(text, this.#options.location, this.#options.redact));
    }
  }

  #closed(connection: BulkConnection, unanswered: readonly BulkRequest[], end: ConnectionEnd): void {
    this.#connections.delete(connection);
    this.#opening.delete(connection);
    const again: BulkRequest[] = [];
    let error: CacheError | null = null;
    const left = unanswered.filter((request) => !request.isSettled);
    for (const [position, request] of left.entries()) {
      // The first was being answered: what went wrong may be its doing. Those behind it only stood in its line.
      if (position > 0) request.attempts--;
      if (end.stalled) request.stalls++;
      const isOut =
        request.attempts >= ATTEMPTS_MAX || request.stalls >= STALLS_MAX || (end.stalled && position === 0);
      if (request.isCancelled || this.#isClosed) request.reject(abortedError());
      else if (isOut) request.reject((error ??= this.#errorOf(end)));
      else again.push(request);
    }
    if (!this.#isClosed) {
      this.lostConnections++;
      this.#options.events.suspect();
      if (end.during !== "use") this.#refusedAt = performance.now();
      if (end.during !== "use") for (const probe of this.#probes.splice(0)) probe.reject(this.#errorOf(end));
      // Nobody could be reached: those who wait for a connection get that answer now, not at their deadline.
      if (end.during !== "use" && this.#connections.size === this.#opening.size)
        this.#failQueue(this.#errorOf(end));
      this.submit(again);
    }
    if (this.#connections.size === 0) this.#onEmpty?.();
  }

  #errorOf({ error, during }: ConnectionEnd): CacheError {
    const { location, redact } = this.#options;
    if (error instanceof HandshakeError) return replyError(error.message, location, redact);
    return backendError(error, during === "use" ? "talk to" : "connect to", location, redact);
  }

  #failQueue(error: CacheError): void {
    for (let request = this.#next(); request !== null; request = this.#next()) {
      this.#queueHead++;
      request.reject(error);
    }
  }
}

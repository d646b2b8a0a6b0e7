import { setImmediate as nextTurn, setTimeout as delay } from "node:timers/promises";
import { type AdapterLog, CacheError, messageOf } from "@cache/contracts";
import type { Router } from "zeromq";
import { bindTo } from "./bind.ts";
import { type ConnectionCounts, watchConnections } from "./connections.ts";
import { WireCounters } from "./counters.ts";
import { Dispatcher } from "./dispatcher.ts";
import type { LmcacheHandlers } from "./handlers.ts";
import { HashSessions } from "./hash-sessions.ts";
import { KvEventStreams } from "./kv-event-streams.ts";
import { TOKENS_MAX_DEFAULT, TokenBuffer } from "./key-reader.ts";
import { Outgoing } from "./outgoing.ts";
import type { BytesCopy } from "./replies.ts";
import { RecentTokens } from "./recent-tokens.ts";
import { TokenHasher } from "./token-hasher.ts";
import { TurnCommitter } from "./turns.ts";

/** Bounds of the server. Each has a default. */
export interface RpcLimits {
  /** Largest message part in bytes; default the pool's size, at least 64 MiB and at most 2 GiB. */
  readonly maxMessageSize?: number | undefined;
  /** Messages that libzmq holds of one client before it stops reading from it, of any size. Default 16. */
  readonly receiveHighWaterMark?: number | undefined;
  /** Bytes of decoded requests that wait for their answers. Default 256 MiB; one alone may be larger. */
  readonly inFlightBytesMax?: number | undefined;
  /** Requests that wait for their answers. Default 4,096. */
  readonly inFlightCallsMax?: number | undefined;
  /** Requests whose hash chain is kept. Default 8,192. */
  readonly sessionsMax?: number | undefined;
  /** Bytes of hash chains that are kept. Default 32 MiB. */
  readonly sessionBytesMax?: number | undefined;
  /** Seconds after its last use that a hash chain is kept. Default 600. */
  readonly sessionTtlSeconds?: number | undefined;
  /** Token ids in one key. Default 2,097,152. */
  readonly tokensMax?: number | undefined;
  /** Milliseconds that a reply waits for a client that does not read. Default 5,000. */
  readonly sendTimeoutMs?: number | undefined;
  /** Replies that wait for clients that do not read. Default 4,096. */
  readonly waitingRepliesMax?: number | undefined;
  /** Bytes of them. Default 256 MiB. */
  readonly waitingReplyBytesMax?: number | undefined;
  /** Streams of KV events at a time; for one more the one whose client was silent the longest ends. Default 64. */
  readonly streamsMax?: number | undefined;
}

/** Options of `startRpcServer`. */
export interface RpcServerOptions {
  /** Address or name to listen on. */
  readonly host: string;
  /** Port; 0 takes a free one. */
  readonly port: number;
  readonly handlers: LmcacheHandlers;
  /** Tokens of one chunk. */
  readonly chunkSize: number;
  /** Bytes of L1. */
  readonly poolSizeBytes: number;
  readonly limits?: RpcLimits | undefined;
  /** How objects get into inline replies. The default copies on the event loop, a slice at a time. */
  readonly copy?: BytesCopy | undefined;
  readonly log: AdapterLog;
}

/** Figures of a running server: plain JSON. */
export interface RpcServerStatus {
  readonly requests: Readonly<Record<string, number>>;
  /** By error code, or `not_served`, `unknown_operation`, `internal`. */
  readonly refusals: Readonly<Record<string, number>>;
  readonly malformed: number;
  readonly oversized: number;
  readonly unsendableReplies: number;
  readonly degradedReplies: number;
  readonly turns: number;
  readonly sessions: number;
  readonly sessionBytes: number;
  readonly hashedChunks: number;
  readonly reusedChunks: number;
  readonly callsInFlight: number;
  readonly bytesInFlight: number;
  readonly repliesWaiting: number;
  /** Streams of KV events: running, batches sent, ended for want of room or because a batch could not be sent. */
  readonly streams: number;
  readonly streamBatches: number;
  readonly streamsDropped: number;
  readonly maxMessageSize: number;
  readonly connections: Readonly<ConnectionCounts>;
}

/** A running server. */
export interface RpcServer {
  /** As bound, e.g. `tcp://127.0.0.1:5555`. */
  readonly address: string;
  readonly port: number;
  status(): RpcServerStatus;
  /**
   * Stops receiving, answers what waits for at most `deadlineMs` (default 5,000), closes. Idempotent.
   */
  close(deadlineMs?: number): Promise<void>;
}

/** A turn: at most this many messages, or this long. */
const TURN_MESSAGES = 32;
const TURN_MS = 2;
/** Turns that may wait for their sync before nothing more is received. */
const TURNS_UNDER_WAY_MAX = 256;
/** How long libzmq goes on sending after the close, in milliseconds. */
const LINGER_MS = 1000;

/** Bytes copied before the event loop turns to something else. */
const SLICE = 4 * 2 ** 20;
async function copyInSlices(to: Uint8Array, from: Uint8Array): Promise<void> {
  for (let at = 0; at < from.length; at += SLICE) {
    to.set(from.subarray(at, at + SLICE), at);
    await nextTurn();
  }
}

class Server implements RpcServer {
  readonly address: string;
  readonly port: number;
  readonly #socket: Router;
  readonly #options: RpcServerOptions;
  readonly #maxMessageSize: number;
  readonly #counters = new WireCounters();
  readonly #connections: ConnectionCounts;
  readonly #sessions: HashSessions;
  readonly #dispatcher: Dispatcher;
  readonly #outgoing: Outgoing;
  readonly #streams: KvEventStreams;
  readonly #committer: TurnCommitter;
  #closing: Promise<void> | undefined;
  #flushIsDue = false;
  #inTurn = false;

  constructor(
    socket: Router,
    address: string,
    sessions: HashSessions,
    options: RpcServerOptions,
    maxMessageSize: number,
    connections: ConnectionCounts,
  ) {
    const { handlers, limits = {}, log, chunkSize } = options;
    const counters = this.#counters;
    this.address = address;
    this.port = Number(address.slice(address.lastIndexOf(":") + 1));
    this.#socket = socket;
    this.#options = options;
    this.#maxMessageSize = maxMessageSize;
    this.#connections = connections;
    this.#sessions = sessions;
    const tokensMax = limits.tokensMax ?? TOKENS_MAX_DEFAULT;
    const outgoingLimits = {
      waitingMax: limits.waitingRepliesMax ?? 4096,
      waitingBytesMax: limits.waitingReplyBytesMax ?? 256 * 2 ** 20,
      timeoutMs: limits.sendTimeoutMs ?? 5000,
    };
    this.#outgoing = new Outgoing({ send: (frames) => socket.send(frames) }, outgoingLimits, log);
    this.#streams = new KvEventStreams({
      outgoing: this.#outgoing,
      log,
      streamsMax: limits.streamsMax ?? 64,
    });
    this.#dispatcher = new Dispatcher({
      handlers,
      counters,
      copy: options.copy ?? copyInSlices,
      streams: this.#streams,
      log,
      context: { chunkSize, tokens: new TokenBuffer(), sessions, recent: new RecentTokens(), tokensMax },
      messageBytesMax: maxMessageSize,
      inFlightBytesMax: limits.inFlightBytesMax ?? 256 * 2 ** 20,
      inFlightCallsMax: limits.inFlightCallsMax ?? 4096,
      onLateReply: () => this.#scheduleTurn(),
    });
    const onTakenBack = (): void => this.#scheduleTurn();
    this.#committer = new TurnCommitter({ handlers, outgoing: this.#outgoing, counters, log, onTakenBack });
    void this.#receive();
  }

  /** A turn without messages, for answers that came later and for what was taken back. */
  #scheduleTurn(): void {
    if (this.#flushIsDue || this.#inTurn) return;
    this.#flushIsDue = true;
    setImmediate(() => {
      this.#flushIsDue = false;
      this.#committer.commit(this.#dispatcher.takeReady());
    });
  }

  /** Handles what is there, up to the bounds of a turn, and commits it. */
  async #turn(first: readonly Buffer[]): Promise<void> {
    const until = performance.now() + TURN_MS;
    this.#inTurn = true;
    try {
      this.#dispatcher.handle(first);
      for (let handled = 1; handled < TURN_MESSAGES && performance.now() < until; handled++) {
        // `readable` asks libzmq: the receive after it is answered at once, in this turn.
        if (!this.#socket.readable) break;
        this.#dispatcher.handle(await this.#socket.receive());
      }
    } finally {
      this.#inTurn = false;
      this.#committer.commit(this.#dispatcher.takeReady());
    }
  }

  async #receive(): Promise<void> {
    while (this.#closing === undefined) {
      try {
        const message = await this.#socket.receive();
        if (this.#closing !== undefined) return;
        await this.#turn(message);
      } catch (error) {
        if (this.#closing !== undefined || this.#socket.closed) return;
        this.#options.log.error("receiving failed", { error: messageOf(error) });
        await delay(50);
      }
      if (this.#committer.underWay > TURNS_UNDER_WAY_MAX) await this.#committer.idle();
      await nextTurn();
    }
  }

  status(): RpcServerStatus {
    const counters = this.#counters;
    const { calls, bytes } = this.#dispatcher.inFlight;
    const { bytes: sessionBytes, hashedChunks, reusedChunks } = this.#sessions.counters;
    return {
      requests: counters.requests.snapshot(),
      refusals: counters.refusals.snapshot(),
      malformed: counters.malformed,
      oversized: counters.oversized,
      unsendableReplies: counters.unsendable,
      degradedReplies: counters.degraded,
      turns: counters.turns,
      sessions: this.#sessions.size,
      sessionBytes,
      hashedChunks,
      reusedChunks,
      callsInFlight: calls,
      bytesInFlight: bytes,
      repliesWaiting: this.#outgoing.waiting,
      streams: this.#streams.size,
      streamBatches: this.#streams.batches,
      streamsDropped: this.#streams.dropped,
      maxMessageSize: this.#maxMessageSize,
      connections: { ...this.#connections },
    };
  }

  close(deadlineMs = 5000): Promise<void> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  async #close(deadlineMs: number): Promise<void> {
    const until = performance.now() + deadlineMs;
    this.#streams.close();
    // Not unbound first: libzmq would drop the connections with it, and what waits could not be answered.
    const isBusy = (): boolean =>
      this.#dispatcher.inFlight.calls > 0 ||
      this.#dispatcher.hasReady ||
      this.#flushIsDue ||
      this.#committer.underWay > 0 ||
      this.#outgoing.waiting > 0;
    while (isBusy() && performance.now() < until) await delay(2);
    if (isBusy()) {
      this.#options.log.warn("closed with calls that were not answered", {
        calls: this.#dispatcher.inFlight.calls,
      });
    }
    this.#outgoing.close();
    this.#socket.close();
  }
}

/** See `startRpcServer`. */
export async function runRpcServer(options: RpcServerOptions): Promise<RpcServer> {
  const { host, port, chunkSize, poolSizeBytes, limits = {}, log } = options;
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    throw new CacheError("INVALID_CONFIG", `--port ${port} is not in 0..65535`);
  }
  const [zeromq, hasher] = await Promise.all([import("zeromq"), TokenHasher.load(chunkSize)]);
  const sessions = await HashSessions.load(hasher, {
    maxSessions: limits.sessionsMax,
    maxBytes: limits.sessionBytesMax,
    ttlSeconds: limits.sessionTtlSeconds,
  });
  const maxMessageSize =
    limits.maxMessageSize ?? Math.min(Math.max(poolSizeBytes, 64 * 2 ** 20), 2 * 2 ** 30);
  const socket = new zeromq.Router({
    mandatory: true,
    maxMessageSize,
    receiveHighWaterMark: limits.receiveHighWaterMark ?? 16,
    // Never wait inside of libzmq for a client: Outgoing does, for each client apart.
    sendTimeout: 0,
    linger: LINGER_MS,
  });
  const connections = watchConnections(socket, maxMessageSize, log);
  try {
    const address = await bindTo(socket, host, port);
    return new Server(socket, address, sessions, options, maxMessageSize, connections);
  } catch (error) {
    socket.close();
    throw error;
  }
}

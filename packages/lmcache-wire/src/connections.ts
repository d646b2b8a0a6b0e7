import type { AdapterLog } from "@cache/contracts";
import type { Router } from "zeromq";

/** What libzmq tells about connections. */
export interface ConnectionCounts {
  accepted: number;
  closed: number;
  /** Peers that spoke no ZMTP, or not ours. */
  handshakeFailed: number;
  /**
   * Connections that were closed and opened again after libzmq's reconnect interval. It
   * closes a connection without a word when a part of a message exceeds `maxMessageSize`, and the client's libzmq
   * comes back by itself: this is what can be seen of it. A broken connection looks the same; a client that ends and
   * another that begins do not, unless the second begins in just that interval.
   */
  cutOff: number;
}

/** libzmq waits 100 ms and up to as long again; what the event loop adds is allowed for. */
const BACK_AFTER_MS = 60;
const BACK_BEFORE_MS = 600;
/** Closings that are remembered. */
const CLOSED_MAX = 1024;
const WARN_EVERY_MS = 60_000;

/** Counts the socket's connection events and logs what hints at a message that was cut off. */
export function watchConnections(
  socket: { readonly events: Pick<Router["events"], "on"> },
  maxMessageSize: number,
  log: AdapterLog,
  now: () => number = () => performance.now(),
): ConnectionCounts {
  const counts: ConnectionCounts = { accepted: 0, closed: 0, handshakeFailed: 0, cutOff: 0 };
  /** When connections were closed that may still come back, oldest first. */
  let closedAt: number[] = [];
  let warnedAt = Number.NEGATIVE_INFINITY;
  socket.events.on("accept", () => {
    counts.accepted += 1;
    const at = now();
    closedAt = closedAt.filter((closed) => at - closed <= BACK_BEFORE_MS);
    const [oldest] = closedAt;
    if (oldest === undefined || at - oldest < BACK_AFTER_MS) return;
    closedAt.shift();
    counts.cutOff += 1;
    if (at - warnedAt < WARN_EVERY_MS) return;
    warnedAt = at;
    log.warn(
      "a client's connection was closed and came back by itself: the network, or a message beyond the limit, which is cut off so",
      { maxMessageSize },
    );
  });
  socket.events.on("disconnect", () => {
    counts.closed += 1;
    closedAt.push(now());
    if (closedAt.length > CLOSED_MAX) closedAt.shift();
  });
  const handshakeFailed = (): void => {
    counts.handshakeFailed += 1;
  };
  socket.events.on("handshake:error:protocol", handshakeFailed);
  socket.events.on("handshake:error:auth", handshakeFailed);
  socket.events.on("handshake:error:other", handshakeFailed);
  return counts;
}

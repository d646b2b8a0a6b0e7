import type { AdapterLog } from "@cache/contracts";
import type { Router } from "zeromq";

/** What libzmq tells about connections. */
export interface ConnectionCounts {
  accepted: number;
  closed: number;
  /** Peers that spoke no ZMTP, or not ours. */
  handshakeFailed: number;
  /**
   * Connections that were closed and opened again within half a second. libzmq closes a connection without a
   * word when a message exceeds `maxMessageSize`, and a living client comes back at once: this is what can be
   * seen of it. Restarts of clients count too.
   */
  cutOff: number;
}

/** libzmq opens a connection again after 0.1 s; short-lived clients, such as probes, mostly come less often. */
const BACK_AT_ONCE_MS = 500;
const WARN_EVERY_MS = 60_000;

/** Counts the socket's connection events and logs what hints at a message that was cut off. */
export function watchConnections(socket: Router, maxMessageSize: number, log: AdapterLog): ConnectionCounts {
  const counts: ConnectionCounts = { accepted: 0, closed: 0, handshakeFailed: 0, cutOff: 0 };
  let closedAt = Number.NEGATIVE_INFINITY;
  let closures = 0;
  let warnedAt = Number.NEGATIVE_INFINITY;
  socket.events.on("accept", () => {
    counts.accepted += 1;
    const now = performance.now();
    if (now - closedAt > BACK_AT_ONCE_MS) closures = 0;
    if (closures === 0) return;
    closures -= 1;
    counts.cutOff += 1;
    if (now - warnedAt < WARN_EVERY_MS) return;
    warnedAt = now;
    log.warn(
      "a client's connection was closed and opened again at once: a message beyond the limit is cut off so",
      {
        maxMessageSize,
      },
    );
  });
  socket.events.on("disconnect", () => {
    counts.closed += 1;
    closedAt = performance.now();
    closures = Math.min(closures + 1, 1024);
  });
  const handshakeFailed = (): void => {
    counts.handshakeFailed += 1;
  };
  socket.events.on("handshake:error:protocol", handshakeFailed);
  socket.events.on("handshake:error:auth", handshakeFailed);
  socket.events.on("handshake:error:other", handshakeFailed);
  return counts;
}

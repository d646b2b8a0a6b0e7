import type { AdapterLog } from "@cache/contracts";

/** A reply that is on its way. */
export interface OutgoingReply {
  /** Identity, uid, operation and at most one payload frame. */
  readonly frames: readonly Buffer[];
  /** Called if it could not be sent. */
  readonly unsendable: () => void;
}

/** The part of a ROUTER that sends. With `sendTimeout` 0 each promise is settled when it is returned. */
export interface SendingSocket {
  send(frames: Buffer[]): Promise<void>;
}

/** Bounds of {@link Outgoing}. */
export interface OutgoingLimits {
  /** Most replies, of all clients, that wait for a client that does not read. */
  readonly waitingMax: number;
  /** Most bytes of them. */
  readonly waitingBytesMax: number;
  /** Milliseconds that one waits. */
  readonly timeoutMs: number;
}

interface Waiting extends OutgoingReply {
  readonly since: number;
  readonly bytes: number;
}

const RETRY_MS = 10;

function byteLengthOf(frames: readonly Buffer[]): number {
  return frames.reduce((sum, frame) => sum + frame.length, 0);
}

/**
 * Sends replies without ever blocking: a client that does not read (its queue in libzmq is full) holds back
 * its own replies only, in order, for a bounded time and amount.
 */
export class Outgoing {
  readonly #socket: SendingSocket;
  readonly #limits: OutgoingLimits;
  readonly #log: AdapterLog;
  readonly #waiting = new Map<string, Waiting[]>();
  /** Clients of which one reply is being handed to the socket, with the replies that came since. */
  readonly #attempting = new Map<string, OutgoingReply[]>();
  #closed = false;
  #waitingCount = 0;
  #waitingBytes = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(socket: SendingSocket, limits: OutgoingLimits, log: AdapterLog) {
    this.#socket = socket;
    this.#limits = limits;
    this.#log = log;
  }

  /** Replies that wait for a client that does not read. */
  get waiting(): number {
    return this.#waitingCount;
  }

  /** Sends, or queues, or calls `unsendable`. Replies of one client leave in the order of these calls. */
  async send(reply: OutgoingReply): Promise<void> {
    if (this.#closed) {
      this.#giveUp(reply, "closed");
      return;
    }
    const client = (reply.frames[0] as Buffer).toString("latin1");
    const queue = this.#waiting.get(client);
    if (queue !== undefined) {
      this.#enqueue(client, queue, reply);
      return;
    }
    // How an attempt ended is known a moment later: what comes for the same client until then stands behind it.
    const before = this.#attempting.get(client);
    if (before !== undefined) {
      before.push(reply);
      return;
    }
    const following: OutgoingReply[] = [];
    this.#attempting.set(client, following);
    let next: OutgoingReply | undefined = reply;
    let code: string | undefined;
    while (next !== undefined && code !== "EAGAIN") {
      code = await this.#attempt(next);
      if (code === "EAGAIN") break;
      if (code !== undefined) this.#giveUp(next, code);
      next = following.shift();
    }
    this.#attempting.delete(client);
    if (next === undefined) return;
    for (const late of [next, ...following]) this.#enqueue(client, this.#waiting.get(client) ?? [], late);
  }

  /** Gives up all that waits. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    const waiting = [...this.#waiting.values()].flat();
    this.#waiting.clear();
    this.#waitingCount = 0;
    this.#waitingBytes = 0;
    for (const reply of waiting) this.#giveUp(reply, "closed");
  }

  /** Undefined if it was sent, else the error's code. */
  async #attempt(reply: OutgoingReply): Promise<string | undefined> {
    try {
      await this.#socket.send([...reply.frames]);
      return undefined;
    } catch (error) {
      return String((error as { code?: unknown }).code ?? error);
    }
  }

  #giveUp(reply: OutgoingReply, code: string): void {
    this.#log.debug("a reply could not be sent", { code });
    reply.unsendable();
  }

  #enqueue(client: string, queue: Waiting[], reply: OutgoingReply): void {
    const bytes = byteLengthOf(reply.frames);
    const { waitingMax, waitingBytesMax } = this.#limits;
    if (this.#closed) {
      this.#giveUp(reply, "closed");
      return;
    }
    if (this.#waitingCount >= waitingMax || this.#waitingBytes + bytes > waitingBytesMax) {
      this.#giveUp(reply, "too many replies wait");
      return;
    }
    queue.push({ ...reply, since: performance.now(), bytes });
    this.#waiting.set(client, queue);
    this.#waitingCount += 1;
    this.#waitingBytes += bytes;
    this.#timer ??= setTimeout(() => void this.#retry(), RETRY_MS);
  }

  async #retry(): Promise<void> {
    for (const [client, queue] of [...this.#waiting]) {
      for (let reply = queue[0]; reply !== undefined; reply = queue[0]) {
        const code = await this.#attempt(reply);
        if (this.#closed) {
          // It was given up already, with all that waited.
          return;
        }
        const late = performance.now() - reply.since > this.#limits.timeoutMs;
        if (code === "EAGAIN" && !late) break;
        queue.shift();
        this.#waitingCount -= 1;
        this.#waitingBytes -= reply.bytes;
        if (code !== undefined) this.#giveUp(reply, code);
      }
      if (queue.length === 0) this.#waiting.delete(client);
    }
    this.#timer = this.#waiting.size === 0 ? undefined : setTimeout(() => void this.#retry(), RETRY_MS);
  }
}

import type { Socket } from "node:net";
import { abortedError } from "@cache/adapter-kit";
import type { BulkOutcome, BulkRequest } from "./bulk-request.ts";
import { type Reply, RespError, RespReader } from "./resp-reader.ts";

/** Bytes that one read may bring besides those that go straight into an object. */
const SCRATCH_BYTES = 64 * 1024;
/** Requests that a connection may have under way, whatever their bytes. */
const DEPTH = 32;
/** Bytes that are read at most while a reply's first line is awaited, where the object behind it is a large one. */
const HEAD_BYTES = 512;
/** Objects from this size on are large. */
const LARGE_BYTES = 4096;
/** A value of another length is read to its end and dropped up to this size; beyond it a new connection is cheaper. */
const DROP_BYTES_MAX = 16 * 1024 * 1024;

/** What Node's sockets take to let the kernel read into memory of ours. */
export interface OnRead {
  readonly buffer: () => Uint8Array;
  readonly callback: (bytesRead: number, into: Uint8Array) => boolean;
}

/** What a {@link BulkConnection} works with. */
export interface ConnectionOptions {
  /** Begins to connect: a socket that is still connecting, its `onread` being the given one. May throw. */
  readonly dial: (onread: OnRead) => Socket;
  /** Commands sent first, each answered by `+OK`: AUTH, SELECT. */
  readonly handshake: readonly (readonly string[])[];
  /** Time to connect and shake hands, in milliseconds. */
  readonly connectTimeoutMs: number;
  /** Time without any byte either way while something is under way, in milliseconds. */
  readonly stallTimeoutMs: number;
  /** Bytes of requests that it has under way at most; one larger request is always taken. */
  readonly depthBytes: number;
  /** SET … EX, in seconds; null for none. */
  readonly ttlSeconds: number | null;
  readonly events: ConnectionEvents;
}

/** Whom a {@link BulkConnection} tells what. */
export interface ConnectionEvents {
  /** It can take requests, again or for the first time. */
  room(): void;
  /** The server answered an error; the request is out of this connection. */
  errorReply(request: BulkRequest, text: string): void;
  /** An object was read or written whole; called before the request settles, also where its caller has given up. */
  transferred(request: BulkRequest): void;
  /** It is gone, nothing touches any buffer; `unanswered` are the requests that it had, in order. */
  closed(unanswered: readonly BulkRequest[], cause: ConnectionEnd): void;
}

/** Why a connection ended. */
export interface ConnectionEnd {
  readonly during: "connect" | "handshake" | "use";
  /** The server took too long: a second attempt would only wait again. */
  readonly stalled: boolean;
  readonly error: Error;
}

/** Something that the server owes an answer for. */
interface Pending {
  readonly request: BulkRequest | null;
  readonly step: "handshake" | "asking" | "bulk";
  /** The kernel has all its bytes. */
  isFlushed: boolean;
  /** What came before the kernel had them all: of several SETs in one write the first may be answered early. */
  early: Reply | null;
}

/** A command as Redis reads it. */
export function encodeCommand(words: readonly string[]): string {
  return `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`;
}

/**
 * One connection for objects: commands go out in order, replies come back in order, and a wanted bulk is read by the
 * kernel straight into its object's memory. Never reused once anything went wrong on it.
 */
export class BulkConnection {
  readonly #options: ConnectionOptions;
  readonly #reader: RespReader;
  readonly #pending: Pending[] = [];
  /** Answered before the kernel had all their bytes. */
  readonly #unflushed = new Set<Pending>();
  #pendingBytes = 0;
  #socket: Socket | null = null;
  #phase: "connect" | "handshake" | "use" | "closed" = "connect";
  #connectTimer: NodeJS.Timeout | null = null;
  #end: { stalled: boolean; error: Error } | null = null;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#reader = new RespReader(
      { beginBulk: (byteLength) => this.#beginBulk(byteLength), reply: (reply) => this.#reply(reply) },
      Buffer.allocUnsafeSlow(SCRATCH_BYTES),
    );
    this.#connectTimer = setTimeout(() => {
      this.destroy(
        new Error(`no connection after ${options.connectTimeoutMs} ms (connection_timeout)`),
        true,
      );
    }, options.connectTimeoutMs);
  }

  /** Begins. Nothing is told to `events` before. */
  open(): void {
    try {
      this.#connect();
    } catch (error) {
      this.#end ??= { stalled: false, error: error instanceof Error ? error : new Error(String(error)) };
      this.#closed();
    }
  }

  /** Requests under way. */
  get inFlight(): number {
    return this.#pending.length + this.#unflushed.size;
  }

  /** True if it takes requests now. Not before half of them are answered: one write then carries several. */
  get isHungry(): boolean {
    if (this.#phase !== "use" || this.#end !== null) return false;
    return this.inFlight <= DEPTH / 2 && this.#pendingBytes <= this.#options.depthBytes / 2;
  }

  /** True if requests of that many bytes may be sent now, `others` of them counted already. */
  hasRoom(byteLength: number, others: number): boolean {
    const count = this.inFlight + others;
    return count === 0 || (count < DEPTH && this.#pendingBytes + byteLength <= this.#options.depthBytes);
  }

  #connect(): void {
    const { dial } = this.#options;
    const onread: OnRead = {
      buffer: () => this.#reader.target(this.#headBytes()),
      callback: (bytesRead, into) => this.#read(bytesRead, into),
    };
    const socket = dial(onread);
    this.#socket = socket;
    socket.on("error", (error) => {
      this.#end ??= { stalled: false, error };
    });
    socket.on("end", () => this.destroy(new Error("the server closed the connection")));
    socket.on("timeout", () => {
      const seconds = this.#options.stallTimeoutMs / 1000;
      this.destroy(new Error(`the server was silent for ${seconds} s (request_timeout)`), true);
    });
    socket.once("close", () => this.#closed());
    socket.once("encrypted" in socket ? "secureConnect" : "connect", () => this.#shakeHands());
  }

  /** How far to read for the next reply's first line: what is read behind it has to be copied into its object. */
  #headBytes(): number {
    const request = this.#pending[0]?.request;
    const isLarge =
      request === undefined ||
      (request !== null && request.kind === "get" && request.bytes.byteLength >= LARGE_BYTES);
    return isLarge ? HEAD_BYTES : SCRATCH_BYTES;
  }

  #shakeHands(): void {
    if (this.#end !== null) return;
    this.#phase = "handshake";
    const { handshake } = this.#options;
    for (const _ of handshake)
      this.#pending.push({ request: null, step: "handshake", isFlushed: true, early: null });
    if (handshake.length === 0) this.#ready();
    else this.#socket?.write(handshake.map(encodeCommand).join(""));
  }

  #ready(): void {
    if (this.#connectTimer !== null) clearTimeout(this.#connectTimer);
    this.#connectTimer = null;
    this.#phase = "use";
    this.#options.events.room();
  }

  /** Writes requests, all in one system call. The caller asked {@link hasRoom} for each. */
  send(requests: readonly BulkRequest[]): void {
    const socket = this.#socket;
    if (socket === null) throw new TypeError("a request was sent before the connection was there");
    if (this.inFlight === 0) socket.setTimeout(this.#options.stallTimeoutMs);
    socket.cork();
    let words = "";
    for (const request of requests) {
      request.attempts++;
      request.sent++;
      request.carrier = this;
      if (request.asking) {
        request.asking = false;
        this.#pending.push({ request: null, step: "asking", isFlushed: true, early: null });
        words += encodeCommand(["ASKING"]);
      }
      const entry: Pending = { request, step: "bulk", isFlushed: request.kind === "get", early: null };
      this.#pending.push(entry);
      this.#pendingBytes += request.bytes.byteLength;
      if (request.kind === "get") {
        words += encodeCommand(["GET", request.name]);
        continue;
      }
      const ttl = this.#options.ttlSeconds;
      words += `*${ttl === null ? 4 : 6}\r\n$3\r\nSET\r\n$${Buffer.byteLength(request.name)}\r\n${request.name}\r\n`;
      socket.write(`${words}$${request.bytes.byteLength}\r\n`);
      socket.write(request.bytes);
      words = `\r\n$2\r\nNX\r\n${ttl === null ? "" : `$2\r\nEX\r\n$${String(ttl).length}\r\n${ttl}\r\n`}`;
      socket.write(words, (error) => {
        // A destroyed socket calls back without an error for what it has not written.
        if ((error === null || error === undefined) && !socket.destroyed) this.#flushed(entry);
      });
      words = "";
    }
    if (words !== "") socket.write(words);
    socket.uncork();
  }

  /** Ends a request early if it is here: at once if nothing touches its bytes, else with the connection. */
  cancel(request: BulkRequest): void {
    const at = this.#pending.findIndex((entry) => entry.request === request);
    const isFlushed = this.#pending[at]?.isFlushed === true;
    const isFilling = at === 0 && this.#reader.isFilling;
    if (isFlushed && !isFilling) request.reject(abortedError());
    else this.destroy(new Error("the connection was closed to end an operation early"));
  }

  /** Closes it. `closed` follows when nothing touches any buffer any more. */
  destroy(error: Error, stalled = false): void {
    this.#end ??= { stalled, error };
    this.#socket?.destroy();
  }

  #closed(): void {
    if (this.#phase === "closed") return;
    const during = this.#phase;
    this.#phase = "closed";
    if (this.#connectTimer !== null) clearTimeout(this.#connectTimer);
    const unanswered = [...this.#unflushed, ...this.#pending].flatMap(({ request }) => request ?? []);
    for (const request of unanswered) request.carrier = null;
    this.#pending.length = 0;
    this.#unflushed.clear();
    const end = this.#end ?? { stalled: false, error: new Error("the server closed the connection") };
    this.#options.events.closed(unanswered, { during, ...end });
  }

  #read(bytesRead: number, into: Uint8Array): boolean {
    if (this.#end !== null) return false;
    this.#guarded(() => this.#reader.advance(bytesRead, into));
    return this.#end === null;
  }

  /** Runs what may find that the server talks nonsense, and says that there is room afterwards. */
  #guarded(work: () => void): void {
    try {
      work();
    } catch (error) {
      const text = error instanceof RespError ? `the reply is not RESP2: ${error.message}` : String(error);
      this.destroy(new Error(text));
    }
    if (this.#phase !== "use" || this.#end !== null) return;
    if (this.inFlight === 0) this.#socket?.setTimeout(0);
    this.#options.events.room();
  }

  #beginBulk(byteLength: number): Uint8Array | null {
    const request = this.#pending[0]?.request ?? null;
    if (request === null || request.kind !== "get")
      throw new RespError("a bulk came that nothing had asked for");
    const isWanted = !request.isSettled && request.bytes.byteLength === byteLength;
    if (isWanted) return request.bytes;
    if (byteLength > Math.max(DROP_BYTES_MAX, request.bytes.byteLength)) {
      // Settled before the connection goes: its own fate is known, only its neighbours begin anew.
      request.resolve("other-length");
      this.destroy(new Error(`a value of ${byteLength} bytes came for one of ${request.bytes.byteLength}`));
    }
    return null;
  }

  #reply(reply: Reply): void {
    if (this.#end !== null) return;
    const entry = this.#pending.shift();
    if (entry === undefined) throw new RespError("a reply came that nothing had asked for");
    const { request, step } = entry;
    if (request === null) {
      if (step === "handshake") this.#handshakeReply(reply);
      return; // what ASKING was answered shows in the answer to what it stood before
    }
    if (entry.isFlushed) this.#finish(entry, request, reply);
    else {
      entry.early = reply;
      this.#unflushed.add(entry);
    }
  }

  #flushed(entry: Pending): void {
    entry.isFlushed = true;
    const { request, early } = entry;
    if (!this.#unflushed.delete(entry) || request === null || early === null || this.#end !== null) return;
    this.#guarded(() => this.#finish(entry, request, early));
  }

  #finish(entry: Pending, request: BulkRequest, reply: Reply): void {
    this.#pendingBytes -= request.bytes.byteLength;
    request.carrier = null;
    const outcome = outcomeOf(request, reply);
    if (outcome === null) {
      this.#pending.unshift(entry); // ends with the connection, when nothing touches its bytes
      throw new RespError(`${request.kind.toUpperCase()} was answered with a ${reply.kind}`);
    }
    if (outcome === "error") this.#options.events.errorReply(request, (reply as { text: string }).text);
    else {
      if (outcome === "done") this.#options.events.transferred(request);
      request.resolve(outcome);
    }
  }

  #handshakeReply(reply: Reply): void {
    if (reply.kind !== "simple") {
      const text = reply.kind === "error" ? reply.text : `a ${reply.kind}`;
      this.destroy(new HandshakeError(text));
      return;
    }
    if (this.#pending.length === 0) this.#ready();
  }
}

/** What a reply says of a request; null for one that no honest server gives. */
function outcomeOf(request: BulkRequest, reply: Reply): BulkOutcome | "error" | null {
  if (reply.kind === "error") return "error";
  if (request.kind === "set") {
    if (reply.kind === "null") return "exists";
    return reply.kind === "simple" && reply.text === "OK" ? "done" : null;
  }
  if (reply.kind === "null") return "missing";
  if (reply.kind !== "bulk") return null;
  return reply.kept ? "done" : "other-length";
}

/** The server refused what every connection begins with. The message is its answer. */
export class HandshakeError extends Error {
  override readonly name = "HandshakeError";
}

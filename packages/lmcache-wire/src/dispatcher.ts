import { type AdapterLog, CacheError, isCacheError, messageOf } from "@cache/contracts";
import { callHandler, type Outcome, refusalOutcome, textOutcome } from "./call-handler.ts";
import type { WireCounters } from "./counters.ts";
import type { LmcacheHandlers } from "./handlers.ts";
import type { KvEventStreams } from "./kv-event-streams.ts";
import { MsgpackReader } from "./msgpack-reader.ts";
import {
  type Operation,
  operationOf,
  PAYLOAD_BYTES_MAX,
  refusalText,
  type ServedName,
} from "./operations.ts";
import { type BytesCopy, encodeRefusedTransfer } from "./replies.ts";
import {
  type Call,
  checkPayload,
  decodeCall,
  type DecodeContext,
  decodeSubscription,
  type WireChunkRange,
} from "./requests.ts";
import { quoted, violation } from "./violations.ts";

/** Answered at once, or giving something back: refusing these would make a full server fuller, or look dead. */
const NEVER_WAIT: ReadonlySet<ServedName> = new Set<ServedName>([
  "ping",
  "noop",
  "get_chunk_size",
  "get_experimental",
  "query_prefetch_status",
  "commit_retrieve",
  "free_lookup_locks",
  "end_session",
]);
/** Most frames of one message: identity, uid, operation and seven arguments; more only to be refused. */
const FRAMES_MAX = 16;
/** Estimate of what a waiting call costs besides its hashes and frames, in bytes. */
const CALL_BYTES = 1024;

/** Whom a reply goes to, with the request's uid and operation frames as they came. */
export interface ReplyAddress {
  readonly identity: Buffer;
  readonly uid: Buffer;
  readonly opFrame: Buffer;
}

/** An answer that leaves with the next commit. */
export interface ReadyReply extends ReplyAddress {
  /** Undefined for operations that are not served. */
  readonly op: ServedName | undefined;
  readonly outcome: Outcome;
}

/** What {@link Dispatcher} needs. */
export interface DispatcherOptions {
  readonly handlers: LmcacheHandlers;
  readonly context: DecodeContext;
  readonly copy: BytesCopy;
  readonly counters: WireCounters;
  readonly streams: KvEventStreams;
  readonly log: AdapterLog;
  /** Bytes of decoded requests that wait for their answer. */
  readonly inFlightBytesMax: number;
  /** Bytes of all payload frames of one message: libzmq bounds each frame, not their sum. */
  readonly messageBytesMax: number;
  /** Requests that wait for their answer. */
  readonly inFlightCallsMax: number;
  /** An answer came outside of a turn's handling: a turn is wanted. */
  readonly onLateReply: () => void;
}

/** Refusals of one operation are logged this seldom. */
const REFUSAL_LOG_EVERY_MS = 60_000;

/** Turns messages into calls of the handlers, and their answers into replies that are ready for a commit. */
export class Dispatcher {
  readonly #options: DispatcherOptions;
  #ready: ReadyReply[] = [];
  #inFlightBytes = 0;
  /** By operation of ours: bounded by their number. */
  readonly #refusalLoggedMs = new Map<string, number>();
  #inFlightCalls = 0;
  /** The last free_lookup_locks or end_session of a request id that has not settled. */
  readonly #lastOfRequest = new Map<string, Promise<unknown>>();

  constructor(options: DispatcherOptions) {
    this.#options = options;
  }

  /** Calls that wait for their answer, and their bytes. */
  get inFlight(): { readonly calls: number; readonly bytes: number } {
    return { calls: this.#inFlightCalls, bytes: this.#inFlightBytes };
  }

  /** True if answers wait for a commit. */
  get hasReady(): boolean {
    return this.#ready.length > 0;
  }

  /** Takes the answers that are ready. */
  takeReady(): ReadyReply[] {
    const ready = this.#ready;
    this.#ready = [];
    return ready;
  }

  /** Handles one message as the ROUTER gave it. Never throws. */
  handle(frames: readonly Buffer[]): void {
    const { counters } = this.#options;
    const [identity, uid, opFrame, ...payload] = frames;
    if (identity === undefined || uid === undefined || opFrame === undefined || !isUid(uid)) {
      counters.malformed += 1;
      return;
    }
    this.#options.streams.heard(identity);
    // An operation frame of no length is stream control (ack, cancel); for streams that are not, ignored.
    if (opFrame.length === 0) {
      counters.requests.add("stream_control");
      this.#options.streams.control(identity, uid, payload[0]);
      return;
    }
    const address = { identity, uid, opFrame };
    const bytes = byteLengthOf(payload);
    if (bytes > this.#options.messageBytesMax) {
      counters.oversized += 1;
      const text = `the message has ${bytes} bytes in ${payload.length} frames; at most ${this.#options.messageBytesMax} are taken`;
      this.#refuse(address, undefined, textOutcome(text), "LIMIT_REACHED");
      return;
    }
    const operation = readOperation(opFrame);
    counters.requests.add(operation === undefined ? "unknown" : operation.name);
    if (operation === undefined) {
      this.#refuse(address, undefined, textOutcome(unknownText(opFrame)), "unknown_operation");
    } else if (operation.kind === "served") {
      this.#serve(address, operation.name as ServedName, operation, payload);
    } else if (operation.kind === "streamed") {
      this.#stream(address, operation, payload);
    } else {
      this.#notServed(address, operation);
    }
  }

  /** Begins a stream: its batches leave on their own, each when what it tells is recorded. */
  #stream(address: ReplyAddress, operation: Operation, payload: readonly Buffer[]): void {
    const { handlers, streams } = this.#options;
    const { name } = operation;
    if (handlers.subscribeKvEvents === undefined || !handlers.getExperimental().includes("kv_event_stream")) {
      this.#notServed(address, operation);
      return;
    }
    try {
      checkPayload(operation, payload);
      const subscription = decodeSubscription(payload);
      handlers.noteSignOfLife(subscription.instanceId);
      streams.start(address, subscription, (wanted) => handlers.subscribeKvEvents?.(wanted) ?? NO_STREAM);
    } catch (error) {
      this.#refuse(address, undefined, textOutcome(`${name}: ${this.#textOf(error, name)}`), reasonOf(error));
    }
  }

  #refuse(address: ReplyAddress, op: ServedName | undefined, outcome: Outcome, reason: string): void {
    this.#options.counters.refusals.add(reason);
    this.#ready.push({ ...address, op, outcome });
  }

  /** Tells the operator why calls of one kind are refused, once a minute. */
  #logRefusal(op: string, text: string): void {
    const now = performance.now();
    if (now - (this.#refusalLoggedMs.get(op) ?? Number.NEGATIVE_INFINITY) < REFUSAL_LOG_EVERY_MS) return;
    this.#refusalLoggedMs.set(op, now);
    this.#options.log.warn("calls are refused", { op, text });
  }

  #notServed(address: ReplyAddress, operation: Operation): void {
    const text = refusalText(operation.name);
    if (operation.kind !== "ignored") this.#logRefusal(operation.name, text);
    let outcome = textOutcome(text);
    if (operation.kind === "ignored") outcome = { encode: () => undefined, unconditional: true };
    if (operation.kind === "refused-transfer")
      outcome = { encode: encodeRefusedTransfer, unconditional: true };
    this.#refuse(address, undefined, outcome, "not_served");
  }

  #serve(address: ReplyAddress, op: ServedName, operation: Operation, payload: readonly Buffer[]): void {
    const { counters, context } = this.#options;
    let call: Call;
    try {
      if (payload.length + 3 > FRAMES_MAX) throw violation(op, `has ${payload.length} arguments`);
      checkPayload(operation, payload);
      call = decodeCall(op, payload, context);
    } catch (error) {
      if (payload.length + 3 > FRAMES_MAX || payload.some((frame) => frame.length > PAYLOAD_BYTES_MAX)) {
        counters.oversized += 1;
      }
      this.#refuse(address, op, textOutcome(`${op}: ${this.#textOf(error, op)}`), reasonOf(error));
      return;
    }
    const bytes = CALL_BYTES + heldBytes(call, payload);
    if (!NEVER_WAIT.has(op) && this.#isFull(bytes)) {
      const limit = new CacheError(
        "LIMIT_REACHED",
        `${this.#inFlightCalls} calls with ${this.#inFlightBytes} bytes wait for their answers already; try again`,
      );
      this.#refuse(address, op, refusalOutcome(op, limit), "LIMIT_REACHED");
      return;
    }
    this.#run(address, call, bytes);
    rangeOf(call)?.releaseTokens();
  }

  /** One call alone may be as large as a message may be. */
  #isFull(bytes: number): boolean {
    const { inFlightBytesMax, inFlightCallsMax } = this.#options;
    if (this.#inFlightCalls === 0) return false;
    return this.#inFlightCalls >= inFlightCallsMax || this.#inFlightBytes + bytes > inFlightBytesMax;
  }

  #run(address: ReplyAddress, call: Call, bytes: number): void {
    const outcome = this.#ordered(call);
    if (!(outcome instanceof Promise)) {
      this.#ready.push({ ...address, op: call.op, outcome });
      return;
    }
    this.#inFlightCalls += 1;
    this.#inFlightBytes += bytes;
    void outcome.then((settled) => {
      this.#inFlightCalls -= 1;
      this.#inFlightBytes -= bytes;
      this.#ready.push({ ...address, op: call.op, outcome: settled });
      this.#options.onLateReply();
    });
  }

  /** free_lookup_locks and end_session of one request keep their order; nothing else waits for another. */
  #ordered(call: Call): Outcome | Promise<Outcome> {
    if (call.op !== "free_lookup_locks" && call.op !== "end_session") return this.#invoke(call);
    const requestId = "range" in call ? call.range.requestId : call.requestId;
    const before = this.#lastOfRequest.get(requestId);
    const outcome = before === undefined ? this.#invoke(call) : before.then(() => this.#invoke(call));
    if (outcome instanceof Promise) {
      this.#lastOfRequest.set(requestId, outcome);
      void outcome.then(() => {
        if (this.#lastOfRequest.get(requestId) === outcome) this.#lastOfRequest.delete(requestId);
      });
    }
    return outcome;
  }

  #invoke(call: Call): Outcome | Promise<Outcome> {
    const { handlers, counters, context, copy } = this.#options;
    if (call.op === "end_session") context.sessions.end(call.requestId);
    return callHandler(call, handlers, copy, (error) => {
      counters.refusals.add(reasonOf(error));
      this.#textOf(error, call.op);
    });
  }

  /** The text for the client; logs what only the operator may see. */
  #textOf(error: unknown, op: string): string {
    if (isCacheError(error)) {
      this.#logRefusal(op, messageOf(error));
      return messageOf(error);
    }
    this.#options.log.error("a call failed inside the server", { op, error: messageOf(error) });
    return "failed inside the server; see its log";
  }
}

const NO_STREAM = { next: async () => null, close: () => undefined };

function rangeOf(call: Call): WireChunkRange | undefined {
  return "range" in call ? call.range : undefined;
}

/** Bytes that a call keeps while it waits: its hashes, and the message if objects lie in it. */
function heldBytes(call: Call, payload: readonly Buffer[]): number {
  const hashes = rangeOf(call)?.hashes.length ?? 0;
  if (call.op !== "commit_store" || call.inline === null) return hashes;
  return hashes + byteLengthOf(payload);
}

function byteLengthOf(frames: readonly Buffer[]): number {
  let sum = 0;
  for (const frame of frames) sum += frame.length;
  return sum;
}

function reasonOf(error: unknown): string {
  return isCacheError(error) ? error.code : "internal";
}

/** Usable: one msgpack unsigned int, and nothing after it. */
function isUid(frame: Buffer): boolean {
  const type = frame[0];
  if (type === undefined) return false;
  if (type < 0x80) return frame.length === 1;
  return type >= 0xcc && type <= 0xcf && frame.length === 1 + (1 << (type & 3));
}

function readOperation(frame: Buffer): Operation | undefined {
  try {
    const reader = new MsgpackReader(frame);
    const type = reader.peek("operation");
    const isText = (type & 0xe0) === 0xa0 || type === 0xd9 || type === 0xda || type === 0xdb;
    const wire = isText ? reader.str("operation", 128) : reader.int("operation");
    reader.expectEnd("operation");
    return operationOf(wire);
  } catch {
    return undefined;
  }
}

function unknownText(frame: Buffer): string {
  const shown = quoted(frame.subarray(0, 64).toString("latin1"));
  return `operation ${shown} is unknown to this server (LMCache 0.5.6, engine-driven transfer)`;
}

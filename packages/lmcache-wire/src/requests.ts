import { CacheError } from "@cache/contracts";
import { dtypeItemBytes, elementsOf } from "./dtypes.ts";
import type { ChunkRange, EngineDrivenRegistration, InlineObject, KvEventSubscription } from "./handlers.ts";
import type { HashSessions } from "./hash-sessions.ts";
import {
  type CacheServerKey,
  readCacheServerKey,
  REQUEST_ID_BYTES_MAX,
  TOKENS_MAX_DEFAULT,
  type TokenArray,
  type TokenBuffer,
} from "./key-reader.ts";
import { assertModelName, MODEL_NAME_BYTES_MAX } from "@cache/contracts";
import { MsgpackReader } from "./msgpack-reader.ts";
import { type Operation, PAYLOAD_BYTES_MAX, type ServedName } from "./operations.ts";
import { readTensorList } from "./pickle-read.ts";
import type { RecentTokens } from "./recent-tokens.ts";
import { CHUNK_HASH_BYTES } from "./token-hasher.ts";
import { quoted, violation } from "./violations.ts";

/** Calls with a chunk range and an instance. */
export type TransferName = "prepare_store" | "commit_store" | "prepare_retrieve" | "commit_retrieve";

/** A served call, decoded and checked. */
export type Call =
  | { readonly op: "get_chunk_size" | "get_experimental" | "noop" }
  | { readonly op: "ping"; readonly instanceId: bigint | null }
  | {
      readonly op: "register_kv_cache_engine_driven_context";
      readonly registration: EngineDrivenRegistration;
    }
  | { readonly op: "unregister_kv_cache_engine_driven_context"; readonly instanceId: bigint }
  | { readonly op: "lookup" | "free_lookup_locks"; readonly range: WireChunkRange }
  | { readonly op: "query_prefetch_status" | "end_session"; readonly requestId: string }
  | { readonly op: "wait_prefetch_status"; readonly requestId: string; readonly seconds: number }
  | {
      readonly op: Exclude<TransferName, "commit_store">;
      readonly range: WireChunkRange;
      readonly instanceId: bigint;
    }
  | {
      readonly op: "commit_store";
      readonly range: WireChunkRange;
      readonly instanceId: bigint;
      readonly inline: readonly InlineObject[] | null;
    }
  | { readonly op: "clear"; readonly force: boolean }
  | { readonly op: "report_block_allocation"; readonly instanceId: bigint };

/** What decoding needs besides the frames. */
export interface DecodeContext {
  /** Tokens of one chunk. */
  readonly chunkSize: number;
  readonly tokens: TokenBuffer;
  readonly sessions: HashSessions;
  /** Token arrays of the last calls; without it each one is read and hashed. */
  readonly recent?: RecentTokens | undefined;
  /** Most token ids of one key. */
  readonly tokensMax?: number | undefined;
}

/** Longest wait that a client may ask for, in seconds. */
const WAIT_SECONDS_MAX = 3600;
/** Largest object, in bytes. */
const OBJECT_BYTES_MAX = 2 ** 40;

/** A {@link ChunkRange} whose tokens can be taken away. */
export class WireChunkRange implements ChunkRange {
  readonly modelName: string;
  readonly worldSize: number;
  readonly workerId: number | null;
  readonly cacheSalt: string;
  readonly requestId: string;
  readonly numKvReaders: number;
  readonly firstChunk: number;
  readonly endChunk: number;
  readonly hashes: Uint8Array;
  #tokens: TokenArray | null;
  readonly #chunkBytes: number;

  constructor(
    key: CacheServerKey,
    chunks: { readonly first: number; readonly end: number; readonly size: number },
    hashes: Uint8Array,
  ) {
    this.modelName = key.modelName;
    this.worldSize = key.worldSize;
    this.workerId = key.workerId;
    this.cacheSalt = key.cacheSalt;
    this.requestId = key.requestId;
    // A client that does not know the field reads each object once.
    this.numKvReaders = key.numKvReaders ?? 1;
    this.firstChunk = chunks.first;
    this.endChunk = chunks.end;
    this.hashes = hashes;
    this.#tokens = key.tokens;
    this.#chunkBytes = chunks.size * 4;
  }

  tokensOfChunk(chunk: number): Uint8Array {
    if (this.#tokens === null) throw new TypeError("token bytes are valid only until the handler returns");
    if (!Number.isInteger(chunk) || chunk < 0 || chunk >= this.endChunk) {
      throw new TypeError(`chunk ${chunk} is not in 0..${this.endChunk - 1}`);
    }
    return this.#tokens.bytes().subarray(chunk * this.#chunkBytes, (chunk + 1) * this.#chunkBytes);
  }

  /** The token buffer is about to be used again. */
  releaseTokens(): void {
    this.#tokens = null;
  }
}

function rangeOf(frame: Buffer, op: ServedName, context: DecodeContext): WireChunkRange {
  const tokensMax = context.tokensMax ?? TOKENS_MAX_DEFAULT;
  const key = readCacheServerKey(frame, context.tokens, tokensMax, context.recent);
  const size = context.chunkSize;
  const transfer = op !== "lookup" && op !== "free_lookup_locks";
  if (transfer) {
    if (key.workerId === null) throw violation("worker_id", `is nil; ${op} is for one worker`);
    if (key.start % size !== 0)
      throw violation("start", `${key.start} is no multiple of the chunk size ${size}`);
    if (key.end % size !== 0) throw violation("end", `${key.end} is no multiple of the chunk size ${size}`);
    if (key.end > key.tokenCount) {
      throw violation("end", `${key.end} is beyond the ${key.tokenCount} token_ids`);
    }
    if (key.start > key.end) throw violation("start", `${key.start} is beyond end ${key.end}`);
  } else if (key.numKvReaders !== undefined && key.numKvReaders < 1) {
    throw violation("num_kv_readers", `${key.numKvReaders} is below 1; send how many workers will read`);
  }
  const end = Math.floor(Math.min(key.end, key.tokenCount) / size);
  const first = op === "lookup" ? 0 : Math.min(Math.floor(key.start / size), end);
  return new WireChunkRange(key, { first, end, size }, hashesOf(key, end, context));
}

/** Hashes of chunks 0..`end`: of a token array that came before as they were, else of the session or computed. */
function hashesOf(key: CacheServerKey, end: number, context: DecodeContext): Uint8Array {
  const { recent, sessions } = context;
  const { tokens, cacheSalt } = key;
  const known = tokens.known.find((entry) => entry.cacheSalt === cacheSalt);
  const wanted = end * CHUNK_HASH_BYTES;
  if (known !== undefined && known.hashes.length >= wanted) {
    recent?.used(known);
    sessions.noteReused(end);
    return known.hashes.subarray(0, wanted);
  }
  const hashes = sessions.hashesFor(key.requestId, tokens.bytes(), end);
  if (known !== undefined) recent?.used(known, hashes);
  else recent?.add(tokens.frame, tokens.from, tokens.to, tokens.count, cacheSalt, hashes);
  return hashes;
}

/** Reads one payload frame to its end. */
function whole<T>(frame: Buffer, field: string, read: (reader: MsgpackReader) => T): T {
  const reader = new MsgpackReader(frame);
  const value = read(reader);
  reader.expectEnd(field);
  return value;
}

const instanceIdOf = (frame: Buffer): bigint =>
  whole(frame, "instance_id", (reader) => reader.uint64("instance_id"));

const requestIdOf = (frame: Buffer): string =>
  whole(frame, "request_id", (reader) => reader.str("request_id", REQUEST_ID_BYTES_MAX));

interface RegistrationFields {
  instance_id?: bigint;
  model_name?: string;
  world_size?: number;
  block_size?: number;
  num_layers?: number;
  hidden_dim_size?: number;
  dtype_str?: string;
  use_mla?: boolean;
  num_physical_slots?: number | null;
}

const REGISTRATION_FIELDS = [
  "instance_id",
  "model_name",
  "world_size",
  "block_size",
  "num_layers",
  "hidden_dim_size",
  "dtype_str",
  "use_mla",
  "num_physical_slots",
] as const;

function readRegistrationField(reader: MsgpackReader, name: string, fields: RegistrationFields): void {
  switch (name) {
    case "instance_id":
      fields.instance_id = reader.uint64(name);
      return;
    case "model_name":
      fields.model_name = reader.str(name, MODEL_NAME_BYTES_MAX);
      return;
    case "world_size":
      fields.world_size = reader.intIn(name, 1, 255);
      return;
    case "block_size":
    case "num_layers":
    case "hidden_dim_size":
      fields[name] = reader.intIn(name, 1, 2 ** 31 - 1);
      return;
    case "dtype_str":
      fields.dtype_str = reader.str(name, 64);
      return;
    case "use_mla":
      fields.use_mla = reader.bool(name);
      return;
    case "num_physical_slots":
      fields.num_physical_slots = reader.nil(name) ? null : reader.intIn(name, 1, 2 ** 31 - 1);
      return;
    default:
      reader.skip(quoted(name));
  }
}

/** Reads the map of `register_kv_cache_engine_driven_context` and computes shape and bytes of an object. */
function readRegistration(frame: Buffer, chunkSize: number): EngineDrivenRegistration {
  const fields: RegistrationFields = {};
  whole(frame, "registration", (reader) => {
    const pairs = reader.map("registration");
    if (pairs > 64) throw violation("registration", `has ${pairs} fields; at most 64 are taken`);
    const seen = new Set<string>();
    for (let i = 0; i < pairs; i++) {
      const name = reader.str("a field name of the registration", 256);
      if (seen.has(name)) throw violation(`registration field ${quoted(name)}`, "is given twice");
      seen.add(name);
      readRegistrationField(reader, name, fields);
    }
  });
  for (const name of REGISTRATION_FIELDS) {
    if (fields[name] === undefined && name !== "num_physical_slots") {
      throw violation(`registration field ${name}`, "is missing");
    }
  }
  const { instance_id = 0n, model_name = "", world_size = 1, block_size = 1, dtype_str = "" } = fields;
  const { num_layers = 1, hidden_dim_size = 1, use_mla = false } = fields;
  assertModelName(model_name);
  const itemBytes = dtypeItemBytes(dtype_str);
  if (itemBytes === undefined) {
    throw violation(
      "dtype_str",
      `${quoted(dtype_str)} is no dtype of a known size; use a torch name like bfloat16`,
    );
  }
  const slots = fields.num_physical_slots ?? chunkSize;
  const shape = use_mla ? [num_layers, slots, hidden_dim_size] : [2, num_layers, slots, hidden_dim_size];
  const objectBytes = elementsOf(shape) * itemBytes;
  if (objectBytes > OBJECT_BYTES_MAX) {
    throw violation(
      "registration",
      `makes objects of ${objectBytes} bytes; at most ${OBJECT_BYTES_MAX} are served`,
    );
  }
  return {
    instanceId: instance_id,
    modelName: model_name,
    worldSize: world_size,
    blockSize: block_size,
    numLayers: num_layers,
    hiddenDimSize: hidden_dim_size,
    dtype: dtype_str,
    singlePlane: use_mla,
    slots,
    shape,
    objectBytes,
  };
}

function readInline(frame: Buffer, range: ChunkRange): readonly InlineObject[] | null {
  const data = whole(frame, "data", (reader) => reader.bin("data"));
  if (data.length === 0) return null;
  const chunks = range.endChunk - range.firstChunk;
  const objects = readTensorList(data, chunks);
  if (objects.length !== chunks) {
    throw violation("data", `has ${objects.length} tensors for ${chunks} chunks`);
  }
  return objects;
}

function checkBlockAllocation(frames: readonly Buffer[]): void {
  whole(frames[1] as Buffer, "model_name", (reader) => reader.str("model_name", MODEL_NAME_BYTES_MAX));
  whole(frames[2] as Buffer, "records", (reader) => {
    const records = reader.array("records");
    for (let i = 0; i < records; i++) reader.skip("records");
  });
}

/** Throws unless count and sizes of the payload frames fit the operation; nothing is decoded for it. */
export function checkPayload(operation: Operation, payload: readonly Buffer[]): void {
  const { name, arity, bulkFrame } = operation;
  if (payload.length !== arity) throw violation(name, `takes ${arity} arguments, ${payload.length} came`);
  for (const [i, frame] of payload.entries()) {
    if (frame.length > PAYLOAD_BYTES_MAX && i !== bulkFrame) {
      throw new CacheError(
        "LIMIT_REACHED",
        `argument ${i} of ${name} has ${frame.length} bytes; at most ${PAYLOAD_BYTES_MAX} are taken`,
      );
    }
  }
}

/**
 * Decodes a served call whose payload passed {@link checkPayload}.
 *
 * @throws CacheError `PROTOCOL_VIOLATION`, `INVALID_KEY` or `LIMIT_REACHED`, naming the field.
 */
export function decodeCall(op: ServedName, payload: readonly Buffer[], context: DecodeContext): Call {
  const [first = EMPTY, second = EMPTY, third = EMPTY] = payload;
  switch (op) {
    case "get_chunk_size":
    case "get_experimental":
    case "noop":
      return { op };
    case "ping": {
      const read = (reader: MsgpackReader): bigint | null =>
        reader.nil("instance_id") ? null : reader.uint64("instance_id");
      return { op, instanceId: whole(first, "instance_id", read) };
    }
    case "register_kv_cache_engine_driven_context":
      return { op, registration: readRegistration(first, context.chunkSize) };
    case "unregister_kv_cache_engine_driven_context":
      return { op, instanceId: instanceIdOf(first) };
    case "lookup":
    case "free_lookup_locks":
      whole(second, "tp_size", (reader) => reader.int("tp_size"));
      return { op, range: rangeOf(first, op, context) };
    case "query_prefetch_status":
    case "end_session":
      return { op, requestId: requestIdOf(first) };
    case "wait_prefetch_status": {
      const seconds = whole(second, "seconds", (reader) => reader.float("seconds"));
      return { op, requestId: requestIdOf(first), seconds: Math.min(Math.max(seconds, 0), WAIT_SECONDS_MAX) };
    }
    case "prepare_store":
    case "prepare_retrieve":
    case "commit_retrieve": {
      const instanceId = instanceIdOf(second);
      return { op, range: rangeOf(first, op, context), instanceId };
    }
    case "commit_store": {
      const instanceId = instanceIdOf(second);
      const range = rangeOf(first, op, context);
      return { op, range, instanceId, inline: readInline(third, range) };
    }
    case "clear":
      return { op, force: whole(first, "force", (reader) => reader.bool("force")) };
    case "report_block_allocation":
      checkBlockAllocation(payload);
      return { op, instanceId: instanceIdOf(first) };
  }
}

/** Records of one batch that a subscriber may ask for. */
const KV_EVENTS_MAX = 1024;

/** Decodes the payload of `subscribe_kv_events`, which passed {@link checkPayload}. */
export function decodeSubscription(payload: readonly Buffer[]): KvEventSubscription {
  const [instance = EMPTY, model = EMPTY, cursor = EMPTY, maxEvents = EMPTY] = payload;
  const seen = whole(cursor, "cursor", (reader) => reader.uint64("cursor"));
  return {
    instanceId: instanceIdOf(instance),
    modelName: whole(model, "model_name", (reader) => reader.str("model_name", MODEL_NAME_BYTES_MAX)),
    // No seq of ours is as high: such a cursor is another server's.
    cursor: Number(seen > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : seen),
    maxEvents: whole(maxEvents, "max_events", (reader) => reader.intIn("max_events", 1, KV_EVENTS_MAX)),
  };
}

const EMPTY = Buffer.alloc(0);

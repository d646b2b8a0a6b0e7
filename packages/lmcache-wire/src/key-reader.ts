import {
  assertCacheSalt,
  assertModelName,
  CACHE_SALT_CHARS_MAX,
  MODEL_NAME_BYTES_MAX,
} from "@cache/contracts";
import { MsgpackReader } from "./msgpack-reader.ts";
import type { KnownTokens, RecentTokens } from "./recent-tokens.ts";
import { quoted, violation } from "./violations.ts";

/** LMCache's `IPCCacheServerKey` as it was read. */
export interface CacheServerKey {
  readonly modelName: string;
  readonly worldSize: number;
  readonly workerId: number | null;
  readonly tokens: TokenArray;
  readonly tokenCount: number;
  readonly start: number;
  readonly end: number;
  readonly requestId: string;
  readonly cacheSalt: string;
  /** Undefined where the client left it out. */
  readonly numKvReaders: number | undefined;
}

/** Longest request id in UTF-8 bytes. LMCache has no bound. */
export const REQUEST_ID_BYTES_MAX = 1024;
/** Most token ids in one key by default. The payload bound of 8 MiB is usually met first. */
export const TOKENS_MAX_DEFAULT = 2 ** 21;
/** Most readers of one object: LMCache sends the tensor-parallel size. */
const KV_READERS_MAX = 0xffff;
const TOKEN_RANGE_MAX = 2 ** 40;

/** Memory that token ids are read into, used again for each key; grows to the longest key seen. */
export class TokenBuffer {
  #bytes: Uint8Array = new Uint8Array(64 * 1024);

  /** At least `byteLength` bytes; what was there before is lost. */
  reserve(byteLength: number): Uint8Array {
    if (this.#bytes.length < byteLength) {
      this.#bytes = new Uint8Array(Math.max(byteLength, this.#bytes.length * 2));
    }
    return this.#bytes;
  }
}

/** The token ids of a key: where they lie, and their bytes once they are asked for. */
export class TokenArray {
  readonly frame: Buffer;
  /** Where the array begins in the frame, header included, and where it ends. */
  readonly from: number;
  readonly to: number;
  readonly count: number;
  /** Equal arrays that were hashed before, one of each tenant. They were checked when they were read first. */
  readonly known: readonly KnownTokens[];
  readonly #buffer: TokenBuffer;
  #bytes: Uint8Array | undefined;

  /** Reads the array at the reader's cursor; of one that `recent` knows only the header. */
  constructor(reader: MsgpackReader, buffer: TokenBuffer, tokensMax: number, recent?: RecentTokens) {
    this.frame = reader.bytes;
    this.#buffer = buffer;
    this.from = reader.pos;
    const count = reader.array("token_ids");
    if (count > tokensMax) throw violation("token_ids", `has ${count} ids; at most ${tokensMax} are taken`);
    this.count = count;
    this.known = recent?.find(this.frame, this.from, count) ?? [];
    const [equal] = this.known;
    if (equal === undefined) this.#bytes = readTokens(reader, buffer, count);
    else reader.pos = this.from + equal.raw.length;
    this.to = reader.pos;
  }

  /** Big-endian uint32 a token, as hashed: a view of the token buffer, valid until the next key is read. */
  bytes(): Uint8Array {
    if (this.#bytes === undefined) {
      const reader = new MsgpackReader(this.frame);
      reader.pos = this.from;
      this.#bytes = readTokens(reader, this.#buffer, reader.array("token_ids"));
    }
    return this.#bytes;
  }
}

const UINT8 = 0xcc;
const UINT16 = 0xcd;
const UINT32 = 0xce;
/** Ids read by one call of {@link readPlainTokens}: a loop over a whole prompt would be optimized anew in each call. */
const TOKENS_A_CALL = 1024;

/**
 * Reads ids from `at[0]` for the tokens `at[1]`..`end`, and advances both. Stops at what is no plain id, or close to
 * the frame's end.
 */
function readPlainTokens(from: DataView, to: DataView, at: Int32Array, end: number): void {
  const wide = from.byteLength - 5;
  let pos = at[0] as number;
  let i = at[1] as number;
  for (; i < end && pos <= wide; i++) {
    const type = from.getUint8(pos);
    if (type < 0x80) {
      to.setUint32(i * 4, type);
      pos += 1;
      continue;
    }
    if (type !== UINT32 && type !== UINT16) {
      if (type !== UINT8) break;
      to.setUint32(i * 4, from.getUint8(pos + 1));
      pos += 2;
      continue;
    }
    // No branch on which of both: the widths of ids follow no pattern that a processor could learn.
    const isNarrow = UINT32 - type;
    to.setUint32(i * 4, from.getUint32(pos + 1) >>> (isNarrow << 4));
    pos += 5 - (isNarrow << 1);
  }
  at[0] = pos;
  at[1] = i;
}

/** Reads `count` uint32 into `buffer`, big-endian, without a JavaScript array between. */
function readTokens(reader: MsgpackReader, buffer: TokenBuffer, count: number): Uint8Array {
  const out = buffer.reserve(count * 4);
  const { bytes } = reader;
  const from = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const to = new DataView(out.buffer, out.byteOffset, out.length);
  const at = Int32Array.of(reader.pos, 0);
  for (let i = 0; i < count; i = at[1]) {
    const end = Math.min(count, i + TOKENS_A_CALL);
    readPlainTokens(from, to, at, end);
    if (at[1] === end) continue;
    reader.pos = at[0] as number;
    to.setUint32((at[1] as number) * 4, reader.intIn("token_ids", 0, 0xffffffff));
    at[0] = reader.pos;
    at[1] = (at[1] as number) + 1;
  }
  reader.pos = at[0] as number;
  return out.subarray(0, count * 4);
}

const REQUIRED = [
  "model_name",
  "world_size",
  "worker_id",
  "token_ids",
  "start",
  "end",
  "request_id",
] as const;

/** What has been read of a key so far. */
interface KeyFields {
  model_name?: string;
  world_size?: number;
  worker_id?: number | null;
  token_ids?: TokenArray;
  start?: number;
  end?: number;
  request_id?: string;
  cache_salt?: string;
  request_configs?: true;
  num_kv_readers?: number;
}

function readField(
  reader: MsgpackReader,
  name: string,
  fields: KeyFields,
  tokens: TokenBuffer,
  max: number,
  recent: RecentTokens | undefined,
): void {
  switch (name) {
    case "model_name":
      fields.model_name = reader.str(name, MODEL_NAME_BYTES_MAX);
      return;
    case "world_size":
      fields.world_size = reader.intIn(name, 1, 255);
      return;
    case "worker_id":
      fields.worker_id = reader.nil(name) ? null : reader.intIn(name, 0, 254);
      return;
    case "token_ids":
      fields.token_ids = new TokenArray(reader, tokens, max, recent);
      return;
    case "start":
    case "end":
      fields[name] = reader.intIn(name, 0, TOKEN_RANGE_MAX);
      return;
    case "request_id":
      fields.request_id = reader.str(name, REQUEST_ID_BYTES_MAX);
      return;
    case "cache_salt":
      fields.cache_salt = reader.str(name, CACHE_SALT_CHARS_MAX * 4);
      return;
    case "num_kv_readers":
      fields.num_kv_readers = reader.intIn(name, 0, KV_READERS_MAX);
      return;
    case "request_configs":
      if (!reader.nil(name)) {
        const type = reader.peek(name);
        if ((type & 0xf0) !== 0x80 && type !== 0xde && type !== 0xdf)
          throw violation(name, "must be a map or nil");
        reader.skip(name);
      }
      fields.request_configs = true;
      return;
    default:
      reader.skip(quoted(name));
  }
}

/**
 * Reads the key of a call (LMCache 0.5.6, `IPCCacheServerKey`): a map by field name, in any order, unknown
 * fields skipped, `cache_salt`, `request_configs` and `num_kv_readers` optional. Names that come twice are
 * refused.
 *
 * @throws CacheError `PROTOCOL_VIOLATION` or `INVALID_KEY`, naming the field.
 */
export function readCacheServerKey(
  frame: Buffer,
  buffer: TokenBuffer,
  tokensMax = TOKENS_MAX_DEFAULT,
  recent?: RecentTokens,
): CacheServerKey {
  const reader = new MsgpackReader(frame);
  const pairs = reader.map("key");
  if (pairs > 64) throw violation("key", `has ${pairs} fields; at most 64 are taken`);
  const fields: KeyFields = {};
  const seen = new Set<string>();
  for (let i = 0; i < pairs; i++) {
    const name = reader.str("a field name of the key", 256);
    if (seen.has(name)) throw violation(`key field ${quoted(name)}`, "is given twice");
    seen.add(name);
    readField(reader, name, fields, buffer, tokensMax, recent);
  }
  reader.expectEnd("key");
  for (const name of REQUIRED) {
    if (fields[name] === undefined) throw violation(`key field ${name}`, "is missing");
  }
  const { model_name = "", world_size = 0, worker_id = null } = fields;
  const tokens = fields.token_ids as TokenArray;
  const { cache_salt = "", start = 0, end = 0, request_id = "" } = fields;
  assertModelName(model_name);
  assertCacheSalt(cache_salt);
  if (worker_id !== null && worker_id >= world_size) {
    throw violation("worker_id", `${worker_id} is not below world_size ${world_size}`);
  }
  return {
    modelName: model_name,
    worldSize: world_size,
    workerId: worker_id,
    tokens,
    tokenCount: tokens.count,
    start,
    end,
    requestId: request_id,
    cacheSalt: cache_salt,
    numKvReaders: fields.num_kv_readers,
  };
}

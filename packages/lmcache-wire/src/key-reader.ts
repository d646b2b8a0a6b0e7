import {
  assertCacheSalt,
  assertModelName,
  CACHE_SALT_CHARS_MAX,
  MODEL_NAME_BYTES_MAX,
} from "@cache/contracts";
import { MsgpackReader } from "./msgpack-reader.ts";
import { quoted, violation } from "./violations.ts";

/** LMCache's `IPCCacheServerKey` as it was read. The token bytes lie in the {@link TokenBuffer}. */
export interface CacheServerKey {
  readonly modelName: string;
  readonly worldSize: number;
  readonly workerId: number | null;
  /** Big-endian uint32 a token, as hashed: a view of the token buffer, valid until the next key is read. */
  readonly tokens: Uint8Array;
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

/** Reads an array of uint32 into `buffer`, big-endian, without a JavaScript array between. */
function readTokens(reader: MsgpackReader, buffer: TokenBuffer, tokensMax: number): Uint8Array {
  const count = reader.array("token_ids");
  if (count > tokensMax) throw violation("token_ids", `has ${count} ids; at most ${tokensMax} are taken`);
  const out = buffer.reserve(count * 4);
  const bytes = reader.bytes;
  let at = 0;
  for (let i = 0; i < count; i++) {
    const pos = reader.pos;
    const type = bytes[pos];
    if (type === 0xce && reader.left >= 5) {
      out[at] = bytes[pos + 1] as number;
      out[at + 1] = bytes[pos + 2] as number;
      out[at + 2] = bytes[pos + 3] as number;
      out[at + 3] = bytes[pos + 4] as number;
      reader.pos = pos + 5;
    } else if (type === 0xcd && reader.left >= 3) {
      out[at] = 0;
      out[at + 1] = 0;
      out[at + 2] = bytes[pos + 1] as number;
      out[at + 3] = bytes[pos + 2] as number;
      reader.pos = pos + 3;
    } else {
      const id = reader.intIn("token_ids", 0, 0xffffffff);
      out[at] = id >>> 24;
      out[at + 1] = id >>> 16;
      out[at + 2] = id >>> 8;
      out[at + 3] = id;
    }
    at += 4;
  }
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
  token_ids?: Uint8Array;
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
      fields.token_ids = readTokens(reader, tokens, max);
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
    readField(reader, name, fields, buffer, tokensMax);
  }
  reader.expectEnd("key");
  for (const name of REQUIRED) {
    if (fields[name] === undefined) throw violation(`key field ${name}`, "is missing");
  }
  const { model_name = "", world_size = 0, worker_id = null, token_ids = new Uint8Array(0) } = fields;
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
    tokens: token_ids,
    tokenCount: token_ids.length / 4,
    start,
    end,
    requestId: request_id,
    cacheSalt: cache_salt,
    numKvReaders: fields.num_kv_readers,
  };
}

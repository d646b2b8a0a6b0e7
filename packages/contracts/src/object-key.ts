import { CacheError } from "./errors.ts";

/** Longest `cache_salt` in characters (LMCache counts characters, not bytes). */
export const CACHE_SALT_CHARS_MAX = 128;
/** Longest chunk hash that we accept, in bytes. LMCache's default hash has 32. */
export const CHUNK_HASH_BYTES_MAX = 64;
/** Longest model name that we accept, in UTF-8 bytes. LMCache has no bound. */
export const MODEL_NAME_BYTES_MAX = 512;

/**
 * Names one KV chunk of one rank. Source of the fields and their invariants: LMCache 0.5.6, `ObjectKey`.
 * Make one with {@link objectKey}, which checks them.
 */
export interface ObjectKey {
  /** Hash of the chunk's tokens and all before them; 32 bytes with blake3. */
  readonly chunkHash: Uint8Array;
  /** Model name, without `@`. */
  readonly modelName: string;
  /** Packed rank, unsigned 32 bits: see {@link packKvRank}. */
  readonly kvRank: number;
  /** Object group, at least 0; 0 for all engine-driven transfers. */
  readonly objectGroupId: number;
  /** The tenant; `""` for none. Without `@`, `/`, `\` and NUL. */
  readonly cacheSalt: string;
}

/** JSON form of an {@link ObjectKey}, with LMCache's field names. */
export interface EncodedObjectKey {
  readonly chunk_hash_hex: string;
  readonly model_name: string;
  readonly kv_rank: number;
  readonly object_group_id: number;
  readonly cache_salt: string;
}

/** What {@link objectKey} takes: group and salt may be left out (0 and `""`). */
export interface ObjectKeyFields {
  readonly chunkHash: Uint8Array;
  readonly modelName: string;
  readonly kvRank: number;
  readonly objectGroupId?: number | undefined;
  readonly cacheSalt?: string | undefined;
}

function invalid(what: string, value: unknown, rule: string): CacheError {
  return new CacheError("INVALID_KEY", `${what} ${JSON.stringify(value)} ${rule}`, { details: { what } });
}

/** Half a character: UTF-8 replaces it, so that two keys would get one name in a store. */
const LONE_SURROGATE = /\p{Surrogate}/u;

/** Throws `INVALID_KEY` unless the name can stand in a key. */
export function assertModelName(modelName: string): void {
  if (modelName.length === 0) throw invalid("model_name", modelName, "is empty; name the served model");
  if (modelName.includes("@"))
    throw invalid("model_name", modelName, "contains '@'; serve the model under another name");
  if (modelName.includes("\0")) throw invalid("model_name", modelName, "contains NUL; remove it");
  if (LONE_SURROGATE.test(modelName)) throw invalid("model_name", modelName, "is not well-formed Unicode");
  if (Buffer.byteLength(modelName) > MODEL_NAME_BYTES_MAX) {
    throw invalid("model_name", `${modelName.slice(0, 40)}…`, `is longer than ${MODEL_NAME_BYTES_MAX} bytes`);
  }
}

/** Throws `INVALID_KEY` unless the salt can stand in a key. */
export function assertCacheSalt(cacheSalt: string): void {
  if (/[@/\\\0]/.test(cacheSalt)) {
    throw invalid("cache_salt", cacheSalt, "contains one of '@', '/', '\\', NUL; use other characters");
  }
  if (LONE_SURROGATE.test(cacheSalt)) throw invalid("cache_salt", cacheSalt, "is not well-formed Unicode");
  if (Array.from(cacheSalt).length > CACHE_SALT_CHARS_MAX) {
    throw invalid(
      "cache_salt",
      `${cacheSalt.slice(0, 40)}…`,
      `is longer than ${CACHE_SALT_CHARS_MAX} characters`,
    );
  }
}

/**
 * Makes a checked, frozen key.
 *
 * @throws CacheError `INVALID_KEY` naming the field and the rule that it breaks.
 */
export function objectKey(fields: ObjectKeyFields): ObjectKey {
  const { chunkHash, modelName, kvRank, objectGroupId = 0, cacheSalt = "" } = fields;
  if (chunkHash.byteLength === 0 || chunkHash.byteLength > CHUNK_HASH_BYTES_MAX) {
    throw invalid("chunk_hash length", chunkHash.byteLength, `is not in 1..${CHUNK_HASH_BYTES_MAX} bytes`);
  }
  assertModelName(modelName);
  if (!Number.isInteger(kvRank) || kvRank < 0 || kvRank > 0xffffffff) {
    throw invalid("kv_rank", kvRank, "is not an unsigned 32-bit integer");
  }
  if (!Number.isInteger(objectGroupId) || objectGroupId < 0 || objectGroupId > 0xffffffff) {
    throw invalid("object_group_id", objectGroupId, "is not an unsigned 32-bit integer");
  }
  assertCacheSalt(cacheSalt);
  return Object.freeze({ chunkHash, modelName, kvRank, objectGroupId, cacheSalt });
}

/** A string that is equal exactly for equal keys; for maps and messages, not a storage format. */
export function keyString(key: ObjectKey): string {
  const hash = Buffer.from(key.chunkHash.buffer, key.chunkHash.byteOffset, key.chunkHash.byteLength);
  return `${key.modelName}@${key.kvRank.toString(16).padStart(8, "0")}@${key.objectGroupId.toString(16)}@${hash.toString("hex")}@${key.cacheSalt}`;
}

/** JSON form of a key. */
export function encodeObjectKey(key: ObjectKey): EncodedObjectKey {
  return {
    chunk_hash_hex: Buffer.from(key.chunkHash).toString("hex"),
    model_name: key.modelName,
    kv_rank: key.kvRank,
    object_group_id: key.objectGroupId,
    cache_salt: key.cacheSalt,
  };
}

/**
 * The key of a JSON form.
 *
 * @throws CacheError `INVALID_KEY` for a bad hash or a broken invariant.
 */
export function decodeObjectKey(encoded: {
  readonly chunk_hash_hex: string;
  readonly model_name: string;
  readonly kv_rank: number;
  readonly object_group_id?: number | undefined;
  readonly cache_salt?: string | undefined;
}): ObjectKey {
  const hex = encoded.chunk_hash_hex;
  if (!/^(?:[0-9a-f]{2})+$/i.test(hex))
    throw invalid("chunk_hash_hex", hex.slice(0, 80), "is not hexadecimal bytes");
  return objectKey({
    chunkHash: Buffer.from(hex, "hex"),
    modelName: encoded.model_name,
    kvRank: encoded.kv_rank,
    objectGroupId: encoded.object_group_id,
    cacheSalt: encoded.cache_salt,
  });
}

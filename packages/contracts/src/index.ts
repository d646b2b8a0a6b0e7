export {
  type AdapterLog,
  type AdapterStatus,
  type AdapterUsage,
  type KeyListEntry,
  type KeyListPage,
  type L2Adapter,
  type L2AdapterFactory,
  type L2Capabilities,
  type L2StoreResult,
  type OpenContext,
  type PageRequest,
  type SizedKey,
} from "./adapter.ts";
export { Bitmap } from "./bitmap.ts";
export {
  CACHE_ERROR_CODES,
  CacheError,
  type CacheErrorCode,
  type CacheErrorOptions,
  hasCode,
  isCacheError,
  messageOf,
} from "./errors.ts";
export { type KvRankParts, packKvRank, unpackKvRank, workerKvRank } from "./kv-rank.ts";
export type { L1MemoryDesc, L1View, MemoryLayoutDesc, MemoryObj } from "./memory.ts";
export {
  assertCacheSalt,
  assertModelName,
  CACHE_SALT_CHARS_MAX,
  CHUNK_HASH_BYTES_MAX,
  decodeObjectKey,
  type EncodedObjectKey,
  encodeObjectKey,
  keyString,
  MODEL_NAME_BYTES_MAX,
  type ObjectKey,
  type ObjectKeyFields,
  objectKey,
} from "./object-key.ts";
export { type ObjectNames, PERCENT_ENCODED_NAMES, URL_PATH_NAMES, WIRE_NAMES } from "./object-names.ts";
export {
  getRegisteredL2Adapter,
  L2_API_VERSION,
  type L2AdapterRegistration,
  listRegisteredL2Adapters,
  type RegisteredL2Adapter,
  registerL2Adapter,
} from "./registry.ts";

export { dtypeItemBytes, elementsOf, knownDtypes } from "./dtypes.ts";
export type {
  Answer,
  Answered,
  ChunkRange,
  EngineDrivenRegistration,
  InlineObject,
  KvEventBatch,
  KvEventRecord,
  KvEventStream,
  KvEventSubscription,
  LmcacheHandlers,
  PrepareRetrieveAnswer,
  PrepareStoreAnswer,
  SlotDesc,
} from "./handlers.ts";
export type { BytesCopy } from "./replies.ts";
export type { RpcLimits, RpcServer, RpcServerOptions, RpcServerStatus } from "./server.ts";
export { startRpcServer } from "./start.ts";
export { CHUNK_HASH_BYTES, chunkHashes, TokenHasher } from "./token-hasher.ts";

export { createL1Allocator, DEFAULT_VIEW_BYTES, type L1AllocatorOptions } from "./allocator.ts";
export type { MachineRoomOptions } from "./machine-room.ts";
export { type MapperProof, type MapperProofOptions, mapperProof } from "./mapper-proof.ts";
export { openL1Pool, SHM_DIRECTORY } from "./open-pool.ts";
export { POOL_NAME_PREFIX, poolFileName } from "./pool-name.ts";
export { listPools, type PoolListing, removePool } from "./remove-pool.ts";
export { TRAILER_BYTES } from "./trailer.ts";
export type {
  L1Allocator,
  L1Pool,
  L1PoolOptions,
  L1Range,
  MapperScan,
  PoolAccess,
  PoolIdentity,
  PoolRefusal,
} from "./types.ts";

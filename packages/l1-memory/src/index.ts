export { createL1Allocator, DEFAULT_VIEW_BYTES, type L1AllocatorOptions } from "./allocator.ts";
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

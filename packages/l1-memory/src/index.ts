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

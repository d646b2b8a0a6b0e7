export type { Copies } from "./controllers/account-slices.ts";
export type {
  AdapterChanges,
  ChangeUnderWay,
  DrainReport,
  RemovalOptions,
  RemovalReport,
} from "./controllers/adapter-changes.ts";
export type { AdapterSetup, L2EvictionSpec } from "./controllers/attached-adapter.ts";
export type { CoreLog } from "./core.ts";
export { decodeEvent, encodeEvent } from "./events/codec.ts";
export {
  type CacheEvent,
  EVENT_DEFINITIONS,
  type EventOf,
  type EventType,
  type FieldKind,
} from "./events/definitions.ts";
export type {
  KvEventBatch,
  KvEventRecord,
  KvEventStream,
  KvEventSubscription,
} from "./kv-events/types.ts";
export type { RegistrationRequest } from "./l1/clients.ts";
export type { PreparedRetrieve } from "./l1/reads.ts";
export type { ChunkRequest, SlotAnswer } from "./l1/requests.ts";
export type { InlineChunk, PreparedStore, PreparedStoreAnswer } from "./l1/writes.ts";
export { GATE_DEFAULTS, type GateOptions } from "./l2-gate/index.ts";
export type { Operator, QuotaFigures, WarmRequest, WarmStatus } from "./operator.ts";
export { type Clock, DEFAULT_OPTIONS, type StorageManagerOptions, systemClock } from "./options.ts";
export type { OpenPool, RecoveryReport } from "./recovery.ts";
export type { AdapterStage } from "./state/adapter-changes.ts";
export { stageOf, type StorageStatus } from "./status.ts";
export { identitySuffix, openStorageManager, type StorageManagerSetup } from "./open-storage-manager.ts";
export type { StorageManager } from "./storage-manager.ts";

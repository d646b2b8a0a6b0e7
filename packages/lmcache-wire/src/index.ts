export type {
  Answer,
  Answered,
  ChunkRange,
  EngineDrivenRegistration,
  InlineObject,
  LmcacheHandlers,
  PrepareRetrieveAnswer,
  PrepareStoreAnswer,
  SlotDesc,
} from "./handlers.ts";

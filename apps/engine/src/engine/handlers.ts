import type {
  Answer,
  ChunkRange,
  LmcacheHandlers,
  PrepareRetrieveAnswer,
  PrepareStoreAnswer,
} from "@cache/lmcache-wire";
import type { PreparedRetrieve, PreparedStoreAnswer, StorageManager } from "@cache/storage-manager";

/** Answers LMCache's RPC from the storage manager. */
export function engineHandlers(manager: StorageManager, chunkSize: number): LmcacheHandlers {
  return {
    getChunkSize: () => chunkSize,
    getExperimental: () => (manager.kvEvents.enabled ? ["kv_event_stream"] : []),
    subscribeKvEvents: (subscription) => manager.kvEvents.subscribe(subscription),
    ping: (instance) => manager.clients.ping(instance),
    registerEngineDriven: (registration) =>
      manager.register({
        instanceId: registration.instanceId,
        modelName: registration.modelName,
        worldSize: registration.worldSize,
        blockSize: registration.blockSize,
        dtype: registration.dtype,
        shape: registration.shape,
        objectBytes: registration.objectBytes,
      }),
    unregisterEngineDriven: (instance) => manager.clients.unregister(instance),
    lookup: (range) => manager.lookups.lookup(range),
    queryPrefetchStatus: (requestId) => manager.lookups.query(requestId),
    waitPrefetchStatus: (requestId, seconds) => manager.lookups.wait(requestId, seconds * 1_000),
    freeLookupLocks: (range) => manager.lookups.freeLocks(range),
    endSession: (requestId) => manager.lookups.endSession(requestId),
    prepareStore: (range, instance) => {
      const answer = manager.prepareStore(range, instance);
      return answer instanceof Promise ? answer.then(storeAnswer) : storeAnswer(answer);
    },
    commitStore: (range, instance, inline) => manager.commitStore(range, instance, inline),
    prepareRetrieve: (range, instance) => {
      const answer = manager.prepareRetrieve(range, instance);
      return answer instanceof Promise ? answer.then(retrieveAnswer) : retrieveAnswer(answer);
    },
    commitRetrieve: (range: ChunkRange, instance) => manager.commitRetrieve(range, instance),
    clear: async (force) => {
      await manager.clear(force);
    },
    // Which blocks vLLM gave to a request changes nothing here.
    reportBlockAllocation: () => {},
    noteSignOfLife: (instance) => manager.clients.noteSignOfLife(instance),
    commitTurn: () => (manager.repliesWaitForSync ? manager.commitTurn() : manager.commit()),
  };
}

function storeAnswer(answer: PreparedStoreAnswer): Answer<PrepareStoreAnswer> {
  return answer;
}

function retrieveAnswer(prepared: PreparedRetrieve): Answer<PrepareRetrieveAnswer> {
  if (prepared.kind === "miss") return { value: { kind: "miss" } };
  if (prepared.kind === "inline") return { value: prepared };
  return { value: { kind: "slots", slots: prepared.slots }, takeBack: prepared.takeBack };
}

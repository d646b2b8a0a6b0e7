import { Bitmap, CacheError, encodeObjectKey, keyString } from "@cache/contracts";
import type { L2Adapter, ObjectKey } from "@cache/contracts";

/** What the wrong adapters reach into. */
export type MapAdapter = Required<L2Adapter> & {
  readonly objects: Map<string, { key: ObjectKey; bytes: Uint8Array }>;
  readonly locks: Map<string, number>;
  open(): Promise<void>;
};

/** The least correct adapter: a Map. `nameOf` may be wrong on purpose. */
export function createMapAdapter(nameOf: (key: ObjectKey) => string = keyString): MapAdapter {
  const objects: MapAdapter["objects"] = new Map();
  const locks: MapAdapter["locks"] = new Map();
  let state: "created" | "open" | "closed" = "created";
  const check = (): void => {
    if (state !== "open") throw new CacheError("ADAPTER_CLOSED", "the map adapter is not open");
  };
  const usage: L2Adapter["usage"] = () => {
    const bytesByCacheSalt = new Map<string, number>();
    let totalBytesUsed = 0;
    for (const { key, bytes } of objects.values()) {
      totalBytesUsed += bytes.length;
      bytesByCacheSalt.set(key.cacheSalt, (bytesByCacheSalt.get(key.cacheSalt) ?? 0) + bytes.length);
    }
    return { totalBytesUsed, capacityBytes: "unbounded", bytesByCacheSalt };
  };
  return {
    objects,
    locks,
    capabilities: Object.freeze({
      persistent: false,
      shared: false,
      delete: true,
      listKeys: true,
      quarantine: false,
      globalEviction: false,
      l1Registration: "none",
      needsStateDir: false,
      writesOnlyFromEngineProcess: true,
      maxBatchKeys: 512,
      maxObjectBytes: 2 * 1024 * 1024,
    }),
    location: "a map",
    async open() {
      if (state === "created") state = "open";
    },
    async store(keys, sources) {
      check();
      const failed = new Map<number, CacheError>();
      const stored = new Bitmap(keys.length);
      let bytesTransferred = 0;
      for (const [i, key] of keys.entries()) {
        const bytes = sources[i]?.bytes ?? new Uint8Array();
        if (bytes.length > 2 * 1024 * 1024) {
          failed.set(i, new CacheError("INVALID_ARGUMENT", `${bytes.length} bytes are too many`));
          continue;
        }
        stored.set(i);
        if (objects.get(nameOf(key))?.bytes.length === bytes.length) continue;
        objects.set(nameOf(key), { key, bytes: Uint8Array.from(bytes) });
        bytesTransferred += bytes.length;
      }
      return { stored, failed, bytesTransferred };
    },
    async lookupAndLock(requests) {
      check();
      const found = new Bitmap(requests.length);
      for (const [i, { key, byteLength }] of requests.entries()) {
        if (objects.get(nameOf(key))?.bytes.length !== byteLength) continue;
        locks.set(nameOf(key), (locks.get(nameOf(key)) ?? 0) + 1);
        found.set(i);
      }
      return found;
    },
    unlock(keys) {
      for (const key of keys) locks.set(nameOf(key), Math.max(0, (locks.get(nameOf(key)) ?? 0) - 1));
    },
    async load(requests, into) {
      check();
      const loaded = new Bitmap(requests.length);
      for (const [i, { key, byteLength }] of requests.entries()) {
        const bytes = objects.get(nameOf(key))?.bytes;
        if (bytes?.length !== byteLength) continue;
        into[i]?.bytes.set(bytes);
        loaded.set(i);
      }
      return loaded;
    },
    async delete(keys) {
      check();
      const gone = new Bitmap(keys.length);
      for (const [i, key] of keys.entries()) {
        if ((locks.get(nameOf(key)) ?? 0) > 0) continue;
        objects.delete(nameOf(key));
        gone.set(i);
      }
      return gone;
    },
    async listKeys({ pageSize, pageToken, modelName }) {
      check();
      if (!Number.isInteger(pageSize) || pageSize < 1 || pageSize > 5000) {
        throw new CacheError("INVALID_ARGUMENT", `page size ${pageSize}`);
      }
      const start = Number(pageToken ?? 0);
      if (!Number.isSafeInteger(start) || start < 0) throw new CacheError("INVALID_ARGUMENT", "page token");
      const all = [...objects.values()].filter(
        ({ key }) => modelName === undefined || key.modelName === modelName,
      );
      const end = start + pageSize;
      return {
        entries: all
          .slice(start, end)
          .map(({ key, bytes }) => ({ key: encodeObjectKey(key), size_bytes: bytes.length })),
        nextPageToken: end < all.length ? String(end) : null,
      };
    },
    async quarantine() {
      throw new CacheError("UNSUPPORTED", "the map adapter has no quarantine");
    },
    usage,
    status: () => ({ isHealthy: state === "open", type: "map" }),
    async close() {
      state = "closed";
    },
  };
}

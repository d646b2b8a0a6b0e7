import type { ListedObject, SimpleAdapterOptions, SimpleStore } from "../src/index.ts";

/** One place for data: what a harness keeps while adapters come and go. */
export type Objects = Map<string, Uint8Array>;

/** The least store: a Map. `bytes` are kept as they are, as the rules allow. */
export function mapStore(objects: Objects): SimpleStore {
  return {
    exists: async (name) => objects.get(name)?.length ?? null,
    get: async (name) => objects.get(name) ?? null,
    put: async (name, bytes) => objects.set(name, bytes),
  };
}

/** With everything but batched forms; every call lasts some turns of the event loop. */
export function fullStore(objects: Objects): SimpleStore {
  const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
  return {
    exists: async (name) => (await turn(), objects.get(name)?.length ?? null),
    get: async (name) => (await turn(), objects.get(name) ?? null),
    put: async (name, bytes) => (await turn(), objects.set(name, bytes)),
    remove: async (name) => (await turn(), objects.delete(name)),
    async *list(prefix): AsyncGenerator<ListedObject> {
      for (const [name, bytes] of objects) {
        await turn();
        if (name.startsWith(prefix)) yield { name, byteLength: bytes.length, modifiedMs: 1.5 };
      }
    },
    ping: async () => undefined,
    close: async () => undefined,
  };
}

/** Answers nothing but true or false, streams what it gets, and lists names alone. */
export function plainStore(objects: Objects): SimpleStore {
  return {
    ...fullStore(objects),
    exists: async (name) => objects.has(name),
    async get(name) {
      const bytes = objects.get(name);
      if (bytes === undefined) return null;
      return (async function* () {
        for (let at = 0; at < bytes.length; at += 1000) yield bytes.subarray(at, at + 1000);
      })();
    },
    async *list(prefix) {
      for (const name of objects.keys()) if (name.startsWith(prefix)) yield { name };
    },
  };
}

/** Reads into the buffers that it is given, in ranges. */
export function rangeStore(objects: Objects): SimpleStore {
  return {
    ...fullStore(objects),
    async getInto(name, into, offset) {
      await new Promise<void>((resolve) => setImmediate(resolve));
      const bytes = objects.get(name);
      if (bytes === undefined) return null;
      into.set(bytes.subarray(offset, offset + into.length));
      return bytes.length;
    },
  };
}

/** With all batched forms; single ones throw, so that it shows where they are used. */
export function batchedStore(objects: Objects): SimpleStore {
  const full = fullStore(objects);
  const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
  return {
    ...full,
    batchedExists: async (names) => (await turn(), names.map((name) => objects.get(name)?.length ?? false)),
    batchedGet: async (names) => (await turn(), names.map((name) => objects.get(name) ?? null)),
    async batchedPut(entries) {
      await turn();
      for (const { name, bytes } of entries) objects.set(name, bytes);
    },
    async batchedRemove(names) {
      await turn();
      for (const name of names) objects.delete(name);
      return names.map(() => null);
    },
  };
}

/** Options of the stores here: one Map is a place that outlives adapters and that several share. */
export const OPTIONS: SimpleAdapterOptions = {
  type: "map",
  location: "a map",
  persistent: true,
  shared: true,
  maxObjectBytes: 2 * 1024 * 1024,
};

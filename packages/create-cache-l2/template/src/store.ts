import type { ListedObject, SimpleStore } from "@cache/simple-store";

/** Replace the Map by your store. What a method may do, and what not, stands at `SimpleStore`. */
export function create__Name__Store(): SimpleStore {
  const objects = new Map<string, Uint8Array>();
  return {
    async exists(name) {
      return objects.get(name)?.length ?? null;
    },
    async get(name) {
      return objects.get(name) ?? null;
    },
    async put(name, bytes) {
      objects.set(name, bytes);
    },
    async remove(name) {
      objects.delete(name);
    },
    async *list(prefix): AsyncGenerator<ListedObject> {
      for (const [name, bytes] of objects) {
        if (name.startsWith(prefix)) yield { name, byteLength: bytes.length };
      }
    },
  };
}

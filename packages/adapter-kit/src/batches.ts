import { CacheError, type MemoryObj, type SizedKey } from "@cache/contracts";

/** @throws CacheError `INVALID_ARGUMENT` unless a batch has one object for each key. */
export function assertPairs(operation: string, keys: number, objects: number): void {
  if (keys === objects) return;
  throw new CacheError("INVALID_ARGUMENT", `${operation} of ${keys} keys has ${objects} objects`);
}

/** @throws CacheError `INVALID_ARGUMENT` unless a load has one buffer for each key, as long as its object. */
export function assertBuffers(requests: readonly SizedKey[], into: readonly MemoryObj[]): void {
  assertPairs("load", requests.length, into.length);
  for (const [i, { byteLength }] of requests.entries()) {
    const bytes = into[i]?.bytes.byteLength;
    if (bytes === byteLength) continue;
    throw new CacheError("INVALID_ARGUMENT", `buffer ${i} has ${bytes} bytes for an object of ${byteLength}`);
  }
}

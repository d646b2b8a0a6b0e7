// Stores objects into a static pool, and deletes the oldest, until it is killed. Prints `stored N` for each one that
// was acknowledged, and `deleting N` before it asks for a delete. Usage:
//   node store-forever.mjs LIBRARY DIRECTORY FIRST      (runs the build)
import { writeSync } from "node:fs";
import { join } from "node:path";
import { objectKey } from "@cache/contracts";
import { kernelCalls } from "@cache/libc";
import { createStaticAdapter, staticConfigSchema } from "../../dist/index.js";

const [, , library, directory, first] = process.argv;
const OBJECT_BYTES = 300_000;
const ALIGN = 4096;
const SLOT = Math.ceil(OBJECT_BYTES / ALIGN) * ALIGN;
const KEPT = 24;

const size = 8 * 1024 * 1024;
const calls = kernelCalls();
const ptr = calls.mapAnonymous(size);
const memory = calls.view(ptr, size);
const l1 = {
  ptr,
  size,
  alignBytes: ALIGN,
  stableRegistrationSize: size,
  views: [{ offset: 0, bytes: memory }],
};
const silent = () => undefined;
const signal = new AbortController().signal;
const config = staticConfigSchema.parse({
  backend: "POSIX",
  backend_params: { file_path: join(directory, "pool"), use_direct_io: "false", file_size: 1 << 20 },
  pool_size: 12,
  library,
});
const adapter = createStaticAdapter(config, l1);
await adapter.open({
  id: "nixl",
  stateDir: directory,
  log: { debug: silent, info: silent, warn: silent, error: silent },
  signal,
});
const key = (number) => {
  const chunkHash = Buffer.alloc(32);
  chunkHash.writeUInt32BE(number, 0);
  return objectKey({ chunkHash, modelName: "org/model", kvRank: 0x01000100 });
};
for (let n = Number(first); ; n += 4) {
  const numbers = [n, n + 1, n + 2, n + 3];
  const objects = numbers.map((number, i) => {
    const poolOffset = i * SLOT;
    const bytes = memory.subarray(poolOffset, poolOffset + OBJECT_BYTES);
    bytes.fill((number % 250) + 1);
    return { bytes, poolOffset };
  });
  const { stored, failed } = await adapter.store(numbers.map(key), objects, signal);
  for (const error of failed.values()) throw error;
  for (const i of stored.positions()) writeSync(1, `stored ${numbers[i]}\n`);
  const old = numbers.map((number) => number - KEPT).filter((number) => number >= Number(first));
  for (const number of old) writeSync(1, `deleting ${number}\n`);
  await adapter.delete(old.map(key), signal);
}

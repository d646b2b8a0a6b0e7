// Stores objects into a directory until it is killed; prints the number of each one that was acknowledged.
// Usage: node store-forever.mjs BASE_PATH FIRST COUNT (COUNT 0: without end). Runs the build.
import { writeSync } from "node:fs";
import { objectKey } from "@cache/contracts";
import { createFsAdapter, fsConfigSchema } from "../../dist/index.js";

const [basePath, first, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const silent = () => undefined;
const signal = new AbortController().signal;
const adapter = createFsAdapter(fsConfigSchema.parse({ base_path: basePath }), {
  ptr: null,
  size: 0,
  alignBytes: 4096,
  views: [],
});
await adapter.open({
  id: "fs",
  stateDir: null,
  log: { debug: silent, info: silent, warn: silent, error: silent },
  signal,
});
const end = count === 0 ? Number.POSITIVE_INFINITY : first + count;
for (let n = first; n < end; n += 4) {
  const numbers = [n, n + 1, n + 2, n + 3];
  const keys = numbers.map((number) => {
    const chunkHash = Buffer.alloc(32);
    chunkHash.writeUInt32BE(number, 0);
    return objectKey({ chunkHash, modelName: "org/model", kvRank: 0x01000100 });
  });
  const objects = numbers.map((number) => ({
    bytes: Buffer.alloc(1_500_000, number % 251),
    poolOffset: null,
  }));
  const { stored } = await adapter.store(keys, objects, signal);
  for (const i of stored.positions()) writeSync(1, `${numbers[i]}\n`);
}
await adapter.close();

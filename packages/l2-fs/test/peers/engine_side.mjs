// Our half of fs_interop.py. Usage: node engine_side.mjs store|load BASE_PATH MODEL...; runs the build.
import { objectKey } from "@cache/contracts";
import { createFsAdapter, fsConfigSchema } from "../../dist/index.js";

const [, , what, basePath, ...cases] = process.argv;
const silent = () => undefined;
const log = { debug: silent, info: silent, warn: silent, error: silent };
const signal = new AbortController().signal;
const l1 = { ptr: null, size: 0, alignBytes: 4096, views: [] };
const adapter = createFsAdapter(fsConfigSchema.parse({ base_path: basePath }), l1);
await adapter.open({ id: "fs", stateDir: null, log, signal });
let bad = 0;
for (const text of cases) {
  const { hash, model, rank, group, salt, length, seed } = JSON.parse(text);
  const key = objectKey({
    chunkHash: Buffer.from(hash, "hex"),
    modelName: model,
    kvRank: rank,
    objectGroupId: group,
    cacheSalt: salt,
  });
  const expected = Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 31 + seed * 7 + (i >>> 8)) & 255));
  if (what === "store") {
    const { bytesTransferred } = await adapter.store([key], [{ bytes: expected, poolOffset: null }], signal);
    if (bytesTransferred !== length) bad++;
  } else {
    const into = Buffer.alloc(length);
    const request = [{ key, byteLength: length }];
    const found = await adapter.lookupAndLock(request, signal);
    const loaded = await adapter.load(request, [{ bytes: into, poolOffset: null }], signal);
    if (!found.has(0) || !loaded.has(0) || !into.equals(expected)) bad++;
    adapter.unlock([key]);
  }
}
await adapter.close();
process.exit(bad === 0 ? 0 : 1);

// A throwaway cache behind the real RPC server, to drive it with LMCache's own clients by hand:
//   node fake-server.mjs PORT shm|pickle        (build the package first)
import { closeSync, openSync, ftruncateSync, unlinkSync } from "node:fs";
import process from "node:process";
import { startRpcServer } from "../../dist/index.js";

const [port = "0", mode = "pickle"] = process.argv.slice(2);
const POOL = 512 * 2 ** 20;
const shmName = `lmcache_l1_pool_fake_${process.pid}`;
if (mode === "shm") {
  const fd = openSync(`/dev/shm/${shmName}`, "wx+", 0o600);
  ftruncateSync(fd, POOL);
  closeSync(fd);
}
const stop = () => {
  if (mode === "shm") unlinkSync(`/dev/shm/${shmName}`);
  process.exit(0);
};
process.on("SIGTERM", stop);
process.on("SIGINT", stop);

const registrations = new Map();
const objects = new Map(); // key text -> { slot, bytes, state, locks }
const results = new Map(); // request id -> chunks
const hits = new Map();
let next = 0;

const keyText = (range, chunk, worker) =>
  [
    range.modelName,
    range.worldSize,
    worker,
    range.cacheSalt,
    Buffer.from(range.hashes.subarray(32 * chunk, 32 * chunk + 32)).toString("hex"),
  ].join("|");
const keysOf = (range) => {
  const keys = [];
  for (let i = range.firstChunk; i < range.endChunk; i++) keys.push(keyText(range, i, range.workerId));
  return keys;
};
const registered = (id) => {
  const registration = registrations.get(id);
  if (registration === undefined) throw Object.assign(new Error(`instance ${id} is not registered`), {});
  return registration;
};
const allocate = (registration) => {
  const length = registration.objectBytes;
  if (next + length > POOL) next = 0; // throwaway: laps
  const slot = { offset: next, length, shape: registration.shape, dtype: registration.dtype };
  next += Math.ceil(length / 4096) * 4096;
  return slot;
};

const handlers = {
  getChunkSize: () => 256,
  getExperimental: () => [],
  ping: () => true,
  registerEngineDriven(registration) {
    registrations.set(registration.instanceId, registration);
    return mode === "shm" ? { shmName, poolSize: POOL } : { shmName: "", poolSize: 0 };
  },
  unregisterEngineDriven: (id) => void registrations.delete(id),
  lookup(range) {
    let chunk = 0;
    for (; chunk < range.endChunk; chunk++) {
      const workers = Array.from({ length: range.worldSize }, (_, worker) =>
        objects.get(keyText(range, chunk, worker)),
      );
      if (!workers.every((object) => object?.state === "resident")) break;
      for (const object of workers) object.locks += range.numKvReaders;
    }
    results.set(range.requestId, chunk);
    hits.set(range.requestId, chunk);
  },
  queryPrefetchStatus(id) {
    const chunks = results.get(id) ?? 0;
    results.delete(id);
    return chunks;
  },
  waitPrefetchStatus: async (id) => handlers.queryPrefetchStatus(id),
  freeLookupLocks(range) {
    for (let i = range.firstChunk; i < Math.min(range.endChunk, hits.get(range.requestId) ?? 0); i++) {
      for (let worker = 0; worker < range.worldSize; worker++) {
        const object = objects.get(keyText(range, i, worker));
        if (object !== undefined) object.locks -= range.numKvReaders;
      }
    }
  },
  endSession: (id) => void hits.delete(id),
  prepareStore(range, id) {
    const registration = registered(id);
    if (mode !== "shm") return { kind: "empty-context" };
    const slots = [];
    const chunkIndices = [];
    keysOf(range).forEach((key, i) => {
      if (objects.has(key)) return;
      const slot = allocate(registration);
      objects.set(key, { slot, bytes: null, state: "staged", locks: 0 });
      slots.push(slot);
      chunkIndices.push(i);
    });
    return { kind: "slots", slots, chunkIndices };
  },
  commitStore(range, id, inline) {
    registered(id);
    const keys = keysOf(range);
    if (inline !== null) {
      keys.forEach((key, i) => {
        const { bytes, shape, dtype } = inline[i];
        objects.set(key, { slot: { shape, dtype }, bytes: Buffer.from(bytes), state: "resident", locks: 0 });
      });
      return true;
    }
    let pending = 0;
    for (const key of keys) {
      const object = objects.get(key);
      if (object?.state !== "staged") continue;
      object.state = "resident";
      pending += 1;
    }
    return pending > 0;
  },
  prepareRetrieve(range, id) {
    registered(id);
    const found = keysOf(range).map((key) => objects.get(key));
    if (!found.every((object) => object?.state === "resident" && object.locks > 0)) return { kind: "miss" };
    if (mode === "shm") return { kind: "slots", slots: found.map((object) => object.slot) };
    for (const object of found) object.locks -= 1;
    return {
      kind: "inline",
      objects: found.map(({ bytes, slot }) => ({ bytes, shape: slot.shape, dtype: slot.dtype })),
      release: () => {},
    };
  },
  commitRetrieve(range) {
    if (mode === "shm") for (const key of keysOf(range)) if (objects.has(key)) objects.get(key).locks -= 1;
    return true;
  },
  clear: () => objects.clear(),
  reportBlockAllocation: () => undefined,
  noteSignOfLife: () => undefined,
  commitTurn: () => true,
};

const say = (level) => (message, fields) =>
  process.stderr.write(`${level} ${message} ${JSON.stringify(fields ?? {})}\n`);
const log = { debug: () => undefined, info: say("info"), warn: say("warn"), error: say("error") };
const server = await startRpcServer({
  host: "127.0.0.1",
  port: Number(port),
  handlers,
  chunkSize: 256,
  poolSizeBytes: POOL,
  log,
});
process.stdout.write(`${server.address}\n`);
process.on("SIGUSR1", () => process.stdout.write(`${JSON.stringify(server.status())}\n`));

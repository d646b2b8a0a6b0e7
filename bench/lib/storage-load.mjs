import { createHash, randomBytes } from "node:crypto";
import { join } from "node:path";
import { Bitmap } from "../../packages/contracts/dist/index.js";
import { openJournal } from "../../packages/journal/dist/index.js";
import { openL1Pool } from "../../packages/l1-memory/dist/index.js";
import { openStorageManager } from "../../packages/storage-manager/dist/index.js";

const SLOT_BYTES = 4096;
const SILENT = { debug() {}, info() {}, warn() {}, error() {} };

/** An L2 that takes everything and keeps nothing: its account is as large as that of a real one. */
export function voidAdapter() {
  const all = (keys) => {
    const bits = new Bitmap(keys.length);
    for (let i = 0; i < keys.length; i++) bits.set(i);
    return bits;
  };
  return {
    capabilities: {
      persistent: true,
      shared: false,
      delete: true,
      listKeys: false,
      quarantine: false,
      globalEviction: false,
      l1Registration: "none",
      needsStateDir: false,
      writesOnlyFromEngineProcess: true,
      maxBatchKeys: 4096,
      maxObjectBytes: 2 ** 30,
    },
    location: "nowhere",
    open: () => Promise.resolve(),
    store: (keys) =>
      Promise.resolve({ stored: all(keys), failed: new Map(), bytesTransferred: keys.length * SLOT_BYTES }),
    lookupAndLock: (requests) => Promise.resolve(new Bitmap(requests.length)),
    unlock() {},
    load: (requests) => Promise.resolve(new Bitmap(requests.length)),
    delete: (keys) => Promise.resolve(all(keys)),
    usage: () => ({ totalBytesUsed: 0, capacityBytes: "unbounded", bytesByCacheSalt: new Map() }),
    status: () => ({ isHealthy: true, type: "void" }),
    close: () => Promise.resolve(),
  };
}

/** Storage manager, journal and pool on a directory. The pool is a sparse file: nobody writes into it here. */
export async function openManager({ directory, slots, adapter, timed = () => {} }) {
  let last = performance.now();
  const lap = (name) => {
    timed(name, performance.now() - last);
    last = performance.now();
  };
  const { journal, recovery } = await openJournal({ directory: join(directory, "journal") });
  lap("journal verified");
  let pool = null;
  const manager = await openStorageManager({
    journal,
    recovery,
    openPool: async (expected, checkPosition) => {
      lap("records folded");
      pool = await openL1Pool({
        shmName: "bench",
        shmDirectory: directory,
        sizeBytes: slots * SLOT_BYTES,
        alignBytes: SLOT_BYTES,
        journalId: journal.id,
        expected,
        checkPosition,
      });
      Object.defineProperty(pool, "reservedBytes", { value: pool.sizeBytes });
      pool.reserve = (onReserved) => Promise.resolve(onReserved(pool.sizeBytes));
      lap("pool opened");
      return pool;
    },
    makeAdapters: () => {
      lap("ranges in use");
      return [{ id: "void", adapter, stateDir: null, eviction: null, shared: false }];
    },
    log: SILENT,
    adapterLog: () => SILENT,
  });
  lap("adapters attached, token records counted");
  const end = async () => {
    await journal.close();
    await pool.close({ keep: true });
  };
  return {
    manager,
    /** Ends without a word to anybody, as far as a living process can. */
    async crash() {
      manager.core.end();
      await end();
    },
    async stop() {
      await manager.stop();
      await end();
    },
  };
}

/** Chunks of one client, all different; the chunk's number stands in its tokens. */
export class Prompts {
  layout = { shape: [2, 1, 16, 64], dtype: "bfloat16", blockSize: 16, objectBytes: SLOT_BYTES };
  #chunks;
  #seed = randomBytes(16);
  #tokens = Buffer.alloc(1024);

  constructor(chunks) {
    this.#chunks = chunks;
  }

  #hashes(first) {
    const hashes = Buffer.alloc(this.#chunks * 32);
    for (let i = 0; i < this.#chunks; i++) {
      createHash("sha256")
        .update(this.#seed)
        .update(String(first + i))
        .digest()
        .copy(hashes, i * 32);
    }
    return hashes;
  }

  store(first) {
    return {
      modelName: "bench",
      worldSize: 1,
      workerId: 0,
      cacheSalt: "",
      requestId: `store-${first}`,
      numKvReaders: 1,
      firstChunk: 0,
      endChunk: this.#chunks,
      hashes: this.#hashes(first),
      tokensOfChunk: () => this.#tokens,
    };
  }

  lookup(first, number) {
    return { ...this.store(Math.max(0, first)), workerId: null, requestId: `lookup-${number}` };
  }
}

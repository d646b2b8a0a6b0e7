import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openJournal } from "@cache/journal";
import { openL1Pool } from "@cache/l1-memory";
import { chunkHashes, type RpcServerStatus, TokenHasher } from "@cache/lmcache-wire";
import { openStorageManager, type StorageManager } from "@cache/storage-manager";
import type { L2Adapter } from "@cache/contracts";
import { createFsAdapter } from "../../../packages/l2-fs/src/adapter.ts";
import { fsConfigSchema } from "../../../packages/l2-fs/src/config.ts";
import { loadConfig } from "../src/config/load-config.ts";
import { engineView } from "../src/engine/engine-view.ts";
import { HttpCounts } from "../src/http/http-counts.ts";
import { type HttpServer, startHttpServer } from "../src/http/server.ts";
import { CacheCounters } from "../src/metrics/cache-counters.ts";

const CHUNK_TOKENS = 256;
const OBJECT_BYTES = 4_096;
const SHAPE = [2, 1, 16, 64];
const SILENT = { debug() {}, info() {}, warn() {}, error() {} };

/** Figures of an RPC server that has seen a little of everything. */
export const RPC_STATUS: RpcServerStatus = {
  requests: { ping: 3, lookup: 2 },
  refusals: { not_served: 1 },
  malformed: 1,
  oversized: 1,
  unsendableReplies: 0,
  degradedReplies: 0,
  turns: 5,
  sessions: 1,
  sessionBytes: 64,
  hashedChunks: 2,
  reusedChunks: 2,
  callsInFlight: 0,
  bytesInFlight: 0,
  repliesWaiting: 0,
  maxMessageSize: 67_108_864,
  streams: 1,
  streamBatches: 3,
  streamsDropped: 0,
  connections: { accepted: 2, closed: 1, handshakeFailed: 0, cutOff: 0 },
};

/** What a test server answered. */
export interface HttpAnswer {
  readonly status: number;
  readonly type: string;
  readonly text: string;
  /** Of a JSON reply. */
  readonly json: unknown;
}

/** The engine's HTTP server on a real storage manager with fs, without an RPC server. */
export interface HttpEngine {
  readonly manager: StorageManager;
  readonly counters: CacheCounters;
  /** A prompt of two chunks. */
  readonly tokens: readonly number[];
  ask(
    method: string,
    path: string,
    body?: string | null,
    headers?: Record<string, string>,
  ): Promise<HttpAnswer>;
  /** Stores the prompt as a client does. */
  store(model: string, salt?: string): Promise<void>;
  /** Looks the prompt up and reads it, as a client does. Answers the chunks found. */
  load(model: string, salt?: string): Promise<number>;
  stop(): Promise<void>;
}

/** Starts it; `withFs` false: no L2. */
export async function startHttpEngine(options: {
  withFs: boolean;
  saltLabel?: boolean;
}): Promise<HttpEngine> {
  const directory = mkdtempSync(join(tmpdir(), "http-engine-"));
  const fs = { type: "fs", base_path: directory };
  const { config } = await loadConfig({
    flags: {
      l1_size_gb: "0.01",
      shm_name: "",
      state_dir: "none",
      ...(options.withFs ? { l2_adapter: [JSON.stringify(fs)] } : {}),
    },
    environment: {},
  });
  const { journal, recovery } = await openJournal({ directory: null, fsync: "none" });
  const pool = await openL1Pool({
    shmName: "",
    useKoffi: false,
    sizeBytes: 1024 * OBJECT_BYTES,
    alignBytes: OBJECT_BYTES,
    journalId: journal.id,
    expected: null,
    checkPosition: () => null,
  });
  const setup = (adapter: L2Adapter) => ({
    id: "fs",
    adapter,
    stateDir: null,
    eviction: null,
    shared: false,
  });
  const manager = await openStorageManager({
    journal,
    recovery,
    openPool: () => Promise.resolve(pool),
    makeAdapters: (l1) =>
      options.withFs ? [setup(createFsAdapter(fsConfigSchema.parse({ base_path: directory }), l1))] : [],
    log: SILENT,
    adapterLog: () => SILENT,
  });
  const counts = new HttpCounts();
  const counters = new CacheCounters(manager, options.saltLabel ?? false);
  const view = engineView({
    config,
    context: { version: "1.2.3", http: () => counts.figures() },
    manager,
    rpc: { status: () => RPC_STATUS },
    counters,
  });
  const server = await startHttpServer({
    host: "127.0.0.1",
    port: 0,
    allowedHosts: [],
    tokenFile: null,
    view: () => view,
    counts,
    log: { ...SILENT, level: "info" },
  });
  const tokens = Array.from({ length: 2 * CHUNK_TOKENS }, (_, i) => (i * 7919) % 150_000);
  const hasher = await TokenHasher.load(CHUNK_TOKENS);
  const client = new TestClient(manager, tokens, hasher);
  return {
    manager,
    counters,
    tokens,
    ask: (method, path, body = null, headers = {}) => ask(server, method, path, body, headers),
    store: (model, salt = "") => client.store(model, salt),
    load: (model, salt = "") => client.load(model, salt),
    stop: async () => {
      await server.close();
      await manager.stop();
      await pool.close({ keep: false });
      await journal.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A client without the pool: it sends and receives its objects inline. */
class TestClient {
  readonly #manager: StorageManager;
  readonly #hashes: Uint8Array;
  #requests = 0;

  constructor(manager: StorageManager, tokens: readonly number[], hasher: TokenHasher) {
    this.#manager = manager;
    const bytes = Buffer.alloc(tokens.length * 4);
    for (const [i, token] of tokens.entries()) bytes.writeUInt32BE(token, i * 4);
    this.#hashes = chunkHashes(hasher, bytes);
  }

  #range(modelName: string, cacheSalt: string, workerId: number | null) {
    return {
      modelName,
      worldSize: 1,
      workerId,
      cacheSalt,
      requestId: `request-${this.#requests}`,
      numKvReaders: 1,
      firstChunk: 0,
      endChunk: 2,
      hashes: this.#hashes,
      tokensOfChunk: () => new Uint8Array(CHUNK_TOKENS * 4),
    };
  }

  async store(modelName: string, salt: string): Promise<void> {
    const object = { bytes: new Uint8Array(OBJECT_BYTES).fill(7), shape: SHAPE, dtype: "bfloat16" };
    const layout = { shape: SHAPE, dtype: "bfloat16", blockSize: 16, objectBytes: OBJECT_BYTES };
    this.#requests++;
    this.#manager.register({ instanceId: 1n, modelName, worldSize: 1, ...layout });
    const done = await this.#manager.commitStore(this.#range(modelName, salt, 0), 1n, [object, object]);
    if (!done) throw new Error("the store was refused");
    this.#manager.commit();
    await until(() => this.#manager.units.every((_, i) => this.#stored(i)));
  }

  #stored(index: number): boolean {
    const number = this.#manager.adapters[index]?.number ?? 0;
    const { inDoubt, storedCount } = this.#manager.core.state.ledger(number);
    return inDoubt === 0 && storedCount > 0 && this.#manager.units[index]?.store.queued === 0;
  }

  async load(modelName: string, salt: string): Promise<number> {
    this.#requests++;
    const range = this.#range(modelName, salt, null);
    this.#manager.lookups.lookup(range);
    const found = await this.#manager.lookups.wait(range.requestId, 10_000);
    if (found !== null && found > 0) {
      const prepared = await this.#manager.prepareRetrieve({ ...range, workerId: 0, endChunk: found }, 1n);
      if (prepared.kind === "inline") prepared.release();
    }
    this.#manager.lookups.endSession(range.requestId);
    this.#manager.commit();
    return found ?? 0;
  }
}

/** Waits for a condition. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

function ask(
  server: HttpServer,
  method: string,
  path: string,
  body: string | null,
  headers: Record<string, string>,
): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    const length = String(Buffer.byteLength(body ?? ""));
    const json = { "content-type": "application/json", "content-length": length };
    const sent = method === "GET" ? headers : { ...json, ...headers };
    const outgoing = request(
      new URL(path, server.address),
      { method, headers: sent, agent: false },
      (reply) => {
        let text = "";
        reply.on("data", (part: Buffer) => (text += part.toString()));
        reply.on("end", () => {
          const type = (reply.headers["content-type"] ?? "").split(";")[0] ?? "";
          const json: unknown = type === "application/json" ? JSON.parse(text) : undefined;
          resolve({ status: reply.statusCode ?? 0, type, text, json });
        });
      },
    );
    outgoing.on("error", reject);
    outgoing.end(body ?? undefined);
  });
}

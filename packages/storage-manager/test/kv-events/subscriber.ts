import { unpackKvRank, workerKvRank } from "@cache/contracts";
import type { KvEventBatch, KvEventStream } from "../../src/kv-events/types.ts";
import type { ChunkRequest } from "../../src/l1/requests.ts";
import { immediate } from "../support/clock.ts";
import type { TestEngine } from "../support/engine.ts";
import { MODEL, type Prompt, type RangeOptions } from "../support/prompts.ts";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

/** Parent of each chunk that a test stored, by hash: what a stored record must say. */
const parents = new Map<string, string | null>();

/** A request whose chunks have token ids that can be told from their hash: its first eight bytes. */
export function withTokens(prompt: Prompt, options: RangeOptions = {}): ChunkRequest {
  const { hashes } = prompt;
  const hashOf = (chunk: number): Uint8Array => hashes.subarray(chunk * 32, chunk * 32 + 32);
  for (let chunk = 0; chunk < prompt.chunks; chunk++) {
    parents.set(hex(hashOf(chunk)), chunk === 0 ? null : hex(hashOf(chunk - 1)));
  }
  return { ...prompt.range(options), tokensOfChunk: (chunk) => hashOf(chunk).subarray(0, 8) };
}

/** What the engine must have announced: chunks with a token record of which every rank's object is resident. */
export function residentChunks(engine: TestEngine, modelAtRest = MODEL): string[] {
  const { keys } = engine.state;
  const found = new Set<string>();
  for (let key = 0; key < keys.numbers.bound; key++) {
    if (keys.resident.get(key) === 0 || keys.tokenSegment.get(key) === 0) continue;
    const group = keys.groupOfKey(key);
    const { worldSize } = unpackKvRank(group.kvRank);
    const ranks = Array.from({ length: worldSize }, (_, rank) => {
      const number = keys.findGroup({ ...group, kvRank: workerKvRank(worldSize, rank) });
      return number < 0 ? -1 : keys.find(number, keys.hash.get(key), 0);
    });
    if (ranks.some((one) => one < 0 || keys.resident.get(one) === 0)) continue;
    if (group.modelName === modelAtRest) found.add(hex(keys.hash.get(key)));
  }
  return [...found].sort();
}

/** A subscriber that does what the protocol says, and checks each record. */
export class Subscriber {
  readonly announced = new Set<string>();
  readonly batches: KvEventBatch[] = [];
  cursor = 0;
  losses = 0;
  #incarnation: bigint | null = null;
  #stream: KvEventStream | null = null;
  #pending: Promise<void> | null = null;
  #lastSeq = 0;

  /** Subscribes (again) at its cursor. */
  subscribe(engine: TestEngine, maxEvents = 4, instanceId = 9n): void {
    this.cut();
    if (this.cursor === 0) this.announced.clear();
    this.#stream = engine.manager.kvEvents.subscribe({
      instanceId,
      modelName: MODEL,
      cursor: this.cursor,
      maxEvents,
    });
  }

  cut(): void {
    this.#stream?.close();
    this.#stream = null;
    this.#pending = null;
  }

  /** Grants one credit and waits as long as something happens. True if a batch came. */
  async take(): Promise<boolean> {
    const before = this.batches.length;
    const stream = this.#stream as KvEventStream;
    if (this.#pending === null) {
      this.#pending = stream.next().then((batch) => {
        if (this.#stream !== stream) return;
        this.#pending = null;
        if (batch !== null) this.#apply(batch);
      });
    }
    for (let i = 0; i < 12 && this.batches.length === before; i++) await immediate();
    return this.batches.length > before;
  }

  async drain(): Promise<void> {
    while (await this.take());
  }

  #apply(batch: KvEventBatch): void {
    this.batches.push(batch);
    if (batch.lost) this.losses++;
    if (batch.lost || (this.#incarnation !== null && batch.incarnation !== this.#incarnation)) {
      this.announced.clear();
      this.#lastSeq = 0;
    }
    this.#incarnation = batch.incarnation;
    for (const record of batch.events) {
      if (record.seq < this.#lastSeq) throw new Error(`seq ${record.seq} after ${this.#lastSeq}`);
      this.#lastSeq = record.seq;
      for (const hash of record.blockHashes.map(hex)) {
        if (record.kind === "removed") this.announced.delete(hash);
        else this.announced.add(hash);
      }
      if (record.kind === "stored") this.#check(record);
    }
    this.cursor = batch.nextCursor;
  }

  #check(record: KvEventBatch["events"][number]): void {
    const [hash, ...more] = record.blockHashes.map(hex);
    if (hash === undefined || more.length > 0) throw new Error("a stored record tells one chunk");
    const parent = record.parentBlockHash === null ? null : hex(record.parentBlockHash);
    if (parents.get(hash) !== parent) throw new Error(`chunk ${hash} has the parent ${parent}`);
    if (hex(record.tokenIds) !== hash.slice(0, 16)) throw new Error(`chunk ${hash} has foreign token ids`);
  }
}

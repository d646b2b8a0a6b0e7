import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AdapterLog, CacheError, type L2Adapter } from "@cache/contracts";
import { type JournalOptions, type JournalRecord, type JournalRecovery, openJournal } from "@cache/journal";
import { type L1Pool, type MapperScan, openL1Pool } from "@cache/l1-memory";
import { createMockAdapter, type MockAdapter } from "@cache/l2-mock";
import { afterEach } from "vitest";
import type { AdapterSetup } from "../../src/controllers/attached-adapter.ts";
import type { CacheEvent, EventOf, EventType } from "../../src/events/definitions.ts";
import type { PreparedRetrieve } from "../../src/l1/reads.ts";
import type { ChunkRequest, SlotAnswer } from "../../src/l1/requests.ts";
import type { PreparedStoreAnswer } from "../../src/l1/writes.ts";
import type { StorageManagerOptions } from "../../src/options.ts";
import type { CacheState } from "../../src/state/cache-state.ts";
import { encodeState, foldRecords } from "../../src/state/snapshot.ts";
import { openStorageManager } from "../../src/open-storage-manager.ts";
import type { StorageManager } from "../../src/storage-manager.ts";
import { BreakableJournal } from "./breakable-journal.ts";
import { immediate, ManualClock } from "./clock.ts";
import { BFLOAT16, contentOf, MODEL, type TestLayout } from "./prompts.ts";

const ALIGN_BYTES = 4_096;
const SILENT = { debug() {}, info() {}, warn() {}, error() {} };

/** What a test chooses; the rest has small, quick defaults. */
export interface EngineOptions {
  /** Size of L1 in units of 4,096 bytes; default 64. */
  readonly slots?: number;
  readonly options?: Partial<StorageManagerOptions>;
  /** Adapters by id, in order of preference; the test keeps them, so they survive a restart. */
  readonly adapters?: Readonly<Record<string, L2Adapter>>;
  readonly setups?: Partial<Pick<AdapterSetup, "eviction" | "shared">>;
  /** What the command line says of an adapter, by id, where it matters; default: its id. */
  readonly bases?: Readonly<Record<string, string>>;
  /** Makes what an earlier engine was given while it ran. */
  readonly makeAdded?: (id: string, config: string) => L2Adapter;
  readonly adapterChanges?: "keep" | "forget";
  /** A directory for journal and pool, to start again on; default: memory that nothing survives. */
  readonly disk?: string;
  readonly journal?: Partial<JournalOptions>;
  /** In place of the real one, e.g. on files whose calls fail. */
  readonly openJournal?: typeof openJournal;
  /** Default: silent. */
  readonly log?: AdapterLog;
  /** The journal looks as if a snapshot had been made after so many of its records. */
  readonly snapshotAfter?: number;
}

/** A store in memory that answers at once. */
export function mockAdapter(config: { max_size_gb?: number } = {}): MockAdapter {
  return createMockAdapter({
    max_size_gb: 1,
    mock_bandwidth_gb: 1e6,
    latency_ms: 0,
    store_failure_rate: 0,
    load_failure_rate: 0,
    lookup_failure_rate: 0,
    ...config,
  });
}

/** An adapter as an operator adds it. */
export function adapterSetup(id: string, adapter: L2Adapter, base = ""): AdapterSetup {
  return { id, adapter, stateDir: null, eviction: null, shared: false, base };
}

const directories: string[] = [];
const running = new Set<TestEngine>();
afterEach(async () => {
  for (const engine of running) await engine.crash();
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true, force: true });
});

/** A directory that goes away with the test: what an engine can start again on. */
export function temporaryDisk(): string {
  const directory = mkdtempSync(join(tmpdir(), "storage-manager-test-"));
  directories.push(directory);
  return directory;
}

async function openPool(
  setup: EngineOptions,
  journalId: string,
  given: Pick<Parameters<typeof openL1Pool>[0], "expected" | "checkPosition">,
): Promise<L1Pool> {
  const pool = await openL1Pool({
    shmName: setup.disk === undefined ? "" : "test",
    ...(setup.disk === undefined ? { useKoffi: false } : { shmDirectory: setup.disk }),
    sizeBytes: (setup.slots ?? 64) * ALIGN_BYTES,
    alignBytes: ALIGN_BYTES,
    journalId,
    ...given,
  });
  // Clients of this test share our memory: as far as the engine can tell they map it.
  if (setup.disk === undefined) Object.defineProperty(pool, "shmName", { value: "test" });
  return pool;
}

/** What a journal finds at its opening where a snapshot stands for its first records. */
function withSnapshot(recovery: JournalRecovery, after: number): JournalRecovery {
  const records: JournalRecord[] = [];
  recovery.replay((position, payload) => records.push({ position, payload: Uint8Array.from(payload) }));
  const folded = records.slice(0, after);
  return {
    ...recovery,
    snapshot: { position: BigInt(folded.length), bytes: encodeState(foldRecords(null, folded)) },
    replay: (onRecord) => {
      for (const { position, payload } of records.slice(after)) onRecord(position, payload);
    },
  };
}

/** Starts the real storage manager on a manual clock. Stopped by itself when the test ends. */
export async function startEngine(setup: EngineOptions = {}): Promise<TestEngine> {
  const directory = setup.disk === undefined ? null : join(setup.disk, "journal");
  const opened = await (setup.openJournal ?? openJournal)({ directory, fsync: "none", ...setup.journal });
  const journal = new BreakableJournal(opened.journal);
  const clock = new ManualClock();
  let pool: L1Pool | null = null;
  const manager = await openStorageManager({
    journal,
    recovery:
      setup.snapshotAfter === undefined
        ? opened.recovery
        : withSnapshot(opened.recovery, setup.snapshotAfter),
    openPool: async (expected, checkPosition) => {
      pool = await openPool(setup, journal.id, { expected, checkPosition });
      return pool;
    },
    makeAdapters: () =>
      Object.entries(setup.adapters ?? {}).map(([id, adapter]) => ({
        id,
        adapter,
        stateDir: null,
        eviction: null,
        shared: false,
        base: setup.bases?.[id] ?? id,
        ...setup.setups,
      })),
    ...(setup.makeAdded === undefined
      ? {}
      : {
          makeAdded: (id: string, config: string) =>
            Promise.resolve(
              adapterSetup(id, (setup.makeAdded as NonNullable<typeof setup.makeAdded>)(id, config)),
            ),
        }),
    adapterChanges: setup.adapterChanges ?? "keep",
    options: setup.options ?? {},
    gate: { clock },
    clock,
    log: setup.log ?? SILENT,
    adapterLog: () => SILENT,
  }).catch(async (error: unknown) => {
    await pool?.close({ keep: true });
    await journal.close();
    throw error;
  });
  const engine = new TestEngine(manager, journal, clock);
  running.add(engine);
  await engine.until(() => manager.core.space.capacityBytes === manager.core.pool.sizeBytes);
  return engine;
}

/** A running storage manager, its clients, and what they copy. Each call is a turn of its own. */
export class TestEngine {
  readonly manager: StorageManager;
  readonly journal: BreakableJournal;
  readonly clock: ManualClock;
  /** Everything recorded since the start's end. */
  readonly events: CacheEvent[] = [];
  readonly #layouts = new Map<bigint, TestLayout>();
  /** What a scan for processes that map the pool finds. */
  mappers: MapperScan = { kind: "mapped", pids: [4711], mappings: 1, unreadable: 0 };
  #gone = false;

  constructor(manager: StorageManager, journal: BreakableJournal, clock: ManualClock) {
    this.manager = manager;
    this.journal = journal;
    this.clock = clock;
    manager.onEvent((event) => this.events.push(event));
    manager.core.pool.scanMappers = () => Promise.resolve(this.mappers);
  }

  get state(): CacheState {
    return this.manager.core.state;
  }

  get pool(): L1Pool {
    return this.manager.core.pool;
  }

  /** Events of one type, oldest first. */
  eventsOf<T extends EventType>(type: T): EventOf<T>[] {
    return this.events.filter((event): event is Extract<CacheEvent, EventOf<T>> => event.type === type);
  }

  /** One turn of the event loop: what `work` records is in the journal before it answers. */
  turn<T>(work: (manager: StorageManager) => T): T {
    const answer = work(this.manager);
    this.manager.commit();
    return answer;
  }

  /** Lets everything run that waits for no timer. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 6; ) {
      const before = this.journal.position;
      await immediate();
      quiet = this.journal.position === before ? quiet + 1 : 0;
    }
    if (!this.#gone) this.manager.commit();
  }

  /** Waits for what a thread or the kernel does. */
  async until(condition: () => boolean): Promise<void> {
    for (const end = performance.now() + 10_000; performance.now() < end; ) {
      if (condition()) return;
      await immediate();
    }
    throw new Error(`never came true: ${String(condition)}`);
  }

  /** Time passes in steps, and what it causes happens. */
  async pass(ms: number, stepMs = ms): Promise<void> {
    for (let left = ms; left > 0; left -= stepMs) {
      this.clock.jump(Math.min(left, stepMs));
      await this.settle();
    }
  }

  register(instance: bigint, layout: TestLayout = BFLOAT16, worldSize = 1, modelName = MODEL): void {
    this.#layouts.set(instance, layout);
    this.turn((manager) => manager.register({ instanceId: instance, modelName, worldSize, ...layout }));
  }

  unregister(instance: bigint): void {
    this.turn((manager) => manager.clients.unregister(instance));
  }

  layoutOf(instance: bigint): TestLayout {
    return this.#layouts.get(instance) ?? BFLOAT16;
  }

  prepareStore(instance: bigint, request: ChunkRequest): PreparedStoreAnswer | Promise<PreparedStoreAnswer> {
    return this.turn((manager) => manager.prepareStore(request, instance));
  }

  commitStore(instance: bigint, request: ChunkRequest): boolean {
    return this.turn((manager) => manager.commitStore(request, instance, null)) as boolean;
  }

  /** What a worker does between prepare and commit. */
  copyIn(instance: bigint, request: ChunkRequest, answer: PreparedStoreAnswer): void {
    if (answer.value.kind !== "slots") return;
    for (const [i, slot] of answer.value.slots.entries()) {
      const chunk = request.firstChunk + (answer.value.chunkIndices[i] as number);
      this.bytesAt(slot).set(contentOf(request, chunk, this.layoutOf(instance)));
    }
  }

  bytesAt(slot: Pick<SlotAnswer, "offset" | "length">): Buffer {
    return this.pool.view(slot.offset, slot.length) as Buffer;
  }

  /** The whole of a store: true if all of it is resident now, or was. */
  async store(instance: bigint, request: ChunkRequest): Promise<boolean> {
    const answer = await this.prepareStore(instance, request);
    this.manager.commit();
    if (answer.value.kind === "slots" && answer.value.slots.length === 0) return true;
    this.copyIn(instance, request, answer);
    return this.commitStore(instance, request);
  }

  /** Stages a range and leaves it open. */
  stage(instance: bigint, request: ChunkRequest): readonly SlotAnswer[] {
    const answer = this.prepareStore(instance, request);
    if (answer instanceof Promise || answer.value.kind !== "slots") throw new Error("nothing was staged");
    return answer.value.slots;
  }

  /** Looks up, waits for L2, and asks for the result: chunks of the longest prefix. */
  async lookup(request: ChunkRequest): Promise<number | null> {
    this.turn((manager) => manager.lookups.lookup(request));
    await this.settle();
    return this.query(request.requestId);
  }

  query(requestId: string): number | null {
    return this.turn((manager) => manager.lookups.query(requestId));
  }

  prepareRetrieve(instance: bigint, request: ChunkRequest): PreparedRetrieve {
    return this.turn((manager) => manager.prepareRetrieve(request, instance)) as PreparedRetrieve;
  }

  commitRetrieve(instance: bigint, request: ChunkRequest): void {
    this.turn((manager) => manager.commitRetrieve(request, instance));
  }

  /**
   * The whole of a retrieve after a lookup: "miss", "served", or "wrong bytes" if a slot does not hold exactly what
   * was asked for.
   */
  retrieve(instance: bigint, request: ChunkRequest): "miss" | "served" | "wrong bytes" {
    const answer = this.prepareRetrieve(instance, request);
    if (answer.kind !== "slots") return "miss";
    const right = answer.slots.every((slot, i) =>
      this.bytesAt(slot).equals(contentOf(request, request.firstChunk + i, this.layoutOf(instance))),
    );
    this.commitRetrieve(instance, request);
    return right ? "served" : "wrong bytes";
  }

  freeLocks(request: ChunkRequest): void {
    this.turn((manager) => manager.lookups.freeLocks(request));
  }

  endSession(requestId: string): void {
    this.turn((manager) => manager.lookups.endSession(requestId));
  }

  /** Lookup, retrieve by one rank, free what is left: chunks whose bytes were right. */
  async fetch(instance: bigint, lookup: ChunkRequest): Promise<number | "wrong bytes"> {
    const hits = (await this.lookup(lookup)) ?? 0;
    const request = { ...lookup, workerId: 0, endChunk: hits, hashes: lookup.hashes.subarray(0, hits * 32) };
    const outcome = hits === 0 ? "miss" : this.retrieve(instance, request);
    this.freeLocks({ ...request, workerId: null });
    this.endSession(lookup.requestId);
    if (outcome === "wrong bytes") return outcome;
    return outcome === "served" ? hits : 0;
  }

  ping(instance: bigint): boolean {
    return this.turn((manager) => manager.clients.ping(instance));
  }

  /** Bytes of slots in use. */
  get usedBytes(): number {
    return this.manager.core.space.usedBytes;
  }

  /** The process dies: nothing is said to anybody, locks of the kernel are released. */
  async crash(): Promise<void> {
    if (this.#gone) return;
    this.#gone = true;
    running.delete(this);
    this.clock.stop();
    this.journal.dead = true;
    this.journal.health = { state: "degraded", cause: new CacheError("JOURNAL_IO", "dead"), pendingBytes: 0 };
    await this.journal.close();
    await this.pool.close({ keep: true });
  }

  /** A stop in order; the pool stays. */
  async stop(): Promise<void> {
    await this.manager.stop();
    await this.crash();
  }
}

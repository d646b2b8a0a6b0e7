import { mkdirSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { isCacheError } from "@cache/contracts";
import { expect, test } from "vitest";
import { type JournalFiles, nodeFiles } from "../../../packages/journal/src/files.ts";
import { openJournalWith } from "../../../packages/journal/src/open-journal.ts";
import { createFsAdapter } from "../../../packages/l2-fs/src/adapter.ts";
import { fsConfigSchema } from "../../../packages/l2-fs/src/config.ts";
import { type FsPort, nodeFsPort } from "../../../packages/l2-fs/src/fs-port.ts";
import { noL1 } from "../../../packages/l2-fs/test/fixtures.ts";
import {
  type EngineOptions,
  startEngine,
  temporaryDisk,
  type TestEngine,
} from "../../../packages/storage-manager/test/support/engine.ts";
import { checkInvariants } from "../../../packages/storage-manager/test/support/invariants.ts";
import { type Prompt, prompt } from "../../../packages/storage-manager/test/support/prompts.ts";

const CHUNKS = 2;
const PROMPTS = Array.from({ length: 2 }, (_, i) => prompt(`prompt ${i}`, CHUNKS));
const NEW = prompt("stored afterwards", CHUNKS);

/** Counts calls, and lets those from one on fail with ENOSPC, for as many calls as it is told. */
class FullDisk {
  calls = 0;
  #from = Number.POSITIVE_INFINITY;
  #to = 0;

  failAt(call: number, count: number): void {
    this.calls = 0;
    this.#from = call;
    this.#to = call + count;
  }

  heal(): void {
    this.#to = 0;
  }

  /** True once the failing call was reached. */
  get reached(): boolean {
    return this.calls > this.#from;
  }

  check(name: string): void {
    const call = this.calls++;
    if (call >= this.#from && call < this.#to) {
      throw Object.assign(new Error(`ENOSPC: no space left on device, ${name}`), { code: "ENOSPC" });
    }
  }

  /** The journal's files, each call of which may find the disk full; every write is short first. */
  journalFiles(directory: string): JournalFiles {
    const real = nodeFiles(directory);
    const named =
      <A extends unknown[], R>(name: string, call: (...args: A) => R) =>
      (...args: A): R => {
        this.check(name);
        return call(...args);
      };
    return {
      ...real,
      open: named("open", real.open),
      write: named("write", (handle, buffer, offset, length, position) =>
        real.write(handle, buffer, offset, length > 40 ? 33 : length, position),
      ),
      truncate: named("truncate", real.truncate),
      sync: named("sync", real.sync),
      rename: named("rename", real.rename),
      copy: named("copy", real.copy),
      remove: named("remove", real.remove),
    };
  }

  /** The same for the fs adapter. */
  fsPort(): FsPort {
    const wrap =
      (name: string, call: (...args: never[]) => Promise<unknown>) =>
      async (...args: never[]): Promise<unknown> => {
        this.check(name);
        return call(...args);
      };
    const reading = new Set(["statfs", "opendir", "stat", "lstat", "fstat", "read", "close", "unlink"]);
    return Object.fromEntries(
      Object.entries(nodeFsPort).map(([name, call]) => [
        name,
        reading.has(name) ? call : wrap(name, call as (...args: never[]) => Promise<unknown>),
      ]),
    ) as unknown as FsPort;
  }
}

/** What a client does to store: it believes what a reply says, and a reply of a turn that failed says no. */
async function storeAsClient(engine: TestEngine, one: Prompt): Promise<boolean> {
  const { manager } = engine;
  const answer = await manager.prepareStore(one.range(), 1n);
  if (!manager.commit()) {
    answer.takeBack?.();
    manager.commit();
    return false;
  }
  if (answer.value.kind !== "slots") return false;
  if (answer.value.slots.length === 0) return true;
  engine.copyIn(1n, one.range(), answer);
  const done = await manager.commitStore(one.range(), 1n, null);
  return manager.commit() && done;
}

async function workload(engine: TestEngine): Promise<Prompt[]> {
  const acknowledged: Prompt[] = [];
  for (const one of PROMPTS) {
    if (await storeAsClient(engine, one)) acknowledged.push(one);
    expect(await engine.fetch(1n, one.lookup({ requestId: `during ${acknowledged.length}` }))).not.toBe(
      "wrong bytes",
    );
  }
  return acknowledged;
}

async function expectServed(engine: TestEngine, prompts: readonly Prompt[], when: string): Promise<void> {
  for (const [i, one] of prompts.entries()) {
    expect(await engine.fetch(1n, one.lookup({ requestId: `${when} ${i}` })), `${when}, prompt ${i}`).toBe(
      CHUNKS,
    );
  }
}

function onDisk(disk: string, full: FullDisk): EngineOptions {
  return {
    disk,
    slots: 64,
    journal: { segmentBytesMax: 700 },
    openJournal: (options) => openJournalWith(options, { files: full.journalFiles(join(disk, "journal")) }),
  };
}

/** Starts until it succeeds: a start on a full disk fails with a typed error and spoils nothing. */
async function startOn(disk: string, full: FullDisk): Promise<TestEngine> {
  try {
    return await startEngine(onDisk(disk, full));
  } catch (error) {
    expect(isCacheError(error) && error.message, String(error)).toMatch(/ENOSPC/);
    full.heal();
    return startEngine(onDisk(disk, full));
  }
}

async function runOnFullJournalDisk(failAt: number, count: number): Promise<boolean> {
  const disk = temporaryDisk();
  const full = new FullDisk();
  full.failAt(failAt, count);
  let engine = await startOn(disk, full);
  try {
    engine.register(1n);
  } catch (error) {
    expect(error).toMatchObject({ code: "DEGRADED" });
  }
  if (!engine.manager.health().healthy) {
    full.heal();
    expect(engine.manager.commit()).toBe(true);
    engine.register(1n);
  }
  const acknowledged = await workload(engine);
  const healthy = engine.manager.health();
  if (!healthy.healthy) expect(healthy.reason).toMatch(/ENOSPC.*free space/);
  const { reached } = full;
  full.heal();
  expect(engine.manager.commit()).toBe(true);
  expect(engine.manager.health()).toEqual({ healthy: true, reason: null });
  await expectServed(engine, acknowledged, "with space again");
  expect(await storeAsClient(engine, NEW)).toBe(true);
  checkInvariants(engine);
  await engine.crash();
  engine = await startEngine(onDisk(disk, full));
  expect(engine.manager.recoveryReport).toMatchObject({ reattached: true, damage: null });
  await expectServed(engine, [...acknowledged, NEW], "after a crash");
  checkInvariants(engine);
  await engine.crash();
  return reached;
}

test.each([
  ["once", 1],
  ["until there is space", Number.POSITIVE_INFINITY],
])(
  "ENOSPC at each call of the journal in turn, %s: nothing that was acknowledged is lost",
  async (_, count) => {
    let failAt = 0;
    while (await runOnFullJournalDisk(failAt, count)) failAt++;
    // Opening, headers of segments, batches of the workload with their short writes, segments that follow.
    expect(failAt).toBeGreaterThan(30);
  },
  120_000,
);

function objectFiles(directory: string): { name: string; bytes: number }[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => ({ name: entry.name, bytes: statSync(join(entry.parentPath, entry.name)).size }));
}

/** Waits for what the disk and timers do. Time passes only while no call is under way: none is late. */
async function untilSettled(engine: TestEngine, condition: () => boolean): Promise<void> {
  const inFlight = () => Object.values(engine.manager.adapters[0]?.gate.status().inFlight ?? {});
  await engine.until(() => {
    if (inFlight().every((calls) => calls === 0)) engine.clock.jump(100);
    engine.manager.commit();
    return condition();
  });
}

async function runOnFullFsDisk(failAt: number, count: number): Promise<boolean> {
  const disk = temporaryDisk();
  const directory = join(disk, "l2");
  mkdirSync(directory, { mode: 0o700 });
  const full = new FullDisk();
  const adapter = createFsAdapter(
    fsConfigSchema.parse({ base_path: directory, fsync: "full" }),
    noL1,
    full.fsPort(),
  );
  const engine = await startEngine({ disk, slots: 64, adapters: { fs: adapter } });
  engine.register(1n);
  full.failAt(failAt, count);
  const acknowledged = await workload(engine);
  expect(acknowledged).toHaveLength(PROMPTS.length);
  const account = () => engine.state.ledger(engine.manager.adapters[0]?.number ?? 0);
  const idle = () => account().inDoubt === 0 && engine.manager.units[0]?.store.queued === 0;
  await untilSettled(engine, idle);
  await expectServed(engine, acknowledged, "from L1");
  const { reached } = full;
  full.heal();
  const there = account().storedCount;
  await untilSettled(engine, () => engine.manager.adapters[0]?.gate.status().breaker.state !== "open");
  expect(await storeAsClient(engine, NEW)).toBe(true);
  // What failed once is stored by a retry; what was given up stays in L1 alone.
  const wanted = count === 1 ? (PROMPTS.length + 1) * CHUNKS : there + CHUNKS;
  await untilSettled(engine, () => idle() && account().storedCount >= wanted);
  // Nothing half: each file is a whole object. One whose directory could not be synced is there and counted later.
  const files = objectFiles(directory);
  expect(files.filter(({ name, bytes }) => bytes !== 4_096 || !name.endsWith(".data"))).toEqual([]);
  expect(files.length).toBeGreaterThanOrEqual(account().storedCount);
  await engine.manager.clear(true);
  engine.manager.commit();
  // The newest is in L2 for certain: L1 has nothing any more.
  engine.turn((manager) => manager.lookups.lookup(NEW.lookup({ requestId: "from L2" })));
  let hits: number | null = null;
  await engine.until(() => (hits = engine.query("from L2")) !== null);
  expect(hits).toBe(CHUNKS);
  expect(engine.retrieve(1n, NEW.range({ requestId: "from L2" }))).toBe("served");
  checkInvariants(engine);
  await engine.stop();
  return reached;
}

test.each([
  ["once", 1],
  ["until there is space", Number.POSITIVE_INFINITY],
])(
  "ENOSPC at each call of fs in turn, %s: L1 serves on, and no file is half",
  async (_, count) => {
    let failAt = 0;
    while (await runOnFullFsDisk(failAt, count)) failAt++;
    expect(failAt).toBeGreaterThan(20);
  },
  120_000,
);

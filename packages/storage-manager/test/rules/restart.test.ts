import { cpSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { MockAdapter } from "@cache/l2-mock";
import { beforeEach, describe, expect, it } from "vitest";
import { mockAdapter, startEngine, temporaryDisk, type TestEngine } from "../support/engine.ts";
import { checkInvariants } from "../support/invariants.ts";
import { contentOf, prompt } from "../support/prompts.ts";

const SECOND = 1_000;
const chat = prompt("chat", 3);

let disk: string;
let l2: MockAdapter;
beforeEach(() => {
  disk = temporaryDisk();
  l2 = mockAdapter();
});

type Options = NonNullable<Parameters<typeof startEngine>[0]>;

async function start(options: Options = {}): Promise<TestEngine> {
  const engine = await startEngine({ disk, ...options });
  checkInvariants(engine);
  return engine;
}

async function killed(engine: TestEngine, options: Options = {}): Promise<TestEngine> {
  await engine.crash();
  return start(options);
}

/** The newest segment of the journal. */
function journalSegment(): string {
  const name = readdirSync(join(disk, "journal"))
    .filter((one) => one.endsWith(".journal"))
    .sort()
    .at(-1);
  return join(disk, "journal", name as string);
}

describe("a killed engine that comes back", () => {
  it("serves the same objects to the same clients, who notice nothing", async () => {
    const engine = await start();
    engine.register(1n);
    await engine.store(1n, chat.range());
    const again = await killed(engine);
    expect(again.manager.recoveryReport).toMatchObject({
      objects: 3,
      reattached: true,
      emptyBecause: null,
      cleanStop: false,
    });
    expect(again.ping(1n)).toBe(true);
    expect(await again.fetch(1n, chat.lookup())).toBe(3);
  });

  it("says that it stopped in order where it did", async () => {
    const engine = await start();
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.stop();
    expect((await start()).manager.recoveryReport).toMatchObject({ cleanStop: true, objects: 3 });
  });

  it("honours the commit of a hand-out that was open, and gives its bytes to nobody before", async () => {
    const engine = await start({ slots: 8 });
    engine.register(1n);
    const answer = await engine.prepareStore(1n, chat.range());
    const again = await killed(engine, { slots: 8 });
    if (answer.value.kind !== "slots") throw new Error("no slots");
    const taken = answer.value.slots.map(({ offset }) => offset);
    const others = again.stage(1n, prompt("others", 5).range({ requestId: "others" }));
    expect(others.filter(({ offset }) => taken.includes(offset))).toEqual([]);
    again.copyIn(1n, chat.range(), answer);
    expect(again.commitStore(1n, chat.range())).toBe(true);
    expect(await again.fetch(1n, chat.lookup())).toBe(3);
  });

  it("keeps what a reader was told until its commit", async () => {
    const engine = await start({ slots: 4 });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.lookup(chat.lookup());
    const answer = engine.prepareRetrieve(1n, chat.range());
    if (answer.kind !== "slots") throw new Error("a miss");
    const again = await killed(engine, { slots: 4, options: { storeWaitMs: 0 } });
    await again.manager.clear(true);
    await again.store(1n, prompt("others", 4).range());
    for (const [i, slot] of answer.slots.entries())
      expect(again.bytesAt(slot).equals(contentOf(chat.range(), i, again.layoutOf(1n)))).toBe(true);
    again.commitRetrieve(1n, chat.range());
    checkInvariants(again);
    expect(again.state.l1.detachedBytes).toBe(0);
  });

  it("begins the times of locks and hand-outs anew", async () => {
    const engine = await start();
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.lookup(chat.lookup());
    engine.ping(1n);
    await engine.pass(110 * SECOND);
    const again = await killed(engine);
    await again.pass(290 * SECOND);
    expect(again.eventsOf("l1.read.expired")).toEqual([]);
    expect(again.retrieve(1n, chat.range())).toBe("served");
    await again.pass(11 * SECOND);
    expect(again.state.l1.lockedCount).toBe(0);
  });

  it("answers a lookup that was still asking L2 with what L1 has", async () => {
    const engine = await start({ adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range({ end: 1 }));
    await engine.settle();
    l2.control.hang("lookup", { ignoreAbort: true });
    expect(await engine.lookup(chat.lookup())).toBeNull();
    const again = await killed(engine, { adapters: { l2: mockAdapter() } });
    expect(again.query("request")).toBe(1);
    expect(again.retrieve(1n, chat.range({ end: 1 }))).toBe("served");
    expect(again.state.l1.lockedCount).toBe(0);
  });

  it("frees what its own loads had not finished", async () => {
    const engine = await start({ adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.manager.clear(true);
    engine.manager.commit();
    l2.control.hang("load", { ignoreAbort: true });
    await engine.lookup(chat.lookup());
    expect(engine.state.l1.stagedCount).toBe(3);
    const again = await killed(engine, { adapters: { l2: mockAdapter() } });
    expect(again.usedBytes).toBe(0);
    expect(again.state.l1.stagedCount).toBe(0);
  });

  it("goes on from a snapshot and the records after it, wherever that was made", async () => {
    const engine = await start({ adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.lookup(chat.lookup());
    const staged = prompt("staged", 2).range({ requestId: "staged" });
    const answer = await engine.prepareStore(1n, staged);
    const last = Number(engine.journal.position);
    await engine.crash();
    for (let snapshotAfter = 0; snapshotAfter <= last; snapshotAfter++) {
      const again = await start({ adapters: { l2 }, snapshotAfter });
      expect(again.manager.recoveryReport).toMatchObject({ objects: 3, reattached: true });
      expect(again.state.transfers.size).toBe(1);
      await again.crash();
    }
    const again = await start({ adapters: { l2 }, snapshotAfter: last - 1 });
    expect(again.retrieve(1n, chat.range())).toBe("served");
    again.copyIn(1n, staged, answer);
    expect(again.commitStore(1n, staged)).toBe(true);
    expect(await again.fetch(1n, prompt("staged", 2).lookup({ requestId: "after" }))).toBe(2);
  });
});

describe("stores to L2 that a restart interrupted", () => {
  it("are resumed where they had not begun", async () => {
    const engine = await start({ adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    expect(engine.eventsOf("l2.store.submitted")).toEqual([]);
    const again = await killed(engine, { adapters: { l2 } });
    await again.settle();
    expect(l2.status()["object_count"]).toBe(3);
    expect(again.state.ledger(0)).toMatchObject({ storedCount: 3, inDoubt: 0 });
    expect(again.state.slots.orderEnds.count).toBe(3);
  });

  it("are settled by asking where they were in doubt and had arrived: not stored again", async () => {
    const release = l2.control.hang("store");
    const engine = await start({ adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    expect(engine.state.ledger(0).inDoubt).toBe(3);
    await engine.crash();
    release();
    await engine.until(() => l2.status()["object_count"] === 3);
    const again = await start({ adapters: { l2 } });
    await again.settle();
    expect(again.state.ledger(0)).toMatchObject({ storedCount: 3, inDoubt: 0 });
    expect(l2.control.callCount("store")).toBe(1);
    expect(again.state.slots.orderEnds.count).toBe(3);
  });

  it("are done again where they were in doubt and had not arrived", async () => {
    l2.control.hang("store", { ignoreAbort: true });
    const engine = await start({ adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    const empty = mockAdapter();
    const again = await killed(engine, { adapters: { l2: empty } });
    await again.settle();
    expect(again.eventsOf("l2.store.completed")[0]?.reason).toBe("not there when asked");
    expect(empty.status()["object_count"]).toBe(3);
    expect(again.state.ledger(0)).toMatchObject({ storedCount: 3, inDoubt: 0 });
  });

  it("are given up where their adapter is not configured any more", async () => {
    l2.control.hang("store", { ignoreAbort: true });
    const engine = await start({ adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    const again = await killed(engine);
    expect(again.state.slots.orderEnds.count).toBe(3);
  });

  it("is settled where a delete was in doubt, gone or not", async () => {
    const engine = await start({ adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    const keys = engine.eventsOf("l2.store.completed")[0]?.stored ?? [];
    engine.turn(({ core }) => core.record({ type: "l2.delete.submitted", adapter: 0, keys, reason: "test" }));
    const { keys: table } = engine.state;
    const gone = keys[0] as number;
    l2.control.dropKeys([{ chunkHash: Uint8Array.from(table.hash.get(gone)), ...table.groupOfKey(gone) }]);
    const again = await killed(engine, { adapters: { l2 } });
    await again.settle();
    expect(again.state.ledger(0)).toMatchObject({ storedCount: 2, inDoubt: 0 });
    checkInvariants(again);
  });
});

describe("L1 starts empty, and nothing is handed to old clients,", () => {
  async function filled(): Promise<TestEngine> {
    const engine = await start();
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.lookup(chat.lookup());
    return engine;
  }

  async function expectEmpty(engine: TestEngine, because: RegExp): Promise<void> {
    expect(engine.manager.recoveryReport).toMatchObject({ objects: 0, reattached: false });
    expect(engine.manager.recoveryReport.emptyBecause).toMatch(because);
    expect(engine.usedBytes).toBe(0);
    expect(engine.ping(1n)).toBe(false);
    expect((await engine.prepareStore(1n, chat.range())).value).toEqual({ kind: "empty-context" });
    engine.register(1n);
    expect(await engine.fetch(1n, chat.lookup())).toBe(0);
    expect(await engine.store(1n, chat.range())).toBe(true);
    checkInvariants(engine);
  }

  it("when the pool has seen more than the journal reaches", async () => {
    const engine = await filled();
    const copy = join(disk, "earlier");
    cpSync(join(disk, "journal"), copy, { recursive: true });
    await engine.store(1n, prompt("later", 2).range());
    await engine.crash();
    rmSync(join(disk, "journal"), { recursive: true });
    cpSync(copy, join(disk, "journal"), { recursive: true });
    await expectEmpty(await start(), /the pool saw journal record \d+, the journal ends at \d+/);
  });

  it("when the journal is damaged", async () => {
    const engine = await filled();
    await engine.crash();
    const bytes = readFileSync(journalSegment());
    const middle = Math.floor(bytes.length / 2);
    bytes[middle] = (bytes[middle] as number) ^ 0xff;
    writeFileSync(journalSegment(), bytes);
    const again = await start();
    expect(again.manager.recoveryReport.damage).toMatch(/\.journal at byte \d+/);
    await expectEmpty(again, /the journal is damaged/);
  });

  it("when the journal is a new one", async () => {
    const engine = await filled();
    await engine.crash();
    rmSync(join(disk, "journal"), { recursive: true });
    await expectEmpty(await start(), /./);
  });

  it("when the size of L1 has changed", async () => {
    const engine = await filled();
    await engine.crash();
    await expectEmpty(await start({ slots: 32 }), /./);
  });

  it("when the pool file is another one", async () => {
    const engine = await filled();
    await engine.crash();
    const name = readdirSync(disk).find((one) => one !== "journal") as string;
    const path = join(disk, name);
    const bytes = readFileSync(path);
    const inode = statSync(path).ino;
    rmSync(path);
    writeFileSync(join(disk, "keeps-the-inode-taken"), "");
    writeFileSync(path, bytes, { mode: 0o600 });
    expect(statSync(path).ino).not.toBe(inode);
    await expectEmpty(await start(), /./);
  });

  it("and what L2 holds is found again", async () => {
    const engine = await start({ adapters: { l2 } });
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    await engine.crash();
    rmSync(join(disk, "journal"), { recursive: true });
    const again = await start({ adapters: { l2 } });
    again.register(1n);
    expect(await again.fetch(1n, chat.lookup())).toBe(3);
  });
});

describe("records that do not fit together", () => {
  it("stop the start with JOURNAL_DAMAGED", async () => {
    const engine = await start();
    engine.journal.append([Buffer.from([127, 1])]);
    engine.manager.commit();
    await engine.crash();
    await expect(start()).rejects.toMatchObject({ code: "JOURNAL_DAMAGED" });
  });
});

describe("a cache identity", () => {
  const named = (cacheIdentity: string): Options => ({ adapters: { l2 }, options: { cacheIdentity } });

  it("is a namespace of its own, in L1 and in L2; the other one is still there", async () => {
    const first = await start(named("revision 1"));
    first.register(1n);
    await first.store(1n, chat.range());
    await first.settle();
    const second = await killed(first, named("revision 2"));
    expect(await second.fetch(1n, chat.lookup())).toBe(0);
    const third = await killed(second, named("revision 1"));
    expect(await third.fetch(1n, chat.lookup())).toBe(3);
    const page = await l2.listKeys({ pageSize: 10 }, new AbortController().signal);
    for (const { key } of page.entries) expect(key.model_name).toMatch(/^test-model\+[0-9a-f]{16}$/);
  });

  it("is not in the names where there is none", async () => {
    const engine = await start(named(""));
    engine.register(1n);
    await engine.store(1n, chat.range());
    await engine.settle();
    const page = await l2.listKeys({ pageSize: 10 }, new AbortController().signal);
    expect(page.entries.map(({ key }) => key.model_name)).toEqual(["test-model", "test-model", "test-model"]);
  });
});

import type { L2Adapter } from "@cache/contracts";
import type { MockAdapter } from "@cache/l2-mock";
import { beforeEach, describe, expect, it } from "vitest";
import type { EventType } from "../../src/events/definitions.ts";
import { add, count, drain, engineWith, ids, type Options, remove } from "../support/adapter-changes.ts";
import { adapterSetup, mockAdapter, temporaryDisk, type TestEngine } from "../support/engine.ts";
import { checkInvariants } from "../support/invariants.ts";
import { prompt } from "../support/prompts.ts";

const SECOND = 1_000;
const chat = prompt("chat", 3);
const later = prompt("later", 3);

let l2: MockAdapter;
beforeEach(() => {
  l2 = mockAdapter();
});

describe("a restart after changes of the adapters", () => {
  let disk: string;
  beforeEach(() => {
    disk = temporaryDisk();
  });

  const start = (adapters: Record<string, L2Adapter>, more: Options = {}): Promise<TestEngine> =>
    engineWith(adapters, { disk, makeAdded: () => mockAdapter(), ...more });

  async function again(
    engine: TestEngine,
    adapters: Record<string, L2Adapter>,
    more: Options = {},
  ): Promise<TestEngine> {
    await engine.crash();
    const next = await start(adapters, more);
    checkInvariants(next);
    return next;
  }

  it("opens what was added, with its configuration, and not what was removed", async () => {
    const engine = await start({ l2, gone: mockAdapter() });
    await add(engine, "fs.2", mockAdapter());
    await add(engine, "fs.3", mockAdapter());
    await remove(engine, "fs.3");
    await remove(engine, "gone");
    const made: string[] = [];
    const next = await again(
      engine,
      { l2, gone: mockAdapter() },
      {
        makeAdded: (id, config) => {
          made.push(`${id} ${config}`);
          return mockAdapter();
        },
      },
    );
    expect(ids(next)).toEqual(["l2", "fs.2"]);
    expect(made).toEqual(['fs.2 {"type":"fs.2"}']);
    await next.store(1n, chat.range());
    await next.settle();
    expect(count(l2)).toBe(3);
  });

  it("keeps a drained adapter drained", async () => {
    const engine = await start({ l2 });
    await engine.store(1n, chat.range());
    await engine.settle();
    await drain(engine, "l2");
    const next = await again(engine, { l2 });
    await next.store(1n, later.range());
    await next.settle();
    expect(count(l2)).toBe(3);
    await next.manager.clear(true);
    expect(await next.fetch(1n, chat.lookup())).toBe(3);
  });

  it("reads the changes out of a snapshot, wherever that was made", async () => {
    const engine = await start({ l2, gone: mockAdapter() });
    await add(engine, "fs.2", mockAdapter());
    await drain(engine, "fs.2");
    await remove(engine, "gone");
    const records = Number(engine.journal.position);
    await engine.crash();
    for (let after = 0; after <= records; after++) {
      const next = await start({ l2, gone: mockAdapter() }, { snapshotAfter: after });
      expect(ids(next)).toEqual(["l2", "fs.2"]);
      expect(next.state.adapterChanges.get("fs.2")?.stage).toBe("draining");
      expect(next.state.ledgers.find(({ id }) => id === "fs.2")?.draining).toBe(true);
      checkInvariants(next);
      await next.crash();
    }
  });

  it("takes the command line's word where that has changed since", async () => {
    const engine = await start({ l2, a: mockAdapter(), b: mockAdapter(), c: mockAdapter() });
    await remove(engine, "a");
    await drain(engine, "b");
    await remove(engine, "c");
    await add(engine, "fs.2", mockAdapter());
    const bases = { a: "another", b: "another", "fs.2": "named now" };
    const next = await again(
      engine,
      { l2, a: mockAdapter(), b: mockAdapter(), c: mockAdapter(), "fs.2": mockAdapter() },
      { bases },
    );
    expect(ids(next)).toEqual(["l2", "a", "b", "fs.2"]);
    expect([...next.state.adapterChanges.keys()]).toEqual(["c"]);
    expect(next.state.ledgers.every(({ draining }) => !draining)).toBe(true);
  });

  it("forgets a removal once the command line does not name the adapter any more: named again, it is there", async () => {
    const engine = await start({ l2, a: mockAdapter() });
    await remove(engine, "a");
    const without = await again(engine, { l2 });
    const next = await again(without, { l2, a: mockAdapter() });
    expect(ids(next)).toEqual(["l2", "a"]);
  });

  it("opens another configuration that was added under the id of a removed one", async () => {
    const engine = await start({ l2, fs: mockAdapter() });
    await remove(engine, "fs");
    await add(engine, "fs", mockAdapter(), "fs");
    const made: string[] = [];
    const next = await again(
      engine,
      { l2, fs: mockAdapter() },
      { makeAdded: (id) => (made.push(id), mockAdapter()) },
    );
    expect([ids(next), made]).toEqual([["l2", "fs"], ["fs"]]);
    await remove(next, "fs");
    expect(ids(await again(next, { l2, fs: mockAdapter() }))).toEqual(["l2"]);
  });

  it("goes back to the command line's set where that is asked for", async () => {
    const engine = await start({ l2, gone: mockAdapter() });
    await add(engine, "fs.2", mockAdapter());
    await remove(engine, "gone");
    const next = await again(engine, { l2, gone: mockAdapter() }, { adapterChanges: "forget" });
    expect(ids(next)).toEqual(["l2", "gone"]);
    expect(ids(await again(next, { l2, gone: mockAdapter() }))).toEqual(["l2", "gone"]);
  });

  it("says how to start without an added adapter that cannot be opened", async () => {
    const engine = await start({ l2 });
    await add(engine, "fs.2", mockAdapter());
    await engine.crash();
    const bad = mockAdapter();
    bad.control.failNext("open");
    await expect(start({ l2 }, { makeAdded: () => bad })).rejects.toThrow(
      /'fs.2' was added while an engine ran.*--runtime-adapters forget/,
    );
    expect(ids(await start({ l2: mockAdapter() }))).toEqual(["l2", "fs.2"]);
  });

  /** The process dies when the journal has the n-th event of this type. */
  async function diesAfter(
    engine: TestEngine,
    type: EventType,
    begin: () => Promise<unknown>,
  ): Promise<void> {
    const seen = engine.eventsOf(type).length;
    begin().catch(() => {});
    for (let step = 0; engine.eventsOf(type).length === seen; step++) {
      if (step > 1_000) throw new Error(`${type} never came`);
      await engine.pass(50);
    }
    engine.manager.commit();
    await engine.crash();
  }

  it.each([
    ["adapter.draining", "remove", ["l2"]],
    ["adapter.removed", "remove", ["l2"]],
    ["adapter.draining", "drain", ["l2", "fs.2"]],
    ["l2.store.given_up", "remove", ["l2"]],
  ] as const)("right after %s of a %s finds the set that this promised", async (type, operation, wanted) => {
    const engine = await start({ l2 });
    const slow = mockAdapter();
    slow.control.hang("store", { ignoreAbort: true });
    await add(engine, "fs.2", slow);
    await engine.store(1n, chat.range());
    await engine.settle();
    const { changes } = engine.manager;
    await diesAfter(engine, type, () =>
      operation === "drain"
        ? changes.drain("fs.2", 2 * SECOND)
        : changes.remove("fs.2", { timeoutMs: 2 * SECOND, forget: false }),
    );
    const fresh = mockAdapter();
    const next = await start({ l2 }, { makeAdded: () => fresh });
    checkInvariants(next);
    expect(ids(next)).toEqual(wanted);
    expect(await next.fetch(1n, chat.lookup())).toBe(3);
    await next.store(1n, later.range());
    await next.settle();
    expect(count(fresh)).toBe(operation === "drain" && type === "adapter.draining" ? 3 : 0);
    checkInvariants(next);
  });

  it.each(["adapter.added", "adapter.opened"] as const)("right after %s opens it", async (type) => {
    const engine = await start({ l2 });
    const make = (): Promise<ReturnType<typeof adapterSetup>> =>
      Promise.resolve(adapterSetup("fs.2", mockAdapter()));
    await diesAfter(engine, type, () => engine.manager.changes.add("fs.2", make, "{}"));
    expect(ids(await start({ l2 }))).toEqual(["l2", "fs.2"]);
  });

  it("finishes a removal that was cut before anything was told, as the command line's too", async () => {
    const engine = await start({ l2, gone: mockAdapter() });
    await engine.store(1n, chat.range());
    await engine.settle();
    await diesAfter(engine, "adapter.draining", () =>
      engine.manager.changes.remove("gone", { timeoutMs: SECOND, forget: true }),
    );
    const next = await start({ l2, gone: mockAdapter() });
    expect(ids(next)).toEqual(["l2"]);
    expect(next.state.ledgers.find(({ id }) => id === "gone")).toMatchObject({
      active: false,
      storedCount: 0,
    });
    expect(ids(await again(next, { l2, gone: mockAdapter() }))).toEqual(["l2"]);
  });
});

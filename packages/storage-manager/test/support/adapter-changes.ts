import type { L2Adapter } from "@cache/contracts";
import type { MockAdapter } from "@cache/l2-mock";
import type { DrainReport, RemovalReport } from "../../src/controllers/adapter-changes.ts";
import { adapterSetup, mockAdapter, startEngine, type TestEngine } from "./engine.ts";

const SECOND = 1_000;

/** What `startEngine` takes. */
export type Options = NonNullable<Parameters<typeof startEngine>[0]>;

/** An engine with these adapters and a registered instance. */
export async function engineWith(
  adapters: Record<string, L2Adapter>,
  more: Options = {},
): Promise<TestEngine> {
  const engine = await startEngine({
    slots: 16,
    adapters,
    ...more,
    options: { evictionWatermark: 2, ...more.options },
  });
  if (engine.state.clients.size === 0) engine.register(1n);
  return engine;
}

/** Another handle on what a mock holds: what is in it outlives the handle, as files outlive an adapter. */
export function handleOn(mock: MockAdapter, location: string): L2Adapter {
  return {
    capabilities: { ...mock.capabilities, persistent: true },
    location,
    open: () => Promise.resolve(),
    store: (keys, objects, signal) => mock.store(keys, objects, signal),
    lookupAndLock: (requests, signal) => mock.lookupAndLock(requests, signal),
    unlock: (keys) => mock.unlock(keys),
    load: (requests, into, signal) => mock.load(requests, into, signal),
    delete: (keys, signal) => mock.delete(keys, signal),
    listKeys: (page, signal) => mock.listKeys(page, signal),
    quarantine: (keys, reason, signal) => mock.quarantine(keys, reason, signal),
    usage: () => mock.usage(),
    status: () => mock.status(),
    close: () => Promise.resolve(),
  };
}

/** A mock that is open already: what handles lead to. */
export async function opened(): Promise<MockAdapter> {
  const mock = mockAdapter();
  await mock.open({
    id: "behind",
    stateDir: null,
    log: { debug() {}, info() {}, warn() {}, error() {} },
    signal: new AbortController().signal,
  });
  return mock;
}

/** Lets time pass until the change has ended. */
export async function through<T>(engine: TestEngine, change: Promise<T>, seconds = 120): Promise<T> {
  const state = { over: false };
  const ended = change.finally(() => (state.over = true));
  ended.catch(() => {});
  await engine.settle();
  for (let passed = 0; !state.over && passed < seconds * SECOND; passed += 250) await engine.pass(250);
  if (!state.over) throw new Error("the change did not end");
  return ended;
}

/** Adds an adapter, and lets time pass meanwhile. */
export const add = (engine: TestEngine, id: string, adapter: L2Adapter, base = ""): Promise<unknown> =>
  through(
    engine,
    engine.manager.changes.add(
      id,
      () => Promise.resolve(adapterSetup(id, adapter, base)),
      `{"type":"${id}"}`,
    ),
  );
/** Drains one, and lets time pass meanwhile. */
export const drain = (engine: TestEngine, id: string, timeoutMs = 10 * SECOND): Promise<DrainReport> =>
  through(engine, engine.manager.changes.drain(id, timeoutMs));
/** Removes one, and lets time pass meanwhile. */
export const remove = (
  engine: TestEngine,
  id: string,
  options: { timeoutMs?: number; forget?: boolean } = {},
): Promise<RemovalReport> =>
  through(engine, engine.manager.changes.remove(id, { timeoutMs: 10 * SECOND, forget: false, ...options }));

/** Ids of the open adapters. */
export const ids = (engine: TestEngine): string[] => engine.manager.adapters.map(({ id }) => id);
/** Objects that a mock holds. */
export const count = (adapter: MockAdapter): unknown => adapter.status()["object_count"];

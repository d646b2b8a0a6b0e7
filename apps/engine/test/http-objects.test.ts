import { afterEach, beforeEach, expect, test } from "vitest";
import { type HttpEngine, startHttpEngine, until } from "./http-engine.ts";

const MODEL = "org/model";

let engine: HttpEngine;
beforeEach(async () => {
  engine = await startHttpEngine({ withFs: true });
  await engine.store(MODEL);
});
afterEach(() => engine.stop());

interface Page {
  readonly entries: { readonly key: Record<string, unknown>; readonly size_bytes: number }[];
  readonly next_page_token: string | null;
}

async function list(query = ""): Promise<Page> {
  return (await engine.ask("GET", `/cache/objects${query}`)).json as Page;
}

function remove(body: Record<string, unknown>) {
  return engine.ask("DELETE", "/cache/objects", JSON.stringify(body)).then(({ json }) => json);
}

const inL1 = () => engine.manager.core.state.l1.residentCount;

test("a listing goes page by page and its keys delete what they name, in both tiers", async () => {
  const first = await list("?page_size=1");
  const second = await list(`?page_size=1&page_token=${encodeURIComponent(first.next_page_token ?? "")}`);
  const keys = [...first.entries, ...second.entries].map(({ key }) => key);
  expect(new Set(keys.map((key) => key["chunk_hash_hex"])).size).toBe(2);
  expect(keys[0]).toMatchObject({ model_name: MODEL, kv_rank: 0x01000100, cache_salt: "" });
  expect(await list("?model_name=org/other")).toMatchObject({ entries: [], next_page_token: null });

  expect(inL1()).toBe(2);
  expect(await remove({ keys: [keys[0]], tier: "all" })).toEqual({ deleted: 2, skipped: 0, ok: true });
  expect(inL1()).toBe(1);
  expect((await list()).entries.map(({ key }) => key)).toEqual([keys[1]]);
  // The account agrees with what is there.
  expect(engine.manager.core.state.ledger(0)).toMatchObject({
    storedCount: 1,
    storedBytes: 4_096,
    inDoubt: 0,
  });
  expect(await remove({ keys: [keys[1], keys[1]] })).toEqual({ deleted: 1, skipped: 0, ok: true });
  expect((await list()).entries).toEqual([]);
});

test("what a lookup has locked stays in L1 unless it is forced", async () => {
  const keys = (await list()).entries.map(({ key }) => key);
  const { state } = engine.manager.core;
  const slots = [...Array(state.slots.numbers.bound).keys()];
  state.lock(slots[0] as number, 1);
  expect(await remove({ keys, tier: "l1" })).toEqual({ deleted: 1, skipped: 1, ok: true });
  expect(await remove({ keys, tier: "l1", force: true })).toEqual({ deleted: 1, skipped: 0, ok: true });
  expect(inL1()).toBe(0);
  state.unlock(slots[0] as number, state.slots.generation.get(slots[0] as number), 1);
});

test("a prefetch brings objects into L1, unlocked, and they stay whatever the policy", async () => {
  await engine.ask("POST", "/cache/clear", "{}");
  expect(inL1()).toBe(0);
  const body = JSON.stringify({ model_name: MODEL, world_size: 1, token_ids: [...engine.tokens, 1, 2, 3] });
  const started = await engine.ask("POST", "/cache/prefetches", body);
  expect(started).toMatchObject({ status: 202, json: { chunks: 2, status: "submitted" } });
  const { request_id: id } = started.json as { request_id: string };
  await until(() => engine.manager.core.state.sessions.size === 0);
  expect((await engine.ask("GET", `/cache/prefetches/${id}`)).json).toEqual({
    request_id: id,
    status: "completed",
    found_keys: 2,
    total_keys: 2,
  });
  expect(engine.manager.core.state.l1).toMatchObject({ residentCount: 2, lockedCount: 0 });
  // A reader does not take them away.
  expect(await engine.load(MODEL)).toBe(2);
  expect(inL1()).toBe(2);
});

test("a quota evicts what is over it in each tier, and shows what the fullest tier holds", async () => {
  expect((await engine.ask("GET", "/quota/_default")).json).toMatchObject({
    current_usage_gb: 8_192 / 2 ** 30,
  });
  const body = JSON.stringify({ limit_gb: 4_096 / 2 ** 30 });
  expect((await engine.ask("PUT", "/quota/_default", body)).status).toBe(200);
  await until(() => engine.manager.core.state.ledger(0).storedCount === 1);
  expect(inL1()).toBeLessThanOrEqual(1);
  expect((await engine.ask("GET", "/quota")).json).toEqual({
    users: { _default: { limit_gb: 4_096 / 2 ** 30, current_usage_gb: 4_096 / 2 ** 30 } },
  });
});

test("bad values are refused with 400", async () => {
  const body = (ids: unknown) => JSON.stringify({ model_name: MODEL, world_size: 1, token_ids: ids });
  const bad = await engine.ask("POST", "/cache/prefetches", body([-1, ...engine.tokens]));
  expect(bad).toMatchObject({ status: 400, json: { detail: expect.stringContaining("32-bit") } });
  const huge = await engine.ask("PUT", "/quota/a", '{"limit_gb":1e300}');
  expect(huge).toMatchObject({ status: 400, json: { error: expect.stringContaining("at most") } });
  const many = {
    keys: Array.from({ length: 10_001 }, () => ({ chunk_hash_hex: "00", model_name: "m", kv_rank: 1 })),
  };
  expect(await remove(many)).toMatchObject({ detail: expect.stringContaining("too many keys") });
});

test("an adapter that is not there is answered with those that are", async () => {
  const { status, json } = await engine.ask("GET", "/cache/objects?tier=l2&adapter=nix");
  expect(status).toBe(404);
  expect(json).toEqual({ detail: "no L2 adapter with type_name='nix'; there are: fs" });
});

import { Bitmap, CacheError } from "@cache/contracts";
import { describe, expect, it } from "vitest";
import { guardAdapter } from "../../src/l2-gate/index.ts";
import { errorOf, keys, objects, openGate, ScriptedAdapter, sized } from "./scripted-adapter.ts";
import { flush } from "./virtual-clock.ts";

const good = { stored: Bitmap.full(2), failed: new Map(), bytesTransferred: 16 };

describe("answers of adapters", () => {
  it.each<[string, () => unknown]>([
    ["a rejection with text", () => Promise.reject("no route")],
    [
      "a synchronous throw",
      () => {
        throw new Error("no route");
      },
    ],
    [
      "a synchronous throw of nothing",
      () => {
        throw undefined;
      },
    ],
    ["an object that cannot be printed", () => Promise.reject(Object.create(null))],
    [
      "an error whose message is no text",
      () => Promise.reject(Object.assign(new Error("x"), { message: 7 })),
    ],
    ["undefined", () => undefined],
    ["null", () => Promise.resolve(null)],
    ["a number", () => 2],
    ["a bitmap that is too small", () => new Bitmap(1)],
    ["a bitmap that is too large", () => new Bitmap(3)],
    ["an array of booleans", () => [true, true]],
    [
      "a bitmap that throws",
      () => ({
        size: 2,
        has() {
          throw new Error("bits");
        },
      }),
    ],
    [
      "an error code of another version",
      () => Promise.reject(Object.assign(new CacheError("ABORTED", "x"), { code: "NEW" })),
    ],
  ])("%s becomes BACKEND_UNAVAILABLE with the adapter's id", async (_, script) => {
    const { gate, adapter } = await openGate();
    adapter.script = script;
    for (const call of [
      gate.lookupAndLock(sized(2)),
      gate.load(sized(2), objects(2)),
      gate.delete(keys(2)),
      gate.store(keys(2), objects(2)),
    ]) {
      const error = await errorOf(call.outcome);
      expect(error).toMatchObject({ name: "CacheError", code: "BACKEND_UNAVAILABLE" });
      expect(error.message).toContain("scripted.1");
      await call.settled;
    }
    expect(gate.breaker).toEqual({ state: "closed", recentFailures: 4 });
  });

  it.each<[string, unknown]>([
    ["no stored bitmap", { ...good, stored: undefined }],
    ["no failed map", { ...good, failed: undefined }],
    ["failed position outside", { ...good, failed: new Map([[2, new CacheError("ABORTED", "x")]]) }],
    ["negative bytes", { ...good, bytesTransferred: -1 }],
    ["more bytes than were given", { ...good, bytesTransferred: 17 }],
    ["no bytes", { ...good, bytesTransferred: Number.NaN }],
  ])("a store result with %s is an error", async (_, answer) => {
    const { gate, adapter } = await openGate();
    adapter.script = () => answer;
    expect(await errorOf(gate.store(keys(2), objects(2)).outcome)).toMatchObject({
      details: { malformed: true },
    });
  });

  it("takes a key for failed when the store result is unclear about it", async () => {
    const { gate, adapter } = await openGate();
    adapter.script = () => ({
      stored: Bitmap.of(3, [0, 1]),
      failed: new Map([[1, "disk"]]),
      bytesTransferred: 8,
    });
    const result = await gate.store(keys(3), objects(3)).outcome;
    expect([...result.stored.positions()]).toEqual([0]);
    expect([...result.failed].map(([at, error]) => [at, error.code])).toEqual([
      [1, "BACKEND_UNAVAILABLE"],
      [2, "BACKEND_UNAVAILABLE"],
    ]);
  });

  it.each<[string, unknown]>([
    ["no entries", { nextPageToken: null }],
    ["more than asked", { entries: [1, 2, 3], nextPageToken: null }],
    ["a token that is no text", { entries: [], nextPageToken: 5 }],
    ["an entry without key", { entries: [{ size_bytes: 1 }], nextPageToken: null }],
  ])("a page with %s is an error", async (_, answer) => {
    const { gate, adapter } = await openGate();
    adapter.script = () => answer;
    expect(await errorOf(gate.listKeys({ pageSize: 2 }).outcome)).toMatchObject({
      details: { malformed: true },
    });
  });

  it("passes a good page on", async () => {
    const { gate, adapter } = await openGate();
    const key = { chunk_hash_hex: "00", model_name: "m", kv_rank: 0, object_group_id: 0, cache_salt: "" };
    const page = { entries: [{ key, size_bytes: 1, modified_ms: 5 }], nextPageToken: "t" };
    adapter.script = () => page;
    expect(await gate.listKeys({ pageSize: 2 }).outcome).toEqual(page);
  });

  it("hides credentials of URLs and bounds foreign text", async () => {
    const { gate, adapter } = await openGate();
    adapter.script = () => Promise.reject(new Error(`redis://u:s3cret@host failed ${"x".repeat(9999)}`));
    const error = await errorOf(gate.lookupAndLock(sized(1)).outcome);
    expect(error.message).not.toContain("s3cret");
    expect(error.message.length).toBeLessThan(500);
    expect(JSON.stringify(gate.status())).not.toContain("s3cret");
  });

  it("says UNSUPPORTED for what the manifest does not offer, without calling", async () => {
    const { gate, adapter } = await openGate({}, { delete: false, listKeys: false, quarantine: false });
    for (const call of [
      gate.delete(keys(1)),
      gate.listKeys({ pageSize: 1 }),
      gate.quarantine(keys(1), "x"),
    ]) {
      expect(await errorOf(call.outcome)).toMatchObject({ code: "UNSUPPORTED" });
    }
    expect(adapter.seen).toHaveLength(1);
  });

  it("never throws from unlock, also when the adapter does", async () => {
    const { gate, adapter } = await openGate();
    adapter.script = () => {
      throw new Error("unlock broke");
    };
    gate.unlock(keys(1));
    adapter.script = () => Promise.reject(new Error("unlock broke"));
    gate.unlock(keys(1));
    await flush();
    expect(gate.status()).toMatchObject({
      errors: { BACKEND_UNAVAILABLE: 2 },
      lastError: { operation: "unlock" },
    });
  });

  it("has a status that is plain JSON, with latencies", async () => {
    const { gate, adapter, clock } = await openGate();
    adapter.script = async (_, work) => {
      await new Promise<void>((resolve) => void clock.setTimer(40, resolve));
      return work();
    };
    const call = gate.store(keys(2), objects(2));
    await clock.advance(40);
    await call.outcome;
    const status = gate.status();
    expect(JSON.parse(JSON.stringify(status))).toEqual(status);
    expect(status.latency.store).toEqual({
      count: 1,
      meanMs: 40,
      p50Ms: 40,
      p90Ms: 40,
      p99Ms: 40,
      maxMs: 40,
    });
  });

  it.each([
    { lookupDeadlineMs: 0 },
    { probeDelaysMs: [] },
    { breakerFailures: 1.5 },
    { maxQueuedOperations: -1 },
  ])("refuses options %j", (options) => {
    expect(() => guardAdapter("a", new ScriptedAdapter(), options)).toThrow(Object.keys(options)[0]);
  });

  it("refuses a manifest without usable bounds", () => {
    expect(() => guardAdapter("a", new ScriptedAdapter({ maxBatchKeys: 0 }))).toThrow("maxBatchKeys");
  });
});

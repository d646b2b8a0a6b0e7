import { join } from "node:path";
import type { L2Adapter } from "@cache/contracts";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { staticConfigSchema } from "../src/config.ts";
import { createStaticAdapter } from "../src/static-adapter.ts";
import {
  after,
  fill,
  isPattern,
  isWhole,
  key,
  loadOne,
  mappedL1,
  memory,
  never,
  openContext,
  storeOne,
  temporaryDirectory,
  until,
} from "./support/fixtures.ts";
import { findNixl } from "./support/nixl-library.ts";
import { S3Server, SECRET_KEY } from "./support/s3-server.ts";

const library = await findNixl();
const BYTES = 100_000;

function make(change: Record<string, unknown>): L2Adapter {
  const config = staticConfigSchema.parse({
    backend: "OBJ",
    pool_size: 40,
    object_size: 64 * 1024,
    library,
    ...change,
  });
  const adapter = createStaticAdapter(config, mappedL1());
  after(() => adapter.close());
  return adapter;
}

async function codeAndText(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => new Error("nothing failed"),
    (failure: unknown) => failure as Error & { code?: string },
  );
  return `${"code" in error ? error.code : ""}: ${error.message}`;
}

describe.skipIf(library === null)("what a machine lacks is said at the start", () => {
  const files = { file_path: "/tmp/unused", use_direct_io: "false" };
  const cases: [string, RegExp][] = [
    [
      "GDS",
      /^UNSUPPORTED: NIXL's backend GDS does not work on this machine: .*lib(cudart|cufile).*GPUDirect/,
    ],
    ["GDS_MT", /^UNSUPPORTED: NIXL's backend GDS_MT does not work on this machine: .*GPUDirect Storage/],
    ["HF3FS", /^UNSUPPORTED: .*HF3FS .* has no plugin for it \(it has .*POSIX.*\); it needs .*3FS/],
    ["IBM_SCALE", /^UNSUPPORTED: .*IBM_SCALE .* has no plugin for it/],
    ["OBJ", /^INVALID_CONFIG: .*Missing config entry 'AWS_DEFAULT_BUCKET'.*; check backend_params/],
    ["AZURE_BLOB", /^INVALID_CONFIG: .*Missing config entry .*; check backend_params; it needs container/],
  ];
  // On a machine that has what they need, these open, and there is nothing to try here.
  test.each(cases)("%s", async (backend, message) => {
    const isFiles = backend !== "OBJ" && backend !== "AZURE_BLOB";
    const adapter = make({
      backend,
      backend_params: isFiles ? files : {},
      object_size: isFiles ? null : 4096,
    });
    expect(
      await codeAndText(adapter.open(openContext([], { stateDir: await temporaryDirectory() }))),
    ).toMatch(message);
  });

  test("an unusable directory", async () => {
    const backend_params = { file_path: join("/dev/null", "x"), use_direct_io: "false" };
    const adapter = make({ backend: "POSIX", backend_params, object_size: null });
    expect(
      await codeAndText(adapter.open(openContext([], { stateDir: await temporaryDirectory() }))),
    ).toMatch(
      /^BACKEND_REFUSED: cannot open the pool in \/dev\/null\/x: ENOTDIR; something else has that name/,
    );
  });
});

describe.skipIf(library === null)("an object store in trouble", () => {
  let server: S3Server;
  beforeAll(async () => {
    server = await S3Server.start();
  });
  afterAll(() => server.stop());
  beforeEach(() => {
    server.fault = () => null;
    server.objects.clear();
  });

  async function open(change: Record<string, unknown> = {}): Promise<L2Adapter> {
    const adapter = make({ backend_params: server.parameters(), ...change });
    await adapter.open(openContext([], { stateDir: await temporaryDirectory() }));
    return adapter;
  }
  /** The pool's objects of what was stored first. */
  const isFirst = (name: string): boolean => name === "obj_0" || name === "obj_1";

  test("a bucket that is not there, wrong credentials: typed at the start, without a secret", async () => {
    for (const change of [
      { bucket: "elsewhere" },
      { access_key: "AKIDWRONGWRONG00", secret_key: `${SECRET_KEY}-wrong` },
    ]) {
      const backend_params = { ...server.parameters(), ...change };
      const text = await codeAndText(open({ backend_params }));
      expect(text).toMatch(
        /^BACKEND_(UNAVAILABLE|REFUSED): cannot (reach|write|read) .*obj:\/\/127\.0\.0\.1/,
      );
      expect(text).not.toContain(SECRET_KEY);
    }
  });

  test("an object that is shorter there than it was stored is a miss, not half of it", async () => {
    const adapter = await open();
    await storeOne(adapter, 1, BYTES);
    await storeOne(adapter, 2, BYTES);
    server.fault = (method, name) => (method === "GET" && isFirst(name) ? { shortenTo: 20_000 } : null);
    expect(await loadOne(adapter, key(1), BYTES)).toBeNull();
    expect(await isWhole(adapter, 2, BYTES)).toBe(true);
    expect(adapter.status()).toMatchObject({ short_reads: 1 });
    server.fault = () => null;
    expect(await isWhole(adapter, 1, BYTES)).toBe(true);
  });

  test("bytes that look like the mark of a short load are still loaded", async () => {
    const adapter = await open();
    for (let n = 1; n < 60; n++) {
      await storeOne(adapter, n, 1);
      expect(await isWhole(adapter, n, 1)).toBe(true);
      await adapter.delete?.([key(n)], never);
    }
  });

  test("a refused object costs itself alone, in loads and stores", async () => {
    const adapter = await open();
    for (const n of [1, 2, 3]) await storeOne(adapter, n, BYTES);
    server.fault = (method, name) => (method === "GET" && isFirst(name) ? { status: 403 } : null);
    const into = [1, 2, 3].map(() => memory(BYTES));
    const requests = [1, 2, 3].map((n) => ({ key: key(n), byteLength: BYTES }));
    const loaded = await adapter.load(requests, into, never);
    expect([0, 1, 2].map((i) => loaded.has(i))).toEqual([false, true, true]);
    server.fault = (method, name) => (method === "PUT" && name === "obj_7" ? { status: 403 } : null);
    const objects = [11, 12].map((n) => fill(memory(BYTES), n));
    const { stored, failed } = await adapter.store([key(11), key(12)], objects, never);
    expect([stored.has(0), stored.has(1)]).toEqual([false, true]);
    expect(failed.get(0)?.message).toMatch(
      /^cannot write an object to obj:\/\/.*get_xfer_status gave BACKEND/,
    );
    expect(adapter.usage().totalBytesUsed).toBe(4 * BYTES);
    expect(await isWhole(adapter, 12, BYTES)).toBe(true);
    expect(adapter.status()).toMatchObject({ errors: { BACKEND_UNAVAILABLE: 2 } });
  });

  test("a pool that another adapter takes serves none of its bytes, and overwrites none of the other's", async () => {
    const first = await open();
    await storeOne(first, 1, BYTES);
    expect(await isWhole(first, 1, BYTES)).toBe(true);
    const second = await open();
    await storeOne(second, 2, BYTES); // into the pages of 1
    expect(await codeAndText(loadOne(first, key(1), BYTES))).toMatch(
      /^LOCKED_BY_OTHER_PROCESS: another adapter has taken .* pool_name of its own/,
    );
    expect(await codeAndText(storeOne(first, 3, BYTES))).toMatch(/^LOCKED_BY_OTHER_PROCESS/);
    expect(await loadOne(first, key(1), BYTES)).toBeNull();
    expect(await isWhole(second, 2, BYTES)).toBe(true);
    expect(first.status().isHealthy).toBe(false);
  });

  test("a load settles when all pieces have ended, also if one failed at once", async () => {
    const adapter = await open();
    await storeOne(adapter, 1, BYTES); // two pieces
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    after(async () => release());
    let refused = 0;
    server.fault = (method, name) => {
      if (method !== "GET" || !isFirst(name)) return null;
      if (name === "obj_1") return { until: released };
      refused++;
      return { status: 403 };
    };
    const into = memory(BYTES);
    let isSettled = false;
    const loading = adapter
      .load([{ key: key(1), byteLength: BYTES }], [into], never)
      .finally(() => (isSettled = true));
    loading.catch(() => undefined);
    await until(() => refused > 0);
    // Long enough for the library to report the failure.
    for (let n = 10; n < 15; n++) {
      await storeOne(adapter, n, BYTES);
      expect(await isWhole(adapter, n, BYTES)).toBe(true);
    }
    expect(isSettled).toBe(false);
    release();
    await expect(loading).rejects.toMatchObject({ code: "BACKEND_UNAVAILABLE" });
    into.bytes.fill(0x5a);
    server.fault = () => null;
    expect(await isWhole(adapter, 1, BYTES)).toBe(true);
    expect(into.bytes.every((byte) => byte === 0x5a)).toBe(true);
  });

  test("pages of an object that is deleted while it is read go to nobody until the read is done", async () => {
    const adapter = await open({ pool_size: 6 });
    await storeOne(adapter, 1, BYTES);
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    after(async () => release());
    server.fault = (method, name) => (method === "GET" && isFirst(name) ? { until: released } : null);
    const into = memory(BYTES);
    const loading = adapter.load([{ key: key(1), byteLength: BYTES }], [into], never);
    await until(() => Number(adapter.status()["requests_in_flight"]) > 0);
    expect((await adapter.delete?.([key(1)], never))?.has(0)).toBe(true);
    await storeOne(adapter, 2, BYTES);
    await storeOne(adapter, 3, BYTES);
    await expect(storeOne(adapter, 4, BYTES)).rejects.toMatchObject({ code: "BACKEND_FULL" });
    release();
    expect((await loading).has(0) && isPattern(into.bytes, 1)).toBe(true);
    await storeOne(adapter, 4, BYTES);
    expect(await isWhole(adapter, 4, BYTES)).toBe(true);
    expect(await loadOne(adapter, key(1), BYTES)).toBeNull();
  });

  test("an aborted load settles when the server has answered, and not before", async () => {
    const adapter = await open({ request_timeout: 0.01 });
    await storeOne(adapter, 1, BYTES);
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    after(async () => release());
    server.fault = (method) => (method === "GET" ? { until: released } : null);
    const into = memory(BYTES);
    const controller = new AbortController();
    let isSettled = false;
    const loading = adapter.load([{ key: key(1), byteLength: BYTES }], [into], controller.signal);
    const settled = (): void => void (isSettled = true);
    loading.then(settled, settled);
    await until(() => Number(adapter.status()["requests_in_flight"]) > 0);
    controller.abort();
    await until(() => Number(adapter.status()["stalled_requests"]) > 0);
    expect(adapter.status().isHealthy).toBe(false);
    expect(isSettled).toBe(false);
    release();
    await expect(loading).rejects.toMatchObject({ code: "ABORTED" });
    into.bytes.fill(0x5a);
    server.fault = () => null;
    expect(await isWhole(adapter, 1, BYTES)).toBe(true);
    expect(into.bytes.every((byte) => byte === 0x5a)).toBe(true);
    expect(adapter.status()).toMatchObject({ stalled_requests: 0, isHealthy: true });
  });

  test("close waits for what is under way", async () => {
    const adapter = await open();
    await storeOne(adapter, 1, BYTES);
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    after(async () => release());
    server.fault = (method) => (method === "GET" ? { until: released } : null);
    const loading = adapter.load([{ key: key(1), byteLength: BYTES }], [memory(BYTES)], never);
    await until(() => Number(adapter.status()["requests_in_flight"]) > 0);
    const order: string[] = [];
    const closing = adapter.close().then(() => order.push("closed"));
    loading.then(
      () => order.push("loaded"),
      () => order.push("loaded"),
    );
    release();
    await closing;
    expect(order).toEqual(["loaded", "closed"]);
  });

  test("nothing that the adapter tells holds a secret", async () => {
    const adapter = await open();
    await storeOne(adapter, 1, BYTES);
    expect(JSON.stringify([adapter.status(), adapter.location])).not.toContain(SECRET_KEY);
    expect(adapter.status()).toMatchObject({
      type: "nixl_store",
      backend: "OBJ",
      bytes_written: BYTES,
      stored_object_count: 1,
      pool_size: 40,
      pool_free_slots: 38,
    });
  });
});

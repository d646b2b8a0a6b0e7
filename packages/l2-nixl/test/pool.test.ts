import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { decodeObjectKey, type MemoryObj } from "@cache/contracts";
import { describe, expect, test } from "vitest";
import { staticConfigSchema } from "../src/config.ts";
import { createStaticAdapter } from "../src/static-adapter.ts";
import { encodeRecord } from "../src/slot-records.ts";
import {
  after,
  fill,
  isWhole,
  key,
  loadOne,
  type LogLine,
  mappedL1,
  memory,
  never,
  openContext,
  storeOne,
  temporaryDirectory,
  type TestAdapter,
  until,
} from "./support/fixtures.ts";
import { findNixl } from "./support/nixl-library.ts";

const library = await findNixl();
const child = fileURLToPath(new URL("./children/store-forever.mjs", import.meta.url));
const FILE_BYTES = 1 << 20;

interface Pool {
  readonly directory: string;
  readonly lines: LogLine[];
  open(change?: Record<string, unknown>): Promise<TestAdapter>;
}

/** A pool of 12 files of 1 MiB. */
async function newPool(): Promise<Pool> {
  const directory = await temporaryDirectory();
  const lines: LogLine[] = [];
  return {
    directory,
    lines,
    async open(change = {}) {
      const backend_params = {
        file_path: join(directory, "pool"),
        use_direct_io: "false",
        file_size: String(FILE_BYTES),
      };
      const base = { backend: "POSIX", backend_params, pool_size: 12, library };
      const adapter = createStaticAdapter(staticConfigSchema.parse({ ...base, ...change }), mappedL1());
      after(() => adapter.close());
      await adapter.open(openContext(lines, { stateDir: directory }));
      return adapter as TestAdapter;
    },
  };
}

async function keysOf(adapter: TestAdapter): Promise<number[]> {
  const { entries } = await adapter.listKeys({ pageSize: 5000 }, never);
  return entries.map((entry) => Buffer.from(decodeObjectKey(entry.key).chunkHash).readUInt32BE(0));
}

const sizes = [1, 4095, 4096, 4097, FILE_BYTES - 1, FILE_BYTES, FILE_BYTES + 1, 2_500_000];

describe.skipIf(library === null)("a static pool", () => {
  test("has files with fixed names, and comes back after close", async () => {
    const pool = await newPool();
    const first = await pool.open();
    for (const [n, size] of sizes.entries()) await storeOne(first, n, size);
    await first.delete([key(3)], never);
    await first.close();
    const names = readdirSync(join(pool.directory, "pool")).sort();
    expect(names).toEqual([...Array.from({ length: 12 }, (_, i) => `obj_${i}.bin`), "obj.owner"].sort());
    const second = await pool.open();
    expect(second.status()).toMatchObject({ taken_up_objects: 7, started_empty_because: null });
    for (const [n, size] of sizes.entries())
      expect(await isWhole(second, n, size), `object ${n}`).toBe(n !== 3);
    const total = sizes.reduce((sum, size, n) => (n === 3 ? sum : sum + size), 0);
    expect(second.usage()).toMatchObject({ totalBytesUsed: total, capacityBytes: 12 * FILE_BYTES });
    expect(readdirSync(join(pool.directory, "pool")).sort()).toEqual(names);
  });

  test("is full when it is full, and has room again after a delete", async () => {
    const pool = await newPool();
    const adapter = await pool.open();
    for (let n = 0; n < 12; n++) await storeOne(adapter, n, FILE_BYTES);
    await expect(storeOne(adapter, 12, 1)).rejects.toMatchObject({ code: "BACKEND_FULL" });
    await adapter.delete([key(4), key(9)], never);
    await storeOne(adapter, 20, 2 * FILE_BYTES);
    expect(await isWhole(adapter, 20, 2 * FILE_BYTES)).toBe(true);
    for (let n = 0; n < 12; n++) expect(await isWhole(adapter, n, FILE_BYTES)).toBe(n !== 4 && n !== 9);
  });

  test("belongs to one engine at a time", async () => {
    const pool = await newPool();
    await pool.open();
    await expect(pool.open()).rejects.toMatchObject({ code: "LOCKED_BY_OTHER_PROCESS" });
    await pool.open({ pool_name: "mine" });
  });

  test("starts empty if another state directory used it since, and says so", async () => {
    const pool = await newPool();
    const first = await pool.open();
    await storeOne(first, 1, 5000);
    await first.close();
    const other = await temporaryDirectory();
    const second = createStaticAdapter(
      staticConfigSchema.parse({
        backend: "POSIX",
        backend_params: {
          file_path: join(pool.directory, "pool"),
          use_direct_io: "false",
          file_size: FILE_BYTES,
        },
        pool_size: 12,
        library,
      }),
      mappedL1(),
    );
    await second.open(openContext([], { stateDir: other }));
    await storeOne(second, 2, 5000);
    await second.close();
    const third = await pool.open();
    expect(third.status()["started_empty_because"]).toMatch(/used by another adapter since/);
    expect(pool.lines.map(({ message }) => message)).toContain("the pool starts empty");
    expect(await loadOne(third, key(1), 5000)).toBeNull();
  });

  test("starts empty with another geometry, or when the machine went down while it was open", async () => {
    const pool = await newPool();
    const first = await pool.open();
    await storeOne(first, 1, 5000);
    await first.close();
    const other = await pool.open({ pool_size: 6 });
    expect(other.status()["started_empty_because"]).toMatch(/configuration is another than before/);
    await storeOne(other, 1, 5000);
    await other.close();
    // Closed well: another boot makes no difference.
    const path = join(pool.directory, "slots.map");
    const rebooted = (bytes: Buffer): Buffer => {
      const header = JSON.parse(bytes.subarray(14, 12 + bytes.readUInt32LE(0)).toString()) as object;
      const changed = encodeRecord({
        type: "header",
        header: { ...header, bootId: "of yesterday" } as never,
      });
      return Buffer.concat([changed, bytes.subarray(12 + bytes.readUInt32LE(0))]);
    };
    writeFileSync(path, rebooted(readFileSync(path)));
    const again = await pool.open({ pool_size: 6 });
    expect(await isWhole(again, 1, 5000)).toBe(true);
    const open = readFileSync(path);
    await again.close();
    writeFileSync(path, rebooted(open));
    const last = await pool.open({ pool_size: 6 });
    expect(last.status()["started_empty_because"]).toMatch(/machine went down/);
    await last.close();
    const durable = await pool.open({ pool_size: 6, fsync: "data" });
    await storeOne(durable, 3, 5000);
    const kept = readFileSync(path);
    await durable.close();
    writeFileSync(path, rebooted(kept));
    expect(await isWhole(await pool.open({ pool_size: 6 }), 3, 5000)).toBe(true);
  });

  test("a damaged slot map is kept aside, and the pool starts empty", async () => {
    const pool = await newPool();
    const first = await pool.open();
    for (let n = 0; n < 5; n++) await storeOne(first, n, 5000);
    await first.close();
    const path = join(pool.directory, "slots.map");
    const bytes = readFileSync(path);
    bytes[400] = (bytes[400] ?? 0) ^ 64;
    writeFileSync(path, bytes);
    const second = await pool.open();
    expect(await keysOf(second)).toEqual([]);
    expect(pool.lines.some(({ level }) => level === "error")).toBe(true);
    expect(readdirSync(pool.directory).some((name) => name.startsWith("slots.map.damaged-"))).toBe(true);
  });

  test("loads beside deletes and stores give an object or nothing", async () => {
    const pool = await newPool();
    const adapter = await pool.open();
    for (let n = 0; n < 6; n++) await storeOne(adapter, n, 2 * FILE_BYTES);
    for (let round = 0; round < 10; round++) {
      const into = memory(2 * FILE_BYTES);
      const request = [{ key: key(round % 6), byteLength: 2 * FILE_BYTES }];
      const loading = adapter.load(request, [into], never);
      await adapter.delete([key(round % 6)], never);
      const fresh = fill(memory(2 * FILE_BYTES), 77);
      await adapter.store([key(100)], [fresh], never);
      const loaded = await loading;
      if (loaded.has(0))
        expect(Buffer.compare(into.bytes, fill(memory(2 * FILE_BYTES), round % 6).bytes)).toBe(0);
      await adapter.delete([key(100)], never);
      await storeOne(adapter, round % 6, 2 * FILE_BYTES);
    }
  });

  test("an object whose bytes are gone from the pool is an error with what NIXL printed, and costs itself alone", async () => {
    const pool = await newPool();
    const adapter = await pool.open();
    for (let n = 0; n < 3; n++) await storeOne(adapter, n, FILE_BYTES);
    truncateSync(join(pool.directory, "pool", "obj_1.bin"), 1000);
    await expect(loadOne(adapter, key(1), FILE_BYTES)).rejects.toThrow(
      /cannot read an object of .*POSIX transfer failed: an io completed short/,
    );
    const into = [0, 1, 2].map(() => memory(FILE_BYTES)) as [MemoryObj, MemoryObj, MemoryObj];
    const requests = [0, 1, 2].map((n) => ({ key: key(n), byteLength: FILE_BYTES }));
    const loaded = await adapter.load(requests, into, never);
    expect([0, 1, 2].map((i) => loaded.has(i))).toEqual([true, false, true]);
    expect(adapter.status()).toMatchObject({ errors: { BACKEND_UNAVAILABLE: 2 }, isHealthy: true });
  });

  test("objects outside of L1 are refused", async () => {
    const adapter = await (await newPool()).open();
    const bytes = new Uint8Array(100);
    for (const poolOffset of [null, -4096, mappedL1().size - 50]) {
      const storing = adapter.store([key(1)], [{ bytes, poolOffset }], never);
      await expect(storing).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    }
    await storeOne(adapter, 1, 100);
  });
});

async function assertConsistent(adapter: TestAdapter, acknowledged: Map<number, boolean>): Promise<number> {
  const listed = new Set(await keysOf(adapter));
  for (const [n, mayBeGone] of acknowledged) {
    if (!mayBeGone) expect(listed.has(n), `acknowledged object ${n}`).toBe(true);
  }
  for (const n of listed) {
    const bytes = await loadOne(adapter, key(n), 300_000);
    expect(
      bytes?.every((byte) => byte === (n % 250) + 1),
      `object ${n} has its own bytes`,
    ).toBe(true);
  }
  return [...listed].filter((n) => !acknowledged.has(n)).length;
}

describe.skipIf(library === null)("a process that is killed while it stores and deletes", () => {
  test("loses nothing that was acknowledged, and serves no wrong byte", async () => {
    const pool = await newPool();
    for (let round = 0; round < 5; round++) {
      const first = 1 + round * 100_000;
      const writer = spawn(process.execPath, [child, library ?? "", pool.directory, String(first)]);
      let text = "";
      let errors = "";
      writer.stdout.on("data", (part: Buffer) => (text += part.toString()));
      writer.stderr.on("data", (part: Buffer) => (errors += part.toString()));
      const exited = once(writer, "exit");
      await until(() => {
        expect(writer.exitCode, errors).toBeNull();
        return text.split("\n").length > 60 + round * 37;
      });
      writer.kill("SIGKILL");
      await exited;
      const acknowledged = new Map<number, boolean>();
      for (const line of text.split("\n").slice(0, -1)) {
        const [what, n] = line.split(" ");
        acknowledged.set(Number(n), what === "deleting");
      }
      const adapter = await pool.open();
      expect(adapter.status()["started_empty_because"]).toBeNull();
      // The batch that was under way may be there, whole.
      expect(await assertConsistent(adapter, acknowledged)).toBeLessThanOrEqual(4);
      await adapter.delete(
        (await keysOf(adapter)).map((n) => key(n)),
        never,
      );
      expect(adapter.usage().totalBytesUsed).toBe(0);
      expect(adapter.status()["pool_free_slots"]).toBe((12 * FILE_BYTES) / 4096);
      await adapter.close();
    }
    rmSync(pool.directory, { recursive: true, force: true });
  });
});

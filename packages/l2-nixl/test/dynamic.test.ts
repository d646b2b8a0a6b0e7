import { chmod, readdir, readFile, stat, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { dynamicConfigSchema } from "../src/config.ts";
import { createDynamicAdapter } from "../src/dynamic-adapter.ts";
import { encodeFileName, temporaryName } from "../src/names.ts";
import {
  after,
  fill,
  isWhole,
  key,
  loadOne,
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

async function open(
  file_path: string,
  params: Record<string, unknown> = {},
  more = {},
): Promise<TestAdapter> {
  const config = dynamicConfigSchema.parse({
    backend: "POSIX",
    backend_params: { file_path, use_direct_io: "false", max_capacity_gb: 1, ...params },
    library,
    ...more,
  });
  const adapter = createDynamicAdapter(config, mappedL1());
  after(() => adapter.close());
  await adapter.open(openContext());
  return adapter as TestAdapter;
}

const scanned = (adapter: TestAdapter): boolean =>
  (adapter.status()["scan"] as { scans_completed: number }).scans_completed > 0;

describe.skipIf(library === null)("one file an object", () => {
  test("a file has the object's length, or one alignment more where LMCache would pad it", async () => {
    const directory = await temporaryDirectory();
    const adapter = await open(directory);
    for (const [n, size] of [1, 4095, 4096, 4097, 8192, 100_000].entries()) {
      await storeOne(adapter, n, size);
      const path = join(directory, encodeFileName(key(n)));
      expect((await stat(path)).size).toBe(size % 4096 === 0 ? size : size + 4096);
      expect((await stat(path)).mode & 0o777).toBe(0o600);
      const bytes = await readFile(path);
      expect(Buffer.compare(bytes.subarray(0, size), fill(memory(size), n).bytes)).toBe(0);
      expect(bytes.subarray(size).every((byte) => byte === 0)).toBe(true);
    }
    expect(await readdir(directory)).toHaveLength(6);
  });

  test("LMCache's padded files are found by every length that they can have, ours by their own only", async () => {
    const directory = await temporaryDirectory();
    const adapter = await open(directory);
    const padded = join(directory, encodeFileName(key(1)));
    await writeFile(padded, Buffer.alloc(8192, 7), { mode: 0o755 });
    await chmod(padded, 0o755);
    for (const [size, hit] of [
      [4096, false],
      [4097, true],
      [8191, true],
      [8192, true],
      [8193, false],
    ] as const) {
      expect((await loadOne(adapter, key(1), size))?.every((byte) => byte === 7) ?? false).toBe(hit);
    }
    await storeOne(adapter, 2, 8192);
    await storeOne(adapter, 3, 5000);
    const other = await open(directory);
    for (const size of [4097, 8191]) expect(await loadOne(other, key(2), size)).toBeNull();
    for (const size of [4999, 5001, 8192, 9096]) expect(await loadOne(other, key(3), size)).toBeNull();
    expect(await isWhole(other, 2, 8192)).toBe(true);
    expect(await isWhole(other, 3, 5000)).toBe(true);
    await expect(storeOne(other, 3, 6000)).rejects.toMatchObject({ code: "CONFLICT" });
  });

  test("a file that became shorter is a miss, one of another kind too, and the others are served", async () => {
    const directory = await temporaryDirectory();
    const adapter = await open(directory);
    for (const n of [1, 2, 3]) await storeOne(adapter, n, 8192);
    await truncate(join(directory, encodeFileName(key(2))), 4096);
    const into = [1, 2, 3].map(() => memory(8192));
    const requests = [1, 2, 3].map((n) => ({ key: key(n), byteLength: 8192 }));
    const loaded = await adapter.load(requests, into, never);
    expect([0, 1, 2].map((i) => loaded.has(i))).toEqual([true, false, true]);
    expect(adapter.status()).toMatchObject({ length_mismatches: 1, isHealthy: true });
  });

  test("a store beyond the capacity is refused, those before it are kept; a delete makes room", async () => {
    const adapter = await open(await temporaryDirectory(), { max_capacity_gb: 5e-5 });
    const { capacityBytes } = adapter.usage();
    expect(capacityBytes).toBe(Math.floor(5e-5 * 1024 ** 3));
    const objects = [1, 2, 3].map((n) => fill(memory(20_000), n));
    const { stored, failed } = await adapter.store([key(1), key(2), key(3)], objects, never);
    expect(stored.count()).toBe(2);
    expect([...failed.values()][0]).toMatchObject({ code: "BACKEND_FULL" });
    await adapter.delete([key(1), key(2), key(3)], never);
    await storeOne(adapter, 4, 50_000);
    expect(adapter.usage().totalBytesUsed).toBe(50_000);
  });

  test("the scan counts what others stored and removes dead temporaries of ours, nobody else's", async () => {
    const directory = await temporaryDirectory();
    const first = await open(directory);
    await storeOne(first, 1, 4096);
    await first.close();
    const old = new Date(Date.now() - 7_200_000);
    const dead = temporaryName({ hostToken: "00000000", pid: 1, openToken: "00000000" }, 1);
    for (const name of [dead, "x.bin.tmp.0123", "notes.txt"]) {
      await writeFile(join(directory, name), "x");
      await utimes(join(directory, name), old, old);
    }
    await utimes(join(directory, encodeFileName(key(1))), old, old);
    const second = await open(directory);
    await until(() => scanned(second));
    expect(second.status()).toMatchObject({ tier_object_count: 1, tier_size_bytes: 4096 });
    expect((await readdir(directory)).sort()).toEqual(
      [encodeFileName(key(1)), "notes.txt", "x.bin.tmp.0123"].sort(),
    );
    expect(second.usage().totalBytesUsed).toBe(0);
  });

  test("sharded files lie where LMCache puts them, and are listed", async () => {
    const directory = await temporaryDirectory();
    const adapter = await open(directory, { shard_dirs: "true" });
    await storeOne(adapter, 0x12345678, 4096);
    expect(await readdir(join(directory, "12", "34"))).toEqual([encodeFileName(key(0x12345678))]);
    const { entries } = await adapter.listKeys({ pageSize: 10 }, never);
    expect(entries.map(({ size_bytes }) => size_bytes)).toEqual([4096]);
    expect(await isWhole(await open(directory, { shard_dirs: "true" }), 0x12345678, 4096)).toBe(true);
  });

  test("a directory that cannot be made is a typed error at the start", async () => {
    const directory = await temporaryDirectory();
    await writeFile(join(directory, "file"), "");
    await expect(open(join(directory, "file", "below"))).rejects.toMatchObject({ code: "BACKEND_REFUSED" });
  });
});

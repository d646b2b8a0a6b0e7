import { appendFileSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { type PoolEntry, readSlotMap, setAside, SlotMap } from "../src/slot-map.ts";
import { decodeRecords, encodeRecord, type MapRecord } from "../src/slot-records.ts";
import { openContext, temporaryDirectory, until } from "./support/fixtures.ts";

const header = { poolId: "ab".repeat(16), bootId: "boot", isDurable: false, geometry: "[1]" };
const entry = (n: number, first = n * 4): PoolEntry => ({
  name: `org/model@01000100@0@${n.toString(16).padStart(64, "0")}`,
  cacheSalt: n % 2 === 0 ? "" : `tenant ü ${n}`,
  byteLength: 4 * 4096 - n,
  runs: [
    { first, count: 3 },
    { first: first + 3, count: 1 },
  ],
});
const { log } = openContext();

async function create(directory: string, entries = new Map<string, PoolEntry>(), compactBytes = 2 ** 30) {
  const map = await SlotMap.create({ directory, header, entries, log, compactBytes });
  const store = async (one: PoolEntry): Promise<void> => {
    await map.append([{ type: "stored", entry: one }]);
    entries.set(one.name, one);
  };
  const remove = async (one: PoolEntry): Promise<void> => {
    await map.append([{ type: "deleted", firstPage: one.runs[0]?.first ?? 0 }]);
    entries.delete(one.name);
  };
  return { map, entries, store, remove };
}

test("what was appended is found again, also without close", async () => {
  const directory = await temporaryDirectory();
  expect(readSlotMap(directory)).toBeNull();
  const { map, store, remove } = await create(directory);
  for (let n = 0; n < 10; n++) await store(entry(n));
  await remove(entry(3));
  await store({ ...entry(7), runs: [{ first: 12, count: 4 }] });
  const found = readSlotMap(directory);
  expect(found).toMatchObject({ header, isClean: false });
  expect([...(found?.entries.keys() ?? [])].sort()).toEqual(
    [0, 1, 2, 4, 5, 6, 7, 8, 9].map((n) => entry(n).name).sort(),
  );
  expect(found?.entries.get(entry(1).name)).toEqual(entry(1));
  expect(found?.entries.get(entry(7).name)?.runs).toEqual([{ first: 12, count: 4 }]);
  await map.close(true);
  expect(readSlotMap(directory)?.isClean).toBe(true);
  await expect(store(entry(1))).rejects.toThrow(/it is closed/);
});

test("written anew at the start, it holds what it is given and is not clean any more", async () => {
  const directory = await temporaryDirectory();
  const { map, store } = await create(directory);
  for (let n = 0; n < 50; n++) await store(entry(n));
  await map.close(true);
  const found = readSlotMap(directory);
  const kept = new Map([...(found?.entries ?? [])].slice(0, 5));
  const second = await create(directory, kept);
  expect(readSlotMap(directory)).toMatchObject({ isClean: false, entries: kept });
  await second.map.close(false);
  expect(readSlotMap(directory)?.isClean).toBe(false);
  expect(readdirSync(directory)).toEqual(["slots.map"]);
});

test("a file that ends anywhere gives what stands whole before the end", async () => {
  const records: MapRecord[] = [
    { type: "header", header },
    ...[0, 1, 2].map((n): MapRecord => ({ type: "stored", entry: entry(n) })),
    { type: "deleted", firstPage: 4 },
    { type: "closed" },
  ];
  const parts = records.map(encodeRecord);
  const whole = Buffer.concat(parts);
  for (let length = 0; length <= whole.length; length++) {
    const { records: found, damage } = decodeRecords(whole.subarray(0, length));
    let complete = 0;
    for (let bytes = 0; complete < parts.length; complete++) {
      bytes += parts[complete]?.length ?? 0;
      if (bytes > length) break;
    }
    expect(damage).toBeNull();
    expect(found).toEqual(records.slice(0, complete));
  }
});

test("a changed byte is damage, or costs the last record; it never gives another history", () => {
  const records = [0, 1, 2, 3].map((n): MapRecord => ({ type: "stored", entry: entry(n) }));
  const whole = Buffer.concat(records.map(encodeRecord));
  const lastBegins = whole.length - encodeRecord(records[3] as MapRecord).length;
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const file = Buffer.from(whole);
      file[at] = (file[at] ?? 0) ^ flip;
      const { records: found, damage } = decodeRecords(file);
      expect(found).toEqual(records.slice(0, found.length));
      if (damage === null) {
        expect(at).toBeGreaterThanOrEqual(lastBegins);
        expect(found).toHaveLength(3);
      }
    }),
  );
});

test("a damaged file is refused, and kept", async () => {
  const directory = await temporaryDirectory();
  const { map, store } = await create(directory);
  for (let n = 0; n < 5; n++) await store(entry(n));
  await map.close(true);
  const path = join(directory, "slots.map");
  const bytes = readFileSync(path);
  bytes[300] = (bytes[300] ?? 0) ^ 1;
  writeFileSync(path, bytes);
  expect(() => readSlotMap(directory)).toThrow(/is damaged: /);
  setAside(directory);
  expect(existsSync(path)).toBe(false);
  expect(readdirSync(directory)[0]).toMatch(/^slots\.map\.damaged-/);
  writeFileSync(path, encodeRecord({ type: "closed" }));
  expect(() => readSlotMap(directory)).toThrow(/does not begin with a header/);
});

test("a torn end is cut off by the next start, and what comes then can be read", async () => {
  const directory = await temporaryDirectory();
  const first = await create(directory);
  await first.store(entry(0));
  await first.map.close(false);
  const torn = encodeRecord({ type: "stored", entry: entry(1) });
  appendFileSync(join(directory, "slots.map"), torn.subarray(0, 40));
  const found = readSlotMap(directory);
  expect(found?.entries.size).toBe(1);
  const second = await create(directory, new Map(found?.entries));
  await second.store(entry(2));
  expect(readSlotMap(directory)?.entries.size).toBe(2);
  await second.map.close(false);
});

test("it is written anew while it grows, and loses nothing that comes meanwhile", async () => {
  const directory = await temporaryDirectory();
  const { map, entries, store, remove } = await create(directory, new Map(), 20_000);
  for (let n = 0; n < 3000; n++) {
    await store(entry(n, (n % 40) * 4));
    if (n >= 20) await remove(entry(n - 20, ((n - 20) % 40) * 4));
    if (n % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await until(() => Number(map.status()["compactions"]) >= 1);
  for (let n = 5000; n < 5010; n++) await store(entry(n));
  await map.sync();
  expect(statSync(join(directory, "slots.map")).size).toBeLessThan(400_000);
  const found = readSlotMap(directory);
  expect(found?.entries).toEqual(entries);
  await map.close(true);
});

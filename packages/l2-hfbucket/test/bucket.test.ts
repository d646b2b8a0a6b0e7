import { randomBytes } from "node:crypto";
import { readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { isCacheError, PERCENT_ENCODED_NAMES } from "@cache/contracts";
import { expect, test, vi } from "vitest";
import { type XetChunk, xet } from "../src/hub-library.ts";
import {
  BUCKET,
  key,
  loadNth,
  type LogLine,
  memory,
  never,
  newAdapter,
  newHub,
  openAdapter,
  openContext,
  pattern,
  sized,
  storePatterns,
  TOKEN,
} from "./support/fixtures.ts";

// Threads begin cold, and the machine may be busy.
vi.setConfig({ testTimeout: 90_000 });

const SIZE = 4000;
const nameOf = (n: number) => `kv/prod/${PERCENT_ENCODED_NAMES.encode(key(n))}`;

test("objects of all sizes come back byte for byte, under LMCache's names, and no file is written", async () => {
  const hub = await newHub();
  const adapter = await openAdapter(hub, { num_workers: 2 });
  const before = readdirSync(tmpdir()).filter((name) => /hfbucket|huggingface/.test(name));
  const contents = [
    Buffer.from([7]),
    randomBytes(64 * 1024),
    randomBytes(1024 * 1024),
    randomBytes(9 * 1024 * 1024 + 3),
    Buffer.alloc(5 * 1024 * 1024, "again and again "),
    Buffer.alloc(2 * 1024 * 1024 + 1),
  ];
  const keys = contents.map((_, n) => key(n, n === 1 ? { cacheSalt: "tenant!'()*" } : {}));
  const stored = await adapter.store(keys, contents.map(memory), never);
  expect([...stored.failed.values()]).toEqual([]);
  const requests = keys.map((k, i) => ({ key: k, byteLength: contents[i]?.length ?? 0 }));
  expect((await adapter.lookupAndLock(requests, never)).count()).toBe(contents.length);
  adapter.unlock(keys);
  const into = contents.map((bytes) => memory(bytes.length));
  expect((await adapter.load(requests, into, never)).count()).toBe(contents.length);
  for (const [i, bytes] of contents.entries())
    expect(bytes.equals(into[i]?.bytes ?? Buffer.alloc(0))).toBe(true);

  const files = hub.buckets.files(BUCKET);
  expect(files?.get(nameOf(2))?.size).toBe(1024 * 1024);
  const salted = `kv/prod/org%2Fmodel%4001000100%400%40${"00000001".padEnd(64, "0")}%40tenant%21%27%28%29%2A`;
  expect([...(files?.keys() ?? [])]).toContain(salted);
  expect(adapter.status()).toMatchObject({ reachable: true, isHealthy: true, bucket: BUCKET, errors: {} });
  expect(readdirSync(tmpdir()).filter((name) => /hfbucket|huggingface/.test(name))).toEqual(before);
});

test("an object that another client cut into other chunks is loaded; under a hash not its own it is not", async () => {
  const hub = await newHub();
  const adapter = await openAdapter(hub);
  const bytes = Buffer.from(pattern(1, 300_000));
  const lengths = [10, 8129, 131_072, 60_000, 100_789];
  const chunker = xet.createChunker(4 * 1024 * 1024);
  const xorb: Buffer[] = [];
  const chunks: XetChunk[] = [];
  let at = 0;
  for (const length of lengths) {
    const chunk = bytes.subarray(at, (at += length));
    const header = Buffer.alloc(8); // version 0, not packed
    header.writeUIntLE(length, 1, 3);
    header.writeUIntLE(length, 5, 3);
    xorb.push(header, chunk);
    chunks.push(...xet.nextBlock(chunker, chunk));
    const last = xet.finalize(chunker);
    if (last !== null && last !== undefined) chunks.push(last);
  }
  const xorbHash = "ab".repeat(32);
  const hash = xet.hashToHex(xet.fileHash(chunks));
  hub.cas.putXorb(xorbHash, Buffer.concat(xorb));
  const term = (start: number, end: number) => ({
    hash: xorbHash,
    range: { start, end },
    unpackedLength: lengths.slice(start, end).reduce((sum, length) => sum + length, 0),
  });
  hub.cas.putFile(hash, [term(0, 2), term(2, 5)]);
  const file = { size: bytes.length, xetHash: hash, uploadedAt: new Date().toISOString() };
  hub.buckets.files(BUCKET)?.set(nameOf(1), file);
  expect(bytes.equals((await loadNth(adapter, 1, bytes.length)) ?? Buffer.alloc(0))).toBe(true);
  // Under a hash that is not its own it is not served, unless nobody looks.
  hub.cas.putFile("cd".repeat(32), [term(0, 5)]);
  hub.buckets.files(BUCKET)?.set(nameOf(1), { ...file, xetHash: "cd".repeat(32) });
  await expect(loadNth(adapter, 1, bytes.length)).rejects.toMatchObject({ code: "DATA_CORRUPT" });
  const trusting = await openAdapter(hub, { verify_content: false });
  expect(bytes.equals((await loadNth(trusting, 1, bytes.length)) ?? Buffer.alloc(0))).toBe(true);
});

test("what the Hub said is believed for the time that was configured", async () => {
  const hub = await newHub();
  const writer = await openAdapter(hub);
  const reader = await openAdapter(hub, { metadata_cache_ttl_secs: 1000 });
  await storePatterns(writer, [1], SIZE);
  const lookup = async () =>
    (await reader.lookupAndLock([sized(1, SIZE), sized(2, SIZE)], never)).positions();
  expect([...(await lookup())]).toEqual([0]);
  hub.requests.length = 0;
  await storePatterns(writer, [2], SIZE);
  expect([...(await lookup())]).toEqual([0]); // "not there" is believed, too
  expect(await loadNth(reader, 1, SIZE)).toEqual(pattern(1, SIZE));
  expect(hub.requests.filter(({ kind }) => kind === "paths-info")).toHaveLength(1); // the writer's
  // It is there, as the writer has it: a store over it changes nothing.
  expect(await storePatterns(reader, [2], SIZE)).toBe(SIZE);
  expect(await loadNth(reader, 2, SIZE)).toEqual(pattern(2, SIZE));

  await writer.delete([key(1)], never);
  reader.unlock([key(1), key(1)]);
  expect(hub.buckets.files(BUCKET)?.has(nameOf(1))).toBe(false);
  hub.fault = ({ kind }) => (kind === "reconstruction" ? { answer: { status: 404 } } : null);
  expect(await loadNth(reader, 1, SIZE)).toBeNull(); // remembered, gone, asked again: a miss
  hub.fault = null;
  expect(await loadNth(reader, 2, SIZE)).toEqual(pattern(2, SIZE));
});

test("nothing is remembered with metadata_cache_ttl_secs 0", async () => {
  const hub = await newHub();
  const [one, other] = [await openAdapter(hub), await openAdapter(hub)];
  expect((await other.lookupAndLock([sized(1, SIZE)], never)).count()).toBe(0);
  await storePatterns(one, [1], SIZE);
  expect((await other.lookupAndLock([sized(1, SIZE)], never)).count()).toBe(1);
  other.unlock([key(1)]);
  await one.delete([key(1)], never);
  expect((await other.lookupAndLock([sized(1, SIZE)], never)).count()).toBe(0);
});

test("a bucket that is not there: refused with what to do, or made by the first store, once", async () => {
  const hub = await newHub();
  hub.clear();
  const plain = newAdapter(hub);
  await expect(plain.open(openContext())).rejects.toMatchObject({
    code: "BACKEND_REFUSED",
    message: expect.stringMatching(/404.*create the bucket, set create_bucket_if_missing/),
  });
  const adapter = await openAdapter(hub, { create_bucket_if_missing: true });
  expect((await adapter.lookupAndLock([sized(1, SIZE)], never)).count()).toBe(0);
  expect((await adapter.listKeys({ pageSize: 10 }, never)).entries).toEqual([]);
  expect((await adapter.delete([key(1)], never)).has(0)).toBe(true);
  expect(hub.count("create")).toBe(0);
  await Promise.all([1, 2, 3].map((n) => storePatterns(adapter, [n], SIZE)));
  expect(hub.count("create")).toBe(1);
  expect(await loadNth(adapter, 2, SIZE)).toEqual(pattern(2, SIZE));

  // Somebody removes it: the store that finds out fails, the next one makes it again.
  hub.clear();
  await expect(storePatterns(adapter, [4], SIZE)).rejects.toThrow(/404/);
  await storePatterns(adapter, [4], SIZE);
  expect(await loadNth(adapter, 4, SIZE)).toEqual(pattern(4, SIZE));
});

test("a bucket that others made first, or may make: the store goes on", async () => {
  const hub = await newHub();
  hub.clear();
  const adapter = await openAdapter(hub, { create_bucket_if_missing: true });
  hub.buckets.create(BUCKET);
  await storePatterns(adapter, [1], SIZE); // 409
  hub.clear();
  const other = await openAdapter(hub, { create_bucket_if_missing: true });
  hub.fault = ({ kind }) => (kind === "create" ? { answer: { status: 403 } } : null);
  await expect(storePatterns(other, [1], SIZE)).rejects.toMatchObject({ code: "BACKEND_REFUSED" });
  hub.buckets.create(BUCKET);
  await storePatterns(other, [1], SIZE);
  expect(hub.count("create")).toBe(2);
});

test("an object of another length is a miss, stays where it is, and gives way to a delete", async () => {
  const hub = await newHub();
  const adapter = await openAdapter(hub);
  await storePatterns(adapter, [1], SIZE);
  expect((await adapter.lookupAndLock([sized(1, SIZE + 1)], never)).count()).toBe(0);
  hub.requests.length = 0;
  expect(await loadNth(adapter, 1, SIZE + 1)).toBeNull();
  expect(hub.count("reconstruction")).toBe(0); // it is not even fetched
  const refused = await adapter.store([key(1), key(2)], [memory(SIZE + 1), memory(SIZE)], never);
  expect(refused.failed.get(0)).toMatchObject({
    code: "CONFLICT",
    details: { reason: "other-length" },
    message: expect.stringMatching(/4000 bytes instead of 4001 is there.*delete it first/),
  });
  expect(refused.stored.has(1)).toBe(true);
  expect(await loadNth(adapter, 1, SIZE)).toEqual(pattern(1, SIZE));
  expect(adapter.status()).toMatchObject({ length_mismatches: 2 });
  await adapter.delete([key(1)], never);
  await storePatterns(adapter, [1], SIZE + 1);
  expect(await loadNth(adapter, 1, SIZE + 1)).toEqual(pattern(1, SIZE + 1));
});

test("a store is refused for another length only if that is still there", async () => {
  const hub = await newHub();
  const [adapter, other] = [await openAdapter(hub, { metadata_cache_ttl_secs: 60 }), await openAdapter(hub)];
  await storePatterns(adapter, [1], SIZE);
  await other.delete([key(1)], never);
  await storePatterns(adapter, [1], SIZE + 1);
  expect(await loadNth(adapter, 1, SIZE + 1)).toEqual(pattern(1, SIZE + 1));
});

test("a file of 0 bytes is nothing, and none is stored", async () => {
  const hub = await newHub();
  const adapter = await openAdapter(hub);
  const result = await adapter.store([key(1)], [memory(0)], never);
  expect(result.failed.get(0)).toMatchObject({ code: "INVALID_ARGUMENT" });
  hub.buckets.files(BUCKET)?.set(nameOf(2), { size: 0, xetHash: "0".repeat(64), uploadedAt: "" });
  expect((await adapter.lookupAndLock([sized(2, 0)], never)).count()).toBe(0);
  expect((await adapter.listKeys({ pageSize: 10 }, never)).entries).toEqual([]);
});

test("a listing gives keys back, over pages of both sides, and leaves out what is not ours", async () => {
  const hub = await newHub();
  const adapter = await openAdapter(hub);
  const numbers = Array.from({ length: 25 }, (_, n) => n);
  await storePatterns(adapter, numbers, 100);
  const files = hub.buckets.files(BUCKET);
  const file = { size: 9, xetHash: "0".repeat(64), uploadedAt: "2026-01-02T03:04:05.000Z" };
  for (const path of ["README.md", "kv/prod/README.md", `kv/prod/deep/${nameOf(1)}`, "kv/other/x"])
    files?.set(path, file);
  const found = new Set<string>();
  let pageToken: string | undefined;
  do {
    const page = await adapter.listKeys(
      { pageSize: 7, ...(pageToken === undefined ? {} : { pageToken }) },
      never,
    );
    for (const { key: listed, size_bytes, modified_ms } of page.entries) {
      expect(size_bytes).toBe(100);
      expect(modified_ms).toBeGreaterThan(1.7e12);
      found.add(listed.chunk_hash_hex);
    }
    pageToken = page.nextPageToken ?? undefined;
  } while (pageToken !== undefined);
  expect([...found].sort()).toEqual(numbers.map((n) => Buffer.from(key(n).chunkHash).toString("hex")));
});

test("token_env wins over token on the wire, and a token on the command line is told", async () => {
  const hub = await newHub();
  vi.stubEnv("HF_TEST_TOKEN", TOKEN);
  const lines: LogLine[] = [];
  const words = process.argv;
  process.argv = [...words, '{"token":"hf_wrong"}'];
  const adapter = await openAdapter(hub, { token_env: "HF_TEST_TOKEN", token: "hf_wrong" }, lines);
  process.argv = words;
  vi.unstubAllEnvs();
  await storePatterns(adapter, [1], SIZE);
  expect(
    new Set(hub.requests.flatMap(({ headers }) => headers["authorization"] ?? [])).has("Bearer hf_wrong"),
  ).toBe(false);
  expect(lines.map(({ message }) => message).join()).toMatch(/token stands on the command line/);
  expect(JSON.stringify(lines)).not.toContain("hf_wrong");
});

test("capacity is kept, and usage follows stores and deletes", async () => {
  const hub = await newHub();
  const adapter = await openAdapter(hub, { max_capacity_gb: 10_000 / 1024 ** 3 });
  await storePatterns(adapter, [1, 2], SIZE);
  const third = await adapter.store([key(3)], [memory(SIZE)], never);
  expect(third.failed.get(0)).toMatchObject({ code: "BACKEND_FULL" });
  expect(adapter.usage()).toMatchObject({ totalBytesUsed: 2 * SIZE, capacityBytes: 10_000 });
  await adapter.delete([key(1)], never);
  await storePatterns(adapter, [3], SIZE);
  expect(adapter.usage().totalBytesUsed).toBe(2 * SIZE);
});

test("no thread before open, few while little is asked, none after close", async () => {
  const hub = await newHub();
  const adapter = newAdapter(hub, { num_workers: 3, metadata_cache_ttl_secs: 0 });
  expect(adapter.status()).toMatchObject({ threads: 0, reachable: false });
  await adapter.open(openContext());
  await adapter.lookupAndLock([sized(1, SIZE)], never);
  expect(adapter.status()).toMatchObject({ threads: 1 });
  await Promise.all(Array.from({ length: 8 }, (_, n) => storePatterns(adapter, [n], SIZE)));
  expect(adapter.status()).toMatchObject({ threads: 3, threads_started: 3 });
  await adapter.close();
  expect(adapter.status()).toMatchObject({ threads: 0 });
  const late = await adapter.load([sized(1, SIZE)], [memory(SIZE)], never).catch((error: unknown) => error);
  expect(isCacheError(late) && late.code).toBe("ADAPTER_CLOSED");
});

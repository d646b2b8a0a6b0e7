import { mkdir, readdir, readFile, stat, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { execFileSync } from "node:child_process";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { newTemporaryOwner } from "@cache/adapter-kit";
import { decodeObjectKey, keyString } from "@cache/contracts";
import { describe, expect, test } from "vitest";
import { type FsPort, nodeFsPort } from "../src/fs-port.ts";
import { decodeFileName, encodeFileName, temporaryPrefix } from "../src/names.ts";
import {
  key,
  loadOne,
  type LogLine,
  memory,
  never,
  openFs,
  pattern,
  scansCompleted,
  storeOne,
  temporaryDirectory,
  until,
} from "./fixtures.ts";

const vectors = fileURLToPath(new URL("./vectors/serde", import.meta.url));

describe("files that LMCache wrote", () => {
  test.each(["fs", "fsn"])("by its %s adapter load byte for byte", async (writer) => {
    const base = await temporaryDirectory();
    const names = await readdir(join(vectors, writer));
    for (const name of names) await writeFile(join(base, name), await readFile(join(vectors, writer, name)));
    const adapter = await openFs(base);
    for (const name of names) {
      const k = decodeFileName(name);
      if (k === null) throw new Error(`${name} is no object`);
      const bytes = await readFile(join(vectors, writer, name));
      expect(bytes.byteLength).toBe(420);
      expect(Buffer.compare((await loadOne(adapter, k, 420)) as Uint8Array, bytes)).toBe(0);
      expect(await storeOne(adapter, k, bytes)).toBe(0);
    }
    const { entries } = await adapter.listKeys({ pageSize: 10 }, never);
    expect(entries.map((entry) => encodeFileName(decodeObjectKey(entry.key))).sort()).toEqual(names.sort());
    expect(entries.every((entry) => entry.size_bytes === 420 && (entry.modified_ms ?? 0) > 1e12)).toBe(true);
  });

  test("are never taken for ours while they are being written", async () => {
    const base = await temporaryDirectory();
    const foreign = encodeFileName(key(1)).replace(/data$/, "tmp");
    await writeFile(join(base, foreign), "half");
    await utimes(join(base, foreign), 1, 1);
    const adapter = await openFs(base);
    await until(() => scansCompleted(adapter) === 1);
    expect(await readdir(base)).toEqual([foreign]);
    expect(adapter.status()["scan"]).toMatchObject({ foreign_files: 1, temporaries_removed: 0 });
  });
});

describe("an entry of another length", () => {
  test("is a miss, stays, is counted, and gives way only to a delete", async () => {
    const base = await temporaryDirectory();
    const adapter = await openFs(base);
    const file = join(base, encodeFileName(key(1)));
    await storeOne(adapter, key(1), pattern(1, 1000));
    await truncate(file, 500);
    const found = await adapter.lookupAndLock([{ key: key(1), byteLength: 1000 }], never);
    expect(found.has(0)).toBe(false);
    expect(await loadOne(adapter, key(1), 1000)).toBeNull();
    expect(adapter.status()["length_mismatches"]).toBe(2);
    await expect(storeOne(adapter, key(1), pattern(1, 1000))).rejects.toMatchObject({
      code: "CONFLICT",
      details: { reason: "other-length", foundBytes: 500, expectedBytes: 1000 },
    });
    expect((await readFile(file)).byteLength).toBe(500);
    expect((await adapter.delete([key(1)], never)).has(0)).toBe(true);
    expect(await storeOne(adapter, key(1), pattern(1, 1000))).toBe(1000);
    expect(adapter.usage().totalBytesUsed).toBe(1000);
    expect(adapter.status().isHealthy).toBe(true);
  });

  test("an empty file is no hit for an object with bytes", async () => {
    const base = await temporaryDirectory();
    await writeFile(join(base, encodeFileName(key(1))), "");
    const adapter = await openFs(base);
    expect((await adapter.lookupAndLock([{ key: key(1), byteLength: 10 }], never)).has(0)).toBe(false);
  });
});

test("links, pipes and directories under an object's name are no objects and do not hang", async () => {
  const base = await temporaryDirectory();
  const adapter = await openFs(base);
  await writeFile(join(base, "secret"), pattern(1, 100));
  await symlink("secret", join(base, encodeFileName(key(1))));
  execFileSync("mkfifo", [join(base, encodeFileName(key(2)))]);
  await mkdir(join(base, encodeFileName(key(3))));
  const { size: directoryBytes } = await stat(join(base, encodeFileName(key(3))));
  for (const [n, byteLength] of [
    [1, 100],
    [2, 0],
    [3, directoryBytes],
  ] as const) {
    expect((await adapter.lookupAndLock([{ key: key(n), byteLength }], never)).has(0)).toBe(false);
    expect(await loadOne(adapter, key(n), byteLength)).toBeNull();
    await expect(storeOne(adapter, key(n), pattern(n, byteLength))).rejects.toMatchObject({
      code: "CONFLICT",
    });
  }
  expect((await adapter.listKeys({ pageSize: 10 }, never)).entries).toEqual([]);
});

test("keys that can have no file are refused by store and missing for everything else", async () => {
  const adapter = await openFs(await temporaryDirectory());
  const k = key(1, { modelName: "a-SEP-b" });
  await expect(storeOne(adapter, k, pattern(1, 10))).rejects.toMatchObject({ code: "AMBIGUOUS_NAME" });
  await storeOne(adapter, key(1, { modelName: "a/b" }), pattern(1, 10));
  expect((await adapter.lookupAndLock([{ key: k, byteLength: 10 }], never)).has(0)).toBe(false);
  expect(await loadOne(adapter, k, 10)).toBeNull();
  expect((await adapter.delete([k], never)).has(0)).toBe(true);
  await adapter.quarantine([k], "test", never);
  adapter.unlock([k]);
  await expect(adapter.listKeys({ pageSize: 1, modelName: "a-SEP-b" }, never)).rejects.toMatchObject({
    code: "AMBIGUOUS_NAME",
  });
  expect(await loadOne(adapter, key(1, { modelName: "a/b" }), 10)).not.toBeNull();
});

test("a store tells the bytes of all its objects, written side by side", async () => {
  const adapter = await openFs(await temporaryDirectory());
  const keys = Array.from({ length: 10 }, (_, n) => key(n));
  const objects = keys.map((_, n) => memory(pattern(n, 100 + n)));
  expect((await adapter.store(keys, objects, never)).bytesTransferred).toBe(1045);
  expect((await adapter.store(keys, objects, never)).bytesTransferred).toBe(0);
});

test("quarantine moves the file away, with the reason in the log", async () => {
  const base = await temporaryDirectory();
  const lines: LogLine[] = [];
  const adapter = await openFs(base, {}, undefined, lines);
  const long = key(2, { cacheSalt: "s".repeat(128) });
  for (const k of [key(1), long]) await storeOne(adapter, k, pattern(1, 64));
  await adapter.quarantine([key(1), long, key(3)], "digest differs", never);
  const kept = await readdir(join(base, ".quarantine"));
  expect(kept).toHaveLength(2);
  expect(kept.some((name) => name.endsWith(encodeFileName(key(1))))).toBe(true);
  for (const name of kept) expect((await readFile(join(base, ".quarantine", name))).byteLength).toBe(64);
  expect(lines.filter((line) => JSON.stringify(line).includes("digest differs"))).toHaveLength(3);
  expect(adapter.usage().totalBytesUsed).toBe(0);
});

describe("capacity", () => {
  test("a store beyond it fails with BACKEND_FULL until something is deleted", async () => {
    const adapter = await openFs(await temporaryDirectory(), { max_capacity_gb: 1000 / 1024 ** 3 });
    await storeOne(adapter, key(1), pattern(1, 600));
    await expect(storeOne(adapter, key(2), pattern(2, 600))).rejects.toMatchObject({
      code: "BACKEND_FULL",
      details: { usedBytes: 600, capacityBytes: 1000 },
    });
    const both = await adapter.store([key(3), key(4)], [memory(300), memory(300)], never);
    expect(both.stored.count()).toBe(1);
    await adapter.delete([key(1)], never);
    expect(await storeOne(adapter, key(2), pattern(2, 600))).toBe(600);
  });

  test("what an earlier process or another node stored counts once the scan has seen it", async () => {
    const base = await temporaryDirectory();
    const first = await openFs(base);
    await storeOne(first, key(1), pattern(1, 600));
    const second = await openFs(base, { max_capacity_gb: 1000 / 1024 ** 3 });
    await until(() => scansCompleted(second) === 1);
    expect(second.status()["tier_size_bytes"]).toBe(600);
    expect(second.usage().totalBytesUsed).toBe(0);
    await expect(storeOne(second, key(2), pattern(2, 600))).rejects.toMatchObject({ code: "BACKEND_FULL" });
    await second.delete([key(1)], never);
    expect(await storeOne(second, key(2), pattern(2, 600))).toBe(600);
  });
});

test("the scan removes dead temporaries of ours in both places, and no others", async () => {
  const base = await temporaryDirectory();
  await mkdir(join(base, "tmp"));
  const { hostToken } = await newTemporaryOwner();
  const owner = { hostToken, pid: 0x7fffffff, openToken: "00000001" };
  const dead = `${temporaryPrefix("fs", owner)}0.tmp`;
  const alive = `${temporaryPrefix("fs", { ...owner, pid: process.ppid })}0.tmp`;
  const reusedPid = `${temporaryPrefix("fs", { ...owner, pid: process.pid })}0.tmp`;
  const elsewhere = `${temporaryPrefix("fs", { ...owner, hostToken: "ffffffff" })}0.tmp`;
  const elsewhereOld = `${temporaryPrefix("fs", { ...owner, hostToken: "ffffffff" })}1.tmp`;
  for (const name of [dead, alive, reusedPid, elsewhere, elsewhereOld, `tmp/${dead}`, "other.tmp"]) {
    await writeFile(join(base, name), "part");
  }
  await utimes(join(base, elsewhereOld), 1, Date.now() / 1000 - 3700);
  const adapter = await openFs(base, { relative_tmp_dir: "tmp" });
  await until(() => scansCompleted(adapter) === 1);
  expect((await readdir(base)).sort()).toEqual([alive, elsewhere, "other.tmp", "tmp"].sort());
  expect(await readdir(join(base, "tmp"))).toEqual([]);
  expect(adapter.status()["scan"]).toMatchObject({ temporaries_removed: 4, last_error: null });
});

test("the scan spares the temporaries of adapters that are open in this process", async () => {
  const base = await temporaryDirectory();
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  const port: FsPort = {
    ...nodeFsPort,
    write: async (...args) => held.then(() => nodeFsPort.write(...args)),
  };
  const slow = await openFs(base, {}, port);
  const storing = storeOne(slow, key(1), pattern(1, 10));
  await until(async () => (await readdir(base)).some((name) => name.endsWith(".tmp")));
  const other = await openFs(base);
  await until(() => scansCompleted(other) === 1);
  release();
  expect(await storing).toBe(10);
});

describe("listing", () => {
  test("goes on from a token after a restart, and lists once what was there throughout", async () => {
    const base = await temporaryDirectory();
    let adapter = await openFs(base);
    const keys = Array.from({ length: 60 }, (_, n) => key(n * 7919));
    await adapter.store(
      keys,
      keys.map(() => memory(5)),
      never,
    );
    const listed: string[] = [];
    let pageToken: string | undefined;
    for (let pages = 0; ; pages++) {
      const page = await adapter.listKeys({ pageSize: 7, pageToken }, never);
      for (const entry of page.entries) listed.push(keyString(decodeObjectKey(entry.key)));
      if (page.nextPageToken === null) break;
      pageToken = page.nextPageToken;
      await storeOne(adapter, key(pages + 1), pattern(1, 5));
      await adapter.delete([key(pages + 1)], never);
      if (pages === 3) {
        await adapter.close();
        adapter = await openFs(base);
      }
    }
    expect(new Set(listed).size).toBe(listed.length);
    for (const k of keys) expect(listed).toContain(keyString(k));
  });

  test("ends early among files that are no objects", async () => {
    const base = await temporaryDirectory();
    for (let n = 0; n < 10; n++) await writeFile(join(base, `foreign-${n}`), "");
    const adapter = await openFs(base);
    const abort = new AbortController();
    const listing = adapter.listKeys({ pageSize: 10 }, abort.signal);
    abort.abort();
    await expect(listing).rejects.toMatchObject({ code: "ABORTED" });
  });

  test("refuses a foreign token, and ends early when aborted", async () => {
    const adapter = await openFs(await temporaryDirectory());
    for (const pageToken of ["x", "", Buffer.from("2:a").toString("base64url")]) {
      await expect(adapter.listKeys({ pageSize: 1, pageToken }, never)).rejects.toMatchObject({
        code: "INVALID_ARGUMENT",
      });
    }
    await expect(adapter.listKeys({ pageSize: 1 }, AbortSignal.abort())).rejects.toMatchObject({
      code: "ABORTED",
    });
  });
});

test("O_DIRECT falls back for a buffer or length that is not aligned, and says so once", async () => {
  const base = await temporaryDirectory();
  const lines: LogLine[] = [];
  const flagsSeen = new Set<string>();
  const { O_DIRECT } = (await import("node:fs")).constants;
  const port: FsPort = {
    ...nodeFsPort,
    open: (path, flags, mode) => {
      const direct = (flags & (O_DIRECT ?? 0)) !== 0;
      flagsSeen.add(
        `${basename(path).endsWith(".tmp") ? "write" : "read"} ${direct ? "direct" : "buffered"}`,
      );
      if (direct) return Promise.reject(Object.assign(new Error("EINVAL"), { code: "EINVAL" }));
      return nodeFsPort.open(path, flags, mode);
    },
  };
  const adapter = await openFs(base, { use_odirect: true }, port, lines);
  const { bsize } = await nodeFsPort.statfs(base);
  for (const [n, byteLength] of [
    [1, bsize],
    [2, bsize * 3],
    [3, 100],
  ] as const) {
    await storeOne(adapter, key(n), pattern(n, byteLength));
    expect(await loadOne(adapter, key(n), byteLength)).toEqual(pattern(n, byteLength));
  }
  expect([...flagsSeen].sort()).toEqual(["read buffered", "read direct", "write buffered", "write direct"]);
  expect(adapter.status()["odirect_fallbacks"]).toBe(4);
  expect(lines.filter((line) => line.message.includes("O_DIRECT"))).toHaveLength(1);
});

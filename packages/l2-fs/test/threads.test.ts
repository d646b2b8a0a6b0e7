import { execFile } from "node:child_process";
import { truncateSync } from "node:fs";
import { readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { L1MemoryDesc } from "@cache/contracts";
import { describe, expect, test, vi } from "vitest";
import type { FileJob, FileSettings } from "../src/file-job.ts";
import { FileJobs } from "../src/file-jobs.ts";
import { FileThreads } from "../src/file-threads.ts";
import { nodeFsPort } from "../src/fs-port.ts";
import { bindLibC, type LibC } from "../src/libc.ts";
import { encodeFileName } from "../src/names.ts";
import { FileOperations } from "../src/operations.ts";
import { Stop } from "../src/stop.ts";
import { ThreadFiles } from "../src/thread-files.ts";
import {
  after,
  anonymousL1,
  canMount,
  cutter,
  key,
  type LogLine,
  memoryOf,
  never,
  openContext,
  openFs,
  pattern,
  temporaryDirectory,
  threadsReady,
  until,
} from "./fixtures.ts";

const MIB = 2 ** 20;

function settingsFor(basePath: string, more: Partial<FileSettings> = {}): FileSettings {
  return {
    basePath,
    temporaryPath: basePath,
    temporaryPrefix: ".cache-engine.fs.00000000.1.00000000.",
    fileMode: 0o600,
    fsync: "none",
    readAheadBytes: null,
    useDirect: false,
    blockBytes: 4096,
    ...more,
  };
}

describe("threads", () => {
  test("store, find and load objects of all sizes byte for byte, straight from and into L1", async () => {
    const l1 = await anonymousL1(64 * MIB);
    const cut = cutter(l1);
    const base = await temporaryDirectory();
    const adapter = await openFs(base, { num_workers: 2 }, undefined, [], l1);
    expect(adapter.status()["threads"]).toMatchObject({ ready: 0, starting: 0 });
    await threadsReady(adapter, 2);
    const jobs = vi.spyOn(FileThreads.prototype, "run");
    after(async () => jobs.mockRestore());

    const sizes = [0, 1, 4095, 4096, 65_536, 65_537, MIB, 5 * MIB + 3];
    const bytes = Array.from({ length: 40 }, (_, n) => pattern(n, sizes[n % sizes.length] ?? 0));
    const keys = bytes.map((_, n) => key(n));
    const stored = await adapter.store(keys, bytes.map(cut), never);
    expect(stored.failed.size).toBe(0);
    expect(stored.bytesTransferred).toBe(bytes.reduce((sum, { byteLength }) => sum + byteLength, 0));
    for (const [n, k] of keys.entries()) {
      expect(Buffer.compare(await readFile(join(base, encodeFileName(k))), bytes[n] as Uint8Array)).toBe(0);
    }
    const requests = bytes.map(({ byteLength }, n) => ({ key: key(n), byteLength }));
    expect((await adapter.lookupAndLock(requests, never)).count()).toBe(40);
    adapter.unlock(keys);
    memoryOf(l1).fill(0);
    const again = cutter(l1);
    const into = bytes.map(({ byteLength }) => again(byteLength));
    expect((await adapter.load(requests, into, never)).count()).toBe(40);
    for (const [n, object] of into.entries())
      expect(Buffer.compare(object.bytes, bytes[n] as Uint8Array)).toBe(0);
    const replies = await Promise.all(jobs.mock.results.map(({ value }) => value as unknown));
    expect(replies.length).toBeGreaterThan(10);
    expect(replies).not.toContain("refused");
    expect(adapter.status()["threads"]).toEqual({ ready: 2, starting: 0, ended_unasked: 0 });
  });

  test("a file that is cut under its name is a miss, links and absent ones too, and the rest arrives", async () => {
    const l1 = await anonymousL1(4 * MIB);
    const cut = cutter(l1);
    const base = await temporaryDirectory();
    const adapter = await openFs(base, { num_workers: 1 }, undefined, [], l1);
    await threadsReady(adapter, 1);
    const keys = [1, 2, 3].map((n) => key(n));
    await adapter.store(
      keys,
      [1, 2, 3].map((n) => cut(pattern(n, 50_000))),
      never,
    );
    await truncate(join(base, encodeFileName(key(2))), 40_000);
    const requests = [1, 2, 3, 4].map((n) => ({ key: key(n), byteLength: 50_000 }));
    expect([...(await adapter.lookupAndLock(requests, never)).positions()]).toEqual([0, 2]);
    const loaded = await adapter.load(
      requests,
      requests.map(() => cut(50_000)),
      never,
    );
    expect([...loaded.positions()]).toEqual([0, 2]);
    expect(adapter.status()["length_mismatches"]).toBe(2);
  });

  test("objects outside L1 go without threads", async () => {
    const l1 = await anonymousL1(MIB);
    const adapter = await openFs(await temporaryDirectory(), { num_workers: 1 }, undefined, [], l1);
    await threadsReady(adapter, 1);
    const bytes = pattern(1, 70_000);
    await adapter.store([key(1)], [{ bytes, poolOffset: 0 }], never); // an offset that is not true
    const into = { bytes: new Uint8Array(70_000), poolOffset: null };
    expect((await adapter.load([{ key: key(1), byteLength: 70_000 }], [into], never)).has(0)).toBe(true);
    expect(Buffer.compare(into.bytes, bytes)).toBe(0);
  });

  test("without koffi there are none, and everything works", async () => {
    const l1 = await anonymousL1(MIB, false);
    expect(l1.ptr).toBeNull();
    const cut = cutter(l1);
    const adapter = await openFs(await temporaryDirectory(), {}, undefined, [], l1);
    await adapter.store([key(1)], [cut(pattern(1, 70_000))], never);
    const into = cut(70_000);
    expect((await adapter.load([{ key: key(1), byteLength: 70_000 }], [into], never)).has(0)).toBe(true);
    expect(Buffer.compare(into.bytes, pattern(1, 70_000))).toBe(0);
    expect(adapter.status()["threads"]).toBeNull();
  });

  test("close settles what is under way, and nothing reads the memory afterwards", async () => {
    const l1 = await anonymousL1(64 * MIB);
    const cut = cutter(l1);
    const base = await temporaryDirectory();
    const adapter = await openFs(base, { num_workers: 2 }, undefined, [], l1);
    await threadsReady(adapter, 2);
    const objects = Array.from({ length: 60 }, (_, n) => cut(pattern(n, MIB)));
    const storing = adapter.store(
      objects.map((_, n) => key(n)),
      objects,
      never,
    );
    await until(async () => (await readdir(base)).length > 0);
    await adapter.close();
    const { stored, failed } = await Promise.race([
      storing,
      Promise.reject(new Error("close settled first")),
    ]);
    memoryOf(l1).fill(0xee);
    expect(stored.count() + failed.size).toBe(60);
    expect(failed.size).toBeGreaterThan(0);
    for (const error of failed.values()) expect(error.code).toBe("ABORTED");
    const names = await readdir(base);
    expect(names.sort()).toEqual([...stored.positions()].map((n) => encodeFileName(key(n))).sort());
    for (const n of stored.positions()) {
      expect(Buffer.compare(await readFile(join(base, encodeFileName(key(n)))), pattern(n, MIB))).toBe(0);
    }
  });

  test.skipIf(!canMount)("a full disk is BACKEND_FULL for what has no room, and leaves no part", async () => {
    const base = await temporaryDirectory();
    await promisify(execFile)("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", base]);
    after(() => promisify(execFile)("umount", ["-l", base]));
    const l1 = await anonymousL1(4 * MIB);
    const cut = cutter(l1);
    const adapter = await openFs(base, { num_workers: 1 }, undefined, [], l1);
    await threadsReady(adapter, 1);
    const objects = [1, 2, 3, 4].map((n) => cut(pattern(n, 400_000)));
    const { stored, failed } = await adapter.store(
      [1, 2, 3, 4].map((n) => key(n)),
      objects,
      never,
    );
    expect([...stored.positions()]).toEqual([0, 1]);
    expect([...failed.values()].map(({ code }) => code)).toEqual(["BACKEND_FULL", "BACKEND_FULL"]);
    expect(await readdir(base)).toHaveLength(2);
    expect(adapter.usage().totalBytesUsed).toBe(800_000);
  });
});

/** Jobs by threads that run one of the test's modules. */
function jobsWith(
  entry: string,
  basePath: string,
  l1: L1MemoryDesc,
  lines: LogLine[] = [],
  count = 1,
): { threads: FileThreads; jobs: FileJobs } {
  const settings = settingsFor(basePath);
  const { log } = openContext(lines);
  const threads = new FileThreads({
    settings,
    l1,
    count,
    log,
    entry: new URL(`./children/${entry}.mjs`, import.meta.url),
  });
  after(() => threads.close());
  const port = nodeFsPort;
  const jobs = new FileJobs({
    port,
    settings,
    l1Address: l1.ptr,
    threads,
    operations: new FileOperations(),
    log,
  });
  return { threads, jobs };
}

describe("a thread that", () => {
  test("ends in the middle of a job: the job is done without it, nothing half stays", async () => {
    const l1 = await anonymousL1(MIB);
    const cut = cutter(l1);
    const base = await temporaryDirectory();
    for (const kind of ["write", "look", "read"] as const) {
      const lines: LogLine[] = [];
      const { threads, jobs } = jobsWith("thread-that-dies", base, l1, lines);
      threads.start();
      await until(() => threads.isReady);
      const names = ["a", "b", "c"];
      const objects = names.map((_, n) => (kind === "read" ? cut(30_000) : cut(pattern(n, 30_000))));
      const outcomes = await jobs.run(kind, names, kind === "look" ? [] : objects, new Stop());
      expect(outcomes).toEqual(names.map(() => (kind === "look" ? 30_000 : "whole")));
      expect((await readdir(base)).sort()).toEqual(names);
      for (const [n, { bytes }] of objects.entries())
        expect(Buffer.compare(bytes, pattern(n, 30_000))).toBe(0);
      expect(threads.status()).toEqual({ ready: 0, starting: 0, ended_unasked: 1 });
      expect(lines).toMatchObject([{ level: "warn", message: expect.stringContaining("ended") }]);
      threads.start(); // not again at once
      expect(threads.status()["starting"]).toBe(0);
    }
  });

  test("cannot start is done without, with a warning that says why", async () => {
    const l1 = await anonymousL1(MIB);
    const lines: LogLine[] = [];
    const { threads, jobs } = jobsWith("thread-that-cannot-start", await temporaryDirectory(), l1, lines);
    expect(await jobs.run("look", ["a"], [], new Stop())).toEqual(["absent"]);
    await until(() => threads.status()["ended_unasked"] === 1);
    expect(JSON.stringify(lines)).toContain("Cannot find module 'koffi'");
    expect(await jobs.run("look", ["a"], [], new Stop())).toEqual(["absent"]);
  });

  test("is closed while it starts: it ends once its libraries are loaded", { timeout: 60_000 }, async () => {
    // In a process of its own: ending a thread while koffi is loaded there would abort this one.
    const child = fileURLToPath(new URL("./children/close-while-starting.mjs", import.meta.url));
    const { stdout } = await promisify(execFile)(process.execPath, [child]);
    expect(stdout).toBe("0 0\n".repeat(40));
  });

  test("hangs: its job does not settle before it ends, those that wait settle when they are stopped", async () => {
    const l1 = await anonymousL1(MIB);
    const cut = cutter(l1);
    const base = await temporaryDirectory();
    const { threads, jobs } = jobsWith("thread-that-hangs", base, l1);
    threads.start();
    await until(() => threads.isReady);
    const settled: string[] = [];
    const stops = { held: new Stop(), waits: new Stop() };
    const held = jobs.run("read", ["a"], [cut(10)], stops.held).then(() => settled.push("held"));
    const waits = jobs.run("read", ["b"], [cut(10)], stops.waits).then((outcomes) => {
      settled.push("waits");
      expect(outcomes).toEqual(["stopped"]);
    });
    stops.held.set();
    stops.waits.set();
    await waits;
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(settled).toEqual(["waits"]);
    await writeFile(join(base, "release"), "");
    await held;
    expect(settled).toEqual(["waits", "held"]);
  });
});

/** Calls of which the n-th since `arm` fails; short reads and writes all the time. */
function faultyLibC(): { libc: LibC; calls: string[]; arm(failAt: number, errno: string): void } {
  const real = bindLibC();
  const calls: string[] = [];
  let failAt = -1;
  let errno = "";
  const libc = Object.fromEntries(
    Object.entries(real).map(([name, call]) => [
      name,
      (...args: unknown[]): unknown => {
        if (failAt >= 0) {
          calls.push(name);
          if (calls.length - 1 === failAt)
            throw Object.assign(new Error(`${errno}: injected`), { code: errno });
        }
        return (call as (...given: unknown[]) => unknown)(...args);
      },
    ]),
  ) as unknown as LibC;
  const { pread, pwrite } = libc;
  libc.pread = (fd, address, length, position) => pread(fd, address, Math.min(length, 70_001), position);
  libc.pwrite = (fd, address, length, position) => pwrite(fd, address, Math.min(length, 70_001), position);
  const arm = (at: number, code: string): void => {
    failAt = at;
    errno = code;
    calls.length = 0;
  };
  return { libc, calls, arm };
}

describe("the calls of a thread", () => {
  const BYTES = 300_000;
  const stop = new Int32Array(1);

  async function filesOf(more: Partial<FileSettings> = {}) {
    const base = await temporaryDirectory();
    const faulty = faultyLibC();
    const l1 = await anonymousL1(MIB);
    const [source, into] = [0, 500_000].map((at) => ({
      bytes: memoryOf(l1).subarray(at, at + BYTES),
      places: Float64Array.of(Number(l1.ptr) + at, BYTES),
    })) as [{ bytes: Uint8Array; places: Float64Array }, { bytes: Uint8Array; places: Float64Array }];
    const files = new ThreadFiles(faulty.libc, settingsFor(base, more));
    const run = (kind: FileJob["kind"], places: Float64Array) =>
      files.run({ kind, names: ["a"], places, firstTemporary: 0, stop })[0];
    return { base, faulty, files, source, into, run };
  }

  test.each(["ENOSPC", "EIO"])(
    "a write with %s at each in turn leaves the whole object or nothing",
    async (errno) => {
      const { base, faulty, source, into, run } = await filesOf({ fsync: "full", fileMode: 0o640 });
      source.bytes.set(pattern(1, BYTES));
      const seen = new Set<string>();
      for (let failAt = 0, done = false; !done; failAt++) {
        faulty.arm(failAt, errno);
        const outcome = run("write", source.places);
        const failedCall = faulty.calls[failAt];
        seen.add(failedCall ?? "none");
        faulty.arm(-1, "");
        const names = await readdir(base);
        if (outcome === "whole") {
          expect(names).toEqual(["a"]);
          expect([undefined, "close"]).toContain(failedCall); // the directory's, after its sync
          expect(run("read", into.places)).toBe("whole");
          expect(Buffer.compare(into.bytes, source.bytes)).toBe(0);
          done = failedCall === undefined;
        } else {
          expect(outcome).toMatchObject({ code: errno });
          if (names.length > 0) {
            expect(names).toEqual(["a"]); // renamed; the directory could not be synced
            expect(run("read", into.places)).toBe("whole");
          }
        }
        for (const name of names) await nodeFsPort.unlink(join(base, name));
      }
      expect([...seen].sort()).toEqual(
        ["close", "fchmod", "fdatasync", "fsync", "none", "open", "pwrite", "rename"].sort(),
      );
    },
  );

  test("a read with EIO at each in turn gives the object or the error, never a part", async () => {
    const { faulty, source, into, run } = await filesOf({ readAheadBytes: 100 });
    source.bytes.set(pattern(2, BYTES));
    expect(run("write", source.places)).toBe("whole");
    const outcomes: unknown[] = [];
    for (let failAt = 0; outcomes.length === 0 || faulty.calls.length > failAt - 1; failAt++) {
      into.bytes.fill(0);
      faulty.arm(failAt, "EIO");
      const outcome = run("read", into.places);
      if (outcome === "whole") expect(Buffer.compare(into.bytes, source.bytes)).toBe(0);
      outcomes.push(outcome);
    }
    // open, fstat, six reads, fstat; then the close, which changes nothing, and no failure
    expect(outcomes.slice(0, 9)).toEqual(
      Array.from({ length: 9 }, () => ({ code: "EIO", message: "EIO: injected" })),
    );
    expect(outcomes.slice(9)).toEqual(["whole", "whole"]);
  });

  test("a file that shrinks or is written to under the read is a miss", async () => {
    const { base, faulty, source, into, run } = await filesOf();
    source.bytes.set(pattern(3, BYTES));
    const { pread } = faulty.libc;
    for (const disturb of [
      () => truncateSync(join(base, "a"), 50_000),
      () => {
        truncateSync(join(base, "a"), 0);
        truncateSync(join(base, "a"), BYTES); // zeros of the same length
      },
    ]) {
      expect(run("write", source.places)).toBe("whole");
      let left = 2;
      faulty.libc.pread = (...args) => {
        if (--left === 0) disturb();
        return pread(...args);
      };
      expect(run("read", into.places)).toBe("shrank");
      faulty.libc.pread = pread;
    }
  });

  test("a stop between two writes leaves nothing", async () => {
    const { base, faulty, source, files } = await filesOf();
    const cell = new Int32Array(1);
    const { pwrite } = faulty.libc;
    faulty.libc.pwrite = (...args) => {
      cell[0] = 1;
      return pwrite(...args);
    };
    const job = { kind: "write", names: ["a", "b"], firstTemporary: 0, stop: cell } as const;
    expect(files.run({ ...job, places: Float64Array.of(...source.places, ...source.places) })).toEqual([
      "stopped",
      "stopped",
    ]);
    expect(await readdir(base)).toEqual([]);
  });

  test("O_DIRECT is tried where length and address are multiples of the block, and given up where refused", async () => {
    const { base, faulty, source, into, run, files } = await filesOf({ useDirect: true });
    const { O_DIRECT } = (await import("node:fs")).constants;
    const { open } = faulty.libc;
    const direct: boolean[] = [];
    faulty.libc.open = (path, flags, mode) => {
      direct.push((flags & O_DIRECT) !== 0);
      if ((flags & O_DIRECT) !== 0) throw Object.assign(new Error("EINVAL"), { code: "EINVAL" });
      return open(path, flags, mode);
    };
    expect(run("write", source.places)).toBe("whole"); // 300,000 is no multiple
    expect(direct).toEqual([false]);
    await nodeFsPort.unlink(join(base, "a"));
    const pages = (places: Float64Array): Float64Array => Float64Array.of(places[0] ?? 0, 8192);
    expect(run("write", pages(source.places))).toBe("whole");
    const unaligned = Float64Array.of((into.places[0] ?? 0) + 1, 8192);
    expect(run("read", unaligned)).toBe("whole");
    expect(direct).toEqual([false, true, false, false]);
    expect(files.directFallbacks).toBe(1);
  });
});

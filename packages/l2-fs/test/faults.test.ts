import { readdir, readFile, truncate } from "node:fs/promises";
import { join } from "node:path";
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { type FsPort, nodeFsPort } from "../src/fs-port.ts";
import { encodeFileName } from "../src/names.ts";
import {
  after,
  canMount,
  key,
  loadOne,
  memory,
  never,
  openFs,
  pattern,
  storeOne,
  temporaryDirectory,
} from "./fixtures.ts";

const run = promisify(execFile);
const BYTES = 300_000;

/** A port that counts the calls since `arm` and lets the n-th fail; short reads and writes all the time. */
function faultyPort(): { port: FsPort; calls: string[]; arm(failAt: number, errno: string): void } {
  const calls: string[] = [];
  let failAt = -1;
  let errno = "";
  const faulty =
    (name: string, call: (...args: never[]) => Promise<unknown>) =>
    async (...args: never[]): Promise<unknown> => {
      if (failAt >= 0) {
        calls.push(name);
        if (calls.length - 1 === failAt)
          throw Object.assign(new Error(`${errno}: injected`), { code: errno });
      }
      return call(...args);
    };
  const port = Object.fromEntries(
    Object.entries(nodeFsPort).map(([name, call]) => [
      name,
      name === "statfs" || name === "opendir"
        ? call
        : faulty(name, call as (...args: never[]) => Promise<unknown>),
    ]),
  ) as unknown as FsPort;
  const { read, write } = port;
  port.read = (fd, into, position) => read(fd, into.subarray(0, 70_001), position);
  port.write = (fd, from, position) => write(fd, from.subarray(0, 70_001), position);
  return {
    port,
    calls,
    arm(at, code) {
      failAt = at;
      errno = code;
      calls.length = 0;
    },
  };
}

async function filesIn(path: string): Promise<string[]> {
  return (await readdir(path)).filter((name) => !name.startsWith(".quarantine"));
}

const EXPECTED: Record<string, string> = {
  ENOSPC: "BACKEND_FULL",
  EDQUOT: "BACKEND_FULL",
  EACCES: "BACKEND_REFUSED",
  EROFS: "BACKEND_REFUSED",
  EIO: "BACKEND_UNAVAILABLE",
  EMFILE: "BACKEND_UNAVAILABLE",
};

describe("a store that fails", () => {
  test.each(Object.keys(EXPECTED))("with %s at each call in turn leaves nothing half", async (errno) => {
    const base = await temporaryDirectory();
    const { port, calls, arm } = faultyPort();
    const adapter = await openFs(base, { fsync: "full", file_mode: "0640" }, port);
    let acknowledged = false;
    for (let failAt = 0; !acknowledged; failAt++) {
      const k = key(failAt);
      const bytes = pattern(failAt, BYTES);
      arm(failAt, errno);
      const outcome = await adapter.store([k], [memory(bytes)], never).then(
        (result) => result.failed.get(0) ?? null,
        (error: unknown) => error as { code: string; message: string },
      );
      acknowledged = calls.length <= failAt || outcome === null;
      const failedCall = calls[failAt];
      arm(-1, "");
      const there = await loadOne(adapter, k, BYTES);
      if (there !== null) expect(Buffer.compare(there, bytes)).toBe(0);
      expect((await filesIn(base)).filter((name) => name.endsWith(".tmp"))).toEqual([]);
      if (outcome === null) {
        expect(there).not.toBeNull();
        // A close after the directory's sync is the one call whose failure changes nothing.
        if (failedCall !== undefined) expect(failedCall).toBe("close");
      } else {
        expect(outcome.code).toBe(EXPECTED[errno]);
        expect(outcome.message).toContain(base);
        expect(outcome.message).toContain(";");
      }
    }
    // lstat, open, fchmod, five writes, fdatasync, close, rename, open and fsync of the directory, close
    expect(calls.length).toBe(0);
    expect(adapter.status()["errors"]).toMatchObject({ [EXPECTED[errno] ?? ""]: expect.any(Number) });
  });

  test("unlinks its temporary when it is aborted between writes", async () => {
    const base = await temporaryDirectory();
    const controller = new AbortController();
    const port: FsPort = {
      ...nodeFsPort,
      write: async (fd, from, position) => {
        const count = await nodeFsPort.write(fd, from.subarray(0, 1000), position);
        controller.abort();
        return count;
      },
    };
    const adapter = await openFs(base, {}, port);
    const result = await adapter.store([key(1)], [memory(pattern(1, 5000))], controller.signal);
    expect(result.failed.get(0)?.code).toBe("ABORTED");
    expect(await readdir(base)).toEqual([]);
    expect(adapter.usage().totalBytesUsed).toBe(0);
  });

  test.skipIf(!canMount)(
    "fails with BACKEND_FULL on a disk that is full, and goes on when there is room",
    async () => {
      const base = await temporaryDirectory();
      await run("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", base]);
      after(() => run("umount", ["-l", base]));
      const adapter = await openFs(base);
      const bytes = pattern(1, 400_000);
      await storeOne(adapter, key(1), bytes);
      await storeOne(adapter, key(2), bytes);
      await expect(storeOne(adapter, key(3), bytes)).rejects.toMatchObject({ code: "BACKEND_FULL" });
      expect(await filesIn(base)).toHaveLength(2);
      expect(await loadOne(adapter, key(3), 400_000)).toBeNull();
      await adapter.delete([key(1)], never);
      expect(await storeOne(adapter, key(3), bytes)).toBe(400_000);
      expect(Buffer.compare((await loadOne(adapter, key(3), 400_000)) as Uint8Array, bytes)).toBe(0);
      expect(adapter.status().isHealthy).toBe(true);
    },
  );

  test.skipIf(!canMount)("does not write to what is left when the filesystem was unmounted", async () => {
    const base = await temporaryDirectory();
    await run("mount", ["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", base]);
    const adapter = await openFs(base);
    await storeOne(adapter, key(1), pattern(1, 10));
    await run("umount", ["-l", base]);
    const request = [{ key: key(1), byteLength: 10 }];
    await expect(storeOne(adapter, key(2), pattern(2, 10))).rejects.toMatchObject({
      code: "BACKEND_UNAVAILABLE",
    });
    await expect(adapter.lookupAndLock(request, never)).rejects.toMatchObject({
      code: "BACKEND_UNAVAILABLE",
    });
    await expect(adapter.load(request, [memory(10)], never)).rejects.toMatchObject({
      code: "BACKEND_UNAVAILABLE",
    });
    expect(await readdir(base)).toEqual([]);
    await expect(storeOne(adapter, key(3), pattern(2, 10))).rejects.toThrow(/another filesystem/);
    expect(adapter.status().isHealthy).toBe(false);
  });
});

test("when another filesystem is there, nothing is deleted, quarantined or listed", async () => {
  const base = await temporaryDirectory();
  let device = 0;
  const port: FsPort = {
    ...nodeFsPort,
    stat: async (path) => {
      const found = await nodeFsPort.stat(path);
      return found === null ? null : Object.assign(found, { dev: found.dev + device });
    },
  };
  const adapter = await openFs(base, {}, port);
  await storeOne(adapter, key(1), pattern(1, 10));
  device = 1;
  for (const operation of [
    () => adapter.delete([key(1)], never),
    () => adapter.quarantine([key(1)], "digest differs", never),
    () => adapter.listKeys({ pageSize: 10 }, never),
  ]) {
    await expect(operation()).rejects.toThrow(/another filesystem is at/);
  }
  expect(await readdir(base)).toEqual([encodeFileName(key(1))]);
  expect(adapter.usage().totalBytesUsed).toBe(10);
  device = 0;
  expect((await adapter.delete([key(1)], never)).has(0)).toBe(true);
});

describe("a load that fails", () => {
  test("at each call in turn gives the object, or an error, or a miss, never a part", async () => {
    const base = await temporaryDirectory();
    const { port, calls, arm } = faultyPort();
    const adapter = await openFs(base, { read_ahead_size: 100 }, port);
    const bytes = pattern(1, BYTES);
    await storeOne(adapter, key(1), bytes);
    const outcomes: string[] = [];
    for (let failAt = 0; failAt < 20; failAt++) {
      arm(failAt, "EIO");
      const into = memory(BYTES);
      const outcome = await adapter.load([{ key: key(1), byteLength: BYTES }], [into], never).then(
        (loaded) => (loaded.has(0) ? "whole" : "miss"),
        (error: unknown) => (error as { code: string }).code,
      );
      if (outcome === "whole") expect(Buffer.compare(into.bytes, bytes)).toBe(0);
      outcomes.push(outcome);
      if (calls.length <= failAt) break;
    }
    expect(outcomes.slice(0, 4)).toEqual(Array(4).fill("BACKEND_UNAVAILABLE"));
    expect(outcomes.at(-1)).toBe("whole");
    expect(outcomes).not.toContain("miss");
  });

  test("one unreadable object does not take the others with it", async () => {
    const base = await temporaryDirectory();
    const bad = encodeFileName(key(2));
    const eio = Object.assign(new Error("EIO"), { code: "EIO" });
    const port: FsPort = {
      ...nodeFsPort,
      open: (path, flags, mode) =>
        path.endsWith(bad) ? Promise.reject(eio) : nodeFsPort.open(path, flags, mode),
    };
    const adapter = await openFs(base, {}, port);
    for (const n of [1, 3]) await storeOne(adapter, key(n), pattern(n, 50));
    const requests = [1, 2, 3].map((n) => ({ key: key(n), byteLength: 50 }));
    const loaded = await adapter.load(
      requests,
      requests.map(() => memory(50)),
      never,
    );
    expect([...loaded.positions()]).toEqual([0, 2]);
    expect(adapter.status()["errors"]).toEqual({ BACKEND_UNAVAILABLE: 1 });
  });

  test("a file that shrinks under the read is a miss", async () => {
    const base = await temporaryDirectory();
    let shrink = false;
    const port: FsPort = {
      ...nodeFsPort,
      read: async (fd, into, position) => {
        if (shrink) await truncate(join(base, encodeFileName(key(1))), 50_000);
        return nodeFsPort.read(fd, into.subarray(0, 20_000), position);
      },
    };
    const adapter = await openFs(base, {}, port);
    await storeOne(adapter, key(1), pattern(1, BYTES));
    shrink = true;
    expect(await loadOne(adapter, key(1), BYTES)).toBeNull();
    expect(adapter.status()["short_reads"]).toBe(1);
    expect(await loadOne(adapter, key(1), BYTES)).toBeNull();
    expect(adapter.status()["length_mismatches"]).toBe(1);
    expect((await readFile(join(base, encodeFileName(key(1))))).byteLength).toBe(50_000);
  });
});

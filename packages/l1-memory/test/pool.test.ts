import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { messageOf } from "@cache/contracts";
import { describe, expect, it } from "vitest";
import { type L1Pool, type L1PoolOptions, listPools, poolFileName, removePool } from "../src/index.ts";
import { JOURNAL_ID, MIB, openPool, poolOptions, poolPath, rejection, shmDirectory } from "./support.ts";

const GIB = 2 ** 30;

describe("poolFileName", () => {
  it.each([
    ["kvtest", "lmcache_l1_pool_kvtest"],
    ["/kvtest", "lmcache_l1_pool_kvtest"],
    ["lmcache_l1_pool_kvtest", "lmcache_l1_pool_kvtest"],
    ["/lmcache_l1_pool_kvtest", "lmcache_l1_pool_kvtest"],
    ["..", "lmcache_l1_pool_.."],
    ["", ""],
  ])("%j is the file %j", (name, file) => expect(poolFileName(name)).toBe(file));

  it.each(["/", "a/b", "//a", "../a", "a\0b", "a\nb", "\ud800", "x".repeat(240)])("refuses %j", (name) => {
    expect(() => poolFileName(name)).toThrow(expect.objectContaining({ code: "INVALID_CONFIG" }));
  });
});

describe.each([true, false])("a pool in shared memory, koffi %s", (useKoffi) => {
  const options = (directory: string, more: Partial<L1PoolOptions> = {}): L1PoolOptions =>
    poolOptions(directory, { useKoffi, ...more });

  /** Creates a pool with bytes and a position in it, closes it, and returns what the journal would know. */
  async function leavePool(directory: string, more: Partial<L1PoolOptions> = {}): Promise<L1Pool> {
    const pool = await openPool(options(directory, more));
    await pool.reserve(() => {});
    await pool.write(8192, Buffer.from("object of an earlier process"));
    pool.storePosition(123_456_789_012_345n);
    await pool.close({ keep: true });
    return pool;
  }

  it("is a file 4,096 bytes longer than L1, mode 0600, that clients find by name", async () => {
    const directory = shmDirectory();
    const pool = await openPool(options(directory));
    expect(pool.path).toBe(poolPath(directory));
    expect(pool.shmName).toBe("lmcache_l1_pool_test");
    const stat = statSync(poolPath(directory));
    expect([stat.size, stat.mode & 0o777]).toEqual([MIB + 4096, 0o600]);
    expect(pool.access).toBe(useKoffi ? "mapped" : "file");
    expect(pool.refusal?.check).toBe("absent");
    expect([pool.reattached, pool.attachedPosition, pool.reservedBytes]).toEqual([false, null, 0]);
    expect(pool.desc.size).toBe(MIB);
    expect(pool.desc.ptr === null).toBe(!useKoffi);
    expect(pool.desc.views.map((view) => view.bytes.length)).toEqual(useKoffi ? [MIB] : []);
    expect(pool.view(0, 16)?.length ?? null).toBe(useKoffi ? 16 : null);
  });

  it("gives the file the mode and group that are asked for, whatever the umask", async () => {
    const directory = shmDirectory();
    const before = process.umask(0o077);
    try {
      await openPool(options(directory, { mode: 0o660, group: 12_345 }));
    } finally {
      process.umask(before);
    }
    const stat = statSync(poolPath(directory));
    expect([stat.mode & 0o777, stat.gid]).toEqual([0o660, 12_345]);
  });

  it("reserves its pages, reports progress, and keeps what is written meanwhile", async () => {
    const directory = shmDirectory();
    const pool = await openPool(options(directory, { sizeBytes: 300 * MIB }));
    const steps: number[] = [];
    await pool.reserve((bytes) => steps.push(bytes));
    expect(steps).toEqual([256 * MIB, 300 * MIB]);
    expect([pool.reservedBytes, pool.reserveError]).toEqual([300 * MIB, null]);
    expect(statSync(poolPath(directory)).blocks * 512).toBe(300 * MIB + 4096);
  });

  it("reads and writes any range, and none outside", async () => {
    const pool = await openPool(options(shmDirectory()));
    const bytes = Buffer.from("0123456789");
    await pool.write(MIB - 10, bytes);
    const back = Buffer.alloc(10);
    await pool.read(MIB - 10, back);
    expect(back).toEqual(bytes);
    for (const offset of [MIB - 9, -1, 0.5, Number.NaN]) {
      await expect(pool.write(offset, bytes)).rejects.toThrow(RangeError);
      await expect(pool.read(offset, back)).rejects.toThrow(RangeError);
    }
  });

  it("re-attaches what an earlier process left: bytes, position, reserved pages", async () => {
    const directory = shmDirectory();
    const left = await leavePool(directory);
    const asked: bigint[] = [];
    const checkPosition = (position: bigint): null => (asked.push(position), null);
    const pool = await openPool(options(directory, { expected: left.identity, checkPosition }));
    expect([pool.reattached, pool.refusal, pool.reservedBytes]).toEqual([true, null, MIB]);
    expect(pool.identity).toEqual(left.identity);
    expect(pool.attachedPosition).toBe(123_456_789_012_345n);
    expect(asked).toEqual([123_456_789_012_345n]);
    const bytes = Buffer.alloc(28);
    await pool.read(8192, bytes);
    expect(bytes.toString()).toBe("object of an earlier process");
    const steps: number[] = [];
    await pool.reserve((reserved) => steps.push(reserved));
    expect(steps).toEqual([MIB]);
  });

  it("a pool left with one mechanism is re-attached with the other", async () => {
    const directory = shmDirectory();
    const left = await leavePool(directory);
    const pool = await openPool(options(directory, { useKoffi: !useKoffi, expected: left.identity }));
    expect(pool.attachedPosition).toBe(123_456_789_012_345n);
  });

  const overwrite = (path: string, at: number, bytes: Buffer): void => {
    const fd = openSync(path, "r+");
    writeSync(fd, bytes, 0, bytes.length, at);
    closeSync(fd);
  };
  interface Case {
    check: string;
    name: string;
    change?: (path: string) => void;
    more?: (left: L1Pool) => Partial<L1PoolOptions>;
  }
  const cases: Case[] = [
    { check: "identity", name: "no pool in the journal", more: () => ({ expected: null }) },
    {
      check: "boot",
      name: "another boot",
      more: (left) => ({ expected: { ...left.identity, bootId: "f".repeat(32) } }),
    },
    {
      check: "identity",
      name: "another inode",
      more: (left) => ({ expected: { ...left.identity, inode: "1" } }),
    },
    {
      check: "identity",
      name: "another device",
      more: (left) => ({ expected: { ...left.identity, device: "1" } }),
    },
    {
      check: "identity",
      name: "another pool id",
      more: (left) => ({ expected: { ...left.identity, poolId: "a".repeat(32) } }),
    },
    { check: "identity", name: "another journal", more: () => ({ journalId: "b".repeat(32) }) },
    { check: "geometry", name: "another size asked for", more: () => ({ sizeBytes: 2 * MIB }) },
    { check: "geometry", name: "another alignment asked for", more: () => ({ alignBytes: 8192 }) },
    { check: "geometry", name: "a shortened file", change: (path) => truncateSync(path, MIB) },
    { check: "geometry", name: "an empty file", change: (path) => truncateSync(path, 0) },
    { check: "geometry", name: "a file open to others", change: (path) => chmodSync(path, 0o644) },
    { check: "trailer", name: "no magic", change: (path) => overwrite(path, MIB, Buffer.alloc(8)) },
    {
      check: "trailer",
      name: "a changed header",
      change: (path) => overwrite(path, MIB + 40, Buffer.alloc(1)),
    },
    {
      check: "trailer",
      name: "a changed checksum",
      change: (path) => overwrite(path, MIB + 96, Buffer.alloc(1)),
    },
    {
      check: "trailer",
      name: "more reserved than there is",
      change: (path) => overwrite(path, MIB + 1152, Buffer.alloc(8, 0x10)),
    },
    {
      check: "marked",
      name: "a mark",
      change: (path) => overwrite(path, MIB + 1088, Buffer.from([1])),
    },
    {
      check: "position",
      name: "a journal that is behind",
      more: () => ({ checkPosition: () => "ends before" }),
    },
  ];
  it.each(cases)("does not re-attach after $name: $check", async ({ check, change, more }) => {
    const directory = shmDirectory();
    const left = await leavePool(directory);
    // A client keeps the old file open: it must neither be truncated nor written.
    const client = openSync(poolPath(directory), "r");
    change?.(poolPath(directory));
    const before = readFileSync(client);
    const pool = await openPool(options(directory, { expected: left.identity, ...more?.(left) }));
    expect(pool.refusal?.check).toBe(check);
    expect(pool.refusal?.detail).not.toBe("");
    expect([pool.reattached, pool.attachedPosition, pool.reservedBytes]).toEqual([false, null, 0]);
    expect(pool.identity.poolId).not.toBe(left.identity.poolId);
    const empty = Buffer.alloc(28, 1);
    await pool.read(8192, empty);
    expect(empty.every((byte) => byte === 0)).toBe(true);
    expect(readFileSync(`/proc/self/fd/${client}`).equals(before)).toBe(true);
    closeSync(client);
  });

  it("the mark is set and taken away", async () => {
    const directory = shmDirectory();
    const first = await openPool(options(directory));
    first.markNotReattachable();
    first.markReattachable();
    await first.close({ keep: true });
    const second = await openPool(options(directory, { expected: first.identity }));
    expect(second.reattached).toBe(true);
    second.markNotReattachable();
    await second.close({ keep: true });
    const third = await openPool(options(directory, { expected: second.identity }));
    expect(third.refusal?.check).toBe("marked");
  });

  it("can be discarded and made anew by the engine, in the same process", async () => {
    const directory = shmDirectory();
    const left = await leavePool(directory);
    const found = await openPool(options(directory, { expected: left.identity }));
    await found.close({ keep: false });
    expect(existsSync(poolPath(directory))).toBe(false);
    const fresh = await openPool(options(directory));
    expect(fresh.refusal?.check).toBe("absent");
  });

  it("refuses a pool that another open holds, names it and the option, and leaves it alone", async () => {
    const directory = shmDirectory();
    const holder = await openPool(options(directory));
    await holder.write(0, Buffer.from("still here"));
    for (const expected of [null, holder.identity]) {
      const error = await rejection(openPool(options(directory, { expected, sizeBytes: 2 * MIB })));
      expect(error.code).toBe("LOCKED_BY_OTHER_PROCESS");
      expect(error.message).toContain(poolPath(directory));
      expect(error.message).toContain("--shm-name");
    }
    expect((await rejection(removePool(poolPath(directory), { useKoffi }))).code).toBe(
      "LOCKED_BY_OTHER_PROCESS",
    );
    expect(holder.nameIsOurs()).toBe(true);
    expect(statSync(poolPath(directory)).size).toBe(MIB + 4096);
    const bytes = Buffer.alloc(10);
    await holder.read(0, bytes);
    expect(bytes.toString()).toBe("still here");
  });

  it("of several that open at once exactly one gets the pool", async () => {
    const directory = shmDirectory();
    const outcomes = await Promise.allSettled(Array.from({ length: 6 }, () => openPool(options(directory))));
    const won = outcomes.filter((outcome) => outcome.status === "fulfilled");
    expect(won).toHaveLength(1);
    expect(won[0]?.value.nameIsOurs()).toBe(true);
    for (const outcome of outcomes) {
      if (outcome.status === "rejected")
        expect(outcome.reason).toHaveProperty("code", "LOCKED_BY_OTHER_PROCESS");
    }
  });

  it("notices when its name leads elsewhere, and then unlinks nothing", async () => {
    const directory = shmDirectory();
    const pool = await openPool(options(directory));
    expect(pool.nameIsOurs()).toBe(true);
    renameSync(poolPath(directory), join(directory, "moved"));
    expect(pool.nameIsOurs()).toBe(false);
    writeFileSync(poolPath(directory), "another's");
    expect(pool.nameIsOurs()).toBe(false);
    await pool.close({ keep: false });
    expect(readFileSync(poolPath(directory), "utf8")).toBe("another's");
  });

  it("does nothing to the file once closed", async () => {
    const directory = shmDirectory();
    const pool = await leavePool(directory);
    expect(() => pool.storePosition(1n)).toThrow(TypeError);
    expect(() => pool.markReattachable()).toThrow(TypeError);
    expect(() => pool.view(0, 1)).toThrow(TypeError);
    await expect(pool.write(0, Buffer.alloc(1))).rejects.toThrow(TypeError);
    await expect(pool.read(0, Buffer.alloc(1))).rejects.toThrow(TypeError);
    await pool.close({ keep: false });
    expect(existsSync(poolPath(directory))).toBe(true);
  });

  it("stops reserving when it is closed", async () => {
    const directory = shmDirectory();
    const pool = await openPool(options(directory, { sizeBytes: 600 * MIB }));
    const closing: Promise<void>[] = [];
    await pool.reserve(() => {
      closing.push(pool.close({ keep: false }));
    });
    await Promise.all(closing);
    expect(closing).toHaveLength(1);
    expect(pool.reservedBytes).toBe(256 * MIB);
    expect(existsSync(poolPath(directory))).toBe(false);
  });

  it("goes on with a smaller L1 where the filesystem is full", async (context) => {
    const directory = shmDirectory();
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=400m", "tmpfs", directory], { stdio: "pipe" });
    } catch (error) {
      context.skip(`no tmpfs of 400 MiB: ${messageOf(error)}`);
    }
    try {
      const pool = await openPool(options(directory, { sizeBytes: 300 * MIB }));
      // Somebody else takes the room between the check and the reservation.
      execFileSync("fallocate", ["-l", "120M", join(directory, "other")]);
      await pool.reserve(() => {});
      expect(pool.reservedBytes).toBe(256 * MIB);
      expect(pool.reserveError).toMatchObject({ code: "POOL_TOO_LARGE" });
      expect(pool.reserveError?.message).toMatch(/268435456 of 314572800.*--l1-size-gb/s);
      execFileSync("rm", [join(directory, "other")]);
      await pool.reserve(() => {});
      expect([pool.reservedBytes, pool.reserveError]).toEqual([300 * MIB, null]);
      await pool.close({ keep: true });
      const again = await openPool(options(directory, { sizeBytes: 300 * MIB, expected: pool.identity }));
      expect(again.reattached).toBe(true);
      await again.close({ keep: false });
      const error = await rejection(openPool(options(directory, { sizeBytes: 401 * MIB })));
      expect(error.code).toBe("POOL_TOO_LARGE");
      expect(error.message).toMatch(/0\.39 GiB.*--l1-size-gb.*--shm-name ""/s);
    } finally {
      // Lazily: mappings are never undone, so it stays busy until this process ends.
      execFileSync("umount", ["-l", directory]);
    }
  });

  it("shares its bytes with Python's multiprocessing.shared_memory, both ways", async () => {
    const name = `cache-l1-test-${process.pid}-${useKoffi}`;
    const pool = await openPool(poolOptions("/dev/shm", { useKoffi, shmName: name }));
    await pool.write(4096, Buffer.from("from the engine"));
    const code = [
      "import sys",
      "from multiprocessing import shared_memory, resource_tracker",
      "m = shared_memory.SharedMemory(name=sys.argv[1])",
      "resource_tracker.unregister(m._name, 'shared_memory')",
      "print(m.size, bytes(m.buf[4096:4111]).decode(), flush=True)",
      "m.buf[8192:8203] = b'from client'",
      "print('written', flush=True)",
      "sys.stdin.readline()",
      "m.close()",
    ].join("\n");
    const client = spawn("python3", ["-c", code, pool.shmName], { stdio: ["pipe", "pipe", "inherit"] });
    try {
      let output = "";
      while (!output.includes("written")) output += String((await once(client.stdout, "data"))[0]);
      expect(output).toContain(`${MIB + 4096} from the engine`);
      const bytes = Buffer.alloc(11);
      await pool.read(8192, bytes);
      expect(bytes.toString()).toBe("from client");
      if (useKoffi) expect(pool.view(8192, 11)?.toString()).toBe("from client");
      const scan = await pool.scanMappers();
      if (scan.kind === "mapped") expect(scan.pids).toEqual([client.pid]);
      else expect(scan.kind).toBe("cannot-be-seen");
      client.stdin.end("\n");
      await once(client, "exit");
      // Where even root is refused a process (some sandboxes), that one is counted and nothing is proven.
      const after = await pool.scanMappers();
      if (after.kind === "mapped") expect([after.pids, after.unreadable > 0]).toEqual([[], true]);
    } finally {
      client.kill("SIGKILL");
    }
  });
});

describe("a pool larger than 4 GiB", () => {
  it("has views of 4 GiB and reaches bytes at their ends", async () => {
    const pool = await openPool(poolOptions(shmDirectory(), { sizeBytes: 9 * GIB }));
    expect(pool.desc.views.map((view) => [view.offset / GIB, view.bytes.length / GIB])).toEqual([
      [0, 4],
      [4, 4],
      [8, 1],
    ]);
    pool.view(4 * GIB - 4, 4)?.write("abcd");
    pool.view(4 * GIB, 4)?.write("efgh");
    pool.view(9 * GIB - 4, 4)?.write("last");
    const bytes = Buffer.alloc(8);
    await pool.read(4 * GIB - 4, bytes);
    expect(bytes.toString()).toBe("abcdefgh");
    await pool.write(8 * GIB - 2, Buffer.from("wxyz"));
    expect(pool.view(8 * GIB, 2)?.toString()).toBe("yz");
    expect(() => pool.view(4 * GIB - 4, 8)).toThrow(RangeError);
    expect(() => pool.view(9 * GIB - 4, 8)).toThrow(RangeError);
    expect(pool.view(9 * GIB, 0)?.length).toBe(0);
    pool.storePosition(77n);
    await pool.close({ keep: true });
    const file = await openPool({ ...optionsOf(pool), useKoffi: false, expected: pool.identity });
    expect(file.attachedPosition).toBe(77n);
    await file.read(9 * GIB - 4, bytes.subarray(0, 4));
    expect(bytes.toString("latin1", 0, 4)).toBe("last");
  });

  function optionsOf(pool: L1Pool): L1PoolOptions {
    return poolOptions(join(pool.path ?? "", ".."), { sizeBytes: pool.sizeBytes });
  }
});

describe.each([true, false])("shared memory off, koffi %s", (useKoffi) => {
  it("is memory of this process: views, no name, nothing survives", async () => {
    const directory = shmDirectory();
    const pool = await openPool(poolOptions(directory, { shmName: "", useKoffi, sizeBytes: 5 * GIB }));
    expect([pool.access, pool.shmName, pool.path, pool.reattached]).toEqual(["anonymous", "", null, false]);
    expect(pool.desc.views.map((view) => view.bytes.length / GIB)).toEqual([4, 1]);
    expect(pool.desc.ptr === null).toBe(!useKoffi);
    await pool.write(4 * GIB - 2, Buffer.from("abcd"));
    expect(pool.view(4 * GIB, 2)?.toString()).toBe("cd");
    const steps: number[] = [];
    await pool.reserve((bytes) => steps.push(bytes));
    expect(steps).toEqual([5 * GIB]);
    pool.storePosition(5n);
    expect(await pool.scanMappers()).toEqual({ kind: "none" });
    expect(readdirSync(directory)).toEqual([]);
  });
});

describe("without koffi and without commands", () => {
  it("a new pool is reserved by writing zeros, one that may hold data is not", async () => {
    const directory = shmDirectory();
    // The lock needs its command; only fallocate is taken away.
    const bin = join(directory, "bin");
    mkdirSync(bin);
    symlinkSync("/usr/bin/flock", join(bin, "flock"));
    const path = process.env["PATH"];
    process.env["PATH"] = bin;
    try {
      const more = { useKoffi: false, sizeBytes: 20 * MIB };
      const pool = await openPool(poolOptions(directory, more));
      await pool.reserve(() => {});
      expect([pool.reservedBytes, pool.reserveError]).toEqual([20 * MIB, null]);
      expect(statSync(poolPath(directory)).blocks * 512).toBe(20 * MIB + 4096);
      await pool.close({ keep: false });
      const half = await openPool(poolOptions(directory, more));
      await half.close({ keep: true });
      const again = await openPool(poolOptions(directory, { ...more, expected: half.identity }));
      expect(again.reattached).toBe(true);
      await again.reserve(() => {});
      expect(again.reservedBytes).toBe(0);
      expect(again.reserveError?.message).toMatch(/util-linux/);
    } finally {
      process.env["PATH"] = path;
    }
  });
});

describe("what is in the way", () => {
  it("does not follow a link, and takes no directory", async () => {
    const directory = shmDirectory();
    writeFileSync(join(directory, "victim"), "precious");
    symlinkSync(join(directory, "victim"), poolPath(directory));
    const error = await rejection(openPool(poolOptions(directory)));
    expect(error.code).toBe("POOL_UNAVAILABLE");
    expect(readFileSync(join(directory, "victim"), "utf8")).toBe("precious");
    const other = shmDirectory();
    mkdirSync(poolPath(other));
    expect((await rejection(openPool(poolOptions(other)))).code).toBe("POOL_UNAVAILABLE");
  });

  it("names a directory that is not there", async () => {
    const error = await rejection(openPool(poolOptions("/nowhere/shm")));
    expect(error.code).toBe("POOL_UNAVAILABLE");
    expect(error.message).toContain("/nowhere/shm");
  });

  it("refuses options that make no sense", async () => {
    const directory = shmDirectory();
    for (const more of [{ sizeBytes: 4095 }, { sizeBytes: 0 }, { alignBytes: 512 }, { alignBytes: 12_288 }]) {
      expect((await rejection(openPool(poolOptions(directory, more)))).code).toBe("INVALID_CONFIG");
    }
    expect((await rejection(openPool(poolOptions(directory, { mode: 0o777 })))).code).toBe("INVALID_CONFIG");
    expect((await rejection(openPool(poolOptions(directory, { journalId: "x" })))).name).toBe("TypeError");
    expect(readdirSync(directory)).toEqual([]);
  });

  it("does not take over a live pool of another server, and does take over its remains", async () => {
    const directory = shmDirectory();
    writeFileSync(poolPath(directory), Buffer.alloc(MIB));
    const code =
      "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nprint('mapped',flush=True)\nsys.stdin.read()";
    const server = spawn("python3", ["-c", code, poolPath(directory)], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    try {
      await once(server.stdout, "data");
      const opened = openPool(poolOptions(directory));
      const error = await rejection(opened);
      expect(error.code).toBe("LOCKED_BY_OTHER_PROCESS");
      expect(error.message).toContain(String(server.pid));
      expect((await rejection(removePool(poolPath(directory)))).code).toBe("LOCKED_BY_OTHER_PROCESS");
      expect(existsSync(poolPath(directory))).toBe(true);
    } finally {
      server.kill("SIGKILL");
    }
    await once(server, "exit");
    const pool = await openPool(poolOptions(directory));
    expect(pool.refusal?.check).toBe("identity");
  });
});

describe("listPools and removePool", () => {
  it("list what is there and remove what nobody holds", async () => {
    const directory = shmDirectory();
    const pool = await openPool(poolOptions(directory));
    writeFileSync(join(directory, "lmcache_l1_pool_other"), "not ours");
    writeFileSync(join(directory, "unrelated"), "");
    const listed = await listPools(directory);
    expect(listed.map(({ name, poolId, journalId }) => ({ name, poolId, journalId }))).toEqual([
      { name: "lmcache_l1_pool_other", poolId: null, journalId: null },
      { name: "lmcache_l1_pool_test", poolId: pool.identity.poolId, journalId: JOURNAL_ID },
    ]);
    await pool.close({ keep: true });
    expect(await removePool(poolPath(directory))).toBe(true);
    expect(await removePool(poolPath(directory))).toBe(false);
    expect((await rejection(removePool(join(directory, "unrelated")))).code).toBe("INVALID_ARGUMENT");
    expect(readdirSync(directory)).toEqual(["lmcache_l1_pool_other", "unrelated"]);
  });
});

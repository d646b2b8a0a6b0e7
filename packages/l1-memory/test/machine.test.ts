import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { totalmem, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { mapperProof, type PoolIdentity } from "../src/index.ts";
import { assertRoom, cgroupBounds } from "../src/machine-room.ts";
import { scanMappers } from "../src/mapper-scan.ts";
import { JOURNAL_ID, MIB, openPool, poolOptions, poolPath, rejection, shmDirectory } from "./support.ts";

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "cache-l1-machine-"));
});

afterEach(() => rmSync(root, { recursive: true }));

function put(path: string, text: string): void {
  const full = join(root, path);
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, text);
}

describe("the proof that nobody maps the pool", () => {
  // Device 0:42, as stat(2) gives it.
  const target = { device: 42n, inode: 4711n, ownerUid: 1000, mode: 0o600, deviceIsCertain: true };
  const MAPPER = "7f00-7f01 rw-s 00000000 00:2a 4711                       /dev/shm/lmcache_l1_pool_x\n";
  const OTHER = "7f00-7f01 rw-s 00000000 00:2a 47110                      /dev/shm/x\n";

  beforeEach(() => {
    put("proc/self/mounts", "proc /proc proc rw,relatime 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n");
    mkdirSync(join(root, "proc/self/ns"));
    symlinkSync("pid:[4026531836]", join(root, "proc/self/ns/pid"));
    put("proc/7/maps", MAPPER);
    put("proc/8/maps", OTHER);
    put("proc/9/maps", "");
    mkdirSync(join(root, "proc/9/task/9"), { recursive: true });
    put("proc/9/task/9/maps", "");
  });

  const options = () => ({ procDirectory: join(root, "proc"), ownPid: 7 });

  /** A process whose maps cannot be read: a directory is there instead. */
  function putUnreadable(pid: number, uids: string): void {
    mkdirSync(join(root, `proc/${pid}/maps`), { recursive: true });
    put(`proc/${pid}/status`, `Name:\tx\nUid:\t${uids}\nGid:\t5\t5\t5\t5\n`);
  }

  it("leaves out this process and sees no other", async () => {
    expect(await scanMappers(target, options())).toEqual({ kind: "none" });
  });

  it("finds each process that maps device and inode, also late in a long list", async () => {
    put("proc/30/maps", OTHER.repeat(5000) + MAPPER);
    put("proc/12/maps", MAPPER);
    const found = { kind: "mapped", pids: [12, 30], mappings: 2, unreadable: 0 };
    expect(await scanMappers(target, options())).toEqual(found);
    // Wherever a read ends inside the line.
    for (let cut = 0; cut < 130; cut++) {
      const before = "x".repeat(64 * 1024 - cut);
      put("proc/30/maps", `${before}\n${MAPPER}`);
      expect(await scanMappers(target, options())).toEqual(found);
    }
  });

  it("counts each mapping of a process, and none twice", async () => {
    for (let cut = 0; cut < 130; cut++) {
      const before = "x".repeat(64 * 1024 - cut);
      put("proc/30/maps", `${MAPPER}${before}\n${MAPPER}${OTHER}${MAPPER}`);
      const found = { kind: "mapped", pids: [30], mappings: 3, unreadable: 0 };
      expect(await scanMappers(target, options())).toEqual(found);
    }
  });

  it("looks at the threads of a process whose first thread has ended", async () => {
    put("proc/9/task/10/maps", MAPPER);
    expect(await scanMappers(target, options())).toEqual({
      kind: "mapped",
      pids: [9],
      mappings: 1,
      unreadable: 0,
    });
  });

  it("counts a process that cannot be read unless its user is neither owner nor root", async () => {
    putUnreadable(20, "2000\t2000\t2000\t2000");
    expect(await scanMappers(target, options())).toEqual({ kind: "none" });
    putUnreadable(21, "1000\t1000\t1000\t1000");
    putUnreadable(22, "0\t0\t0\t0");
    // Dropped its rights after it may have opened the pool.
    putUnreadable(23, "2000\t2000\t0\t2000");
    mkdirSync(join(root, "proc/24/maps"), { recursive: true });
    put("proc/24/status", "nothing known");
    expect(await scanMappers(target, options())).toEqual({
      kind: "mapped",
      pids: [],
      mappings: 0,
      unreadable: 4,
    });
  });

  it("cannot be given in another pid namespace, with hidepid, with a wide mode, or off tmpfs", async () => {
    const procDirectory = join(root, "proc");
    expect(mapperProof({ procDirectory })).toEqual({ kind: "possible" });
    for (const mode of [0o660, 0o604, 0o666]) {
      const seen = await scanMappers({ ...target, mode }, options());
      expect(seen).toEqual({ kind: "cannot-be-seen", reason: expect.stringContaining("mode") });
    }
    expect((await scanMappers({ ...target, deviceIsCertain: false }, options())).kind).toBe("cannot-be-seen");
    for (const hidepid of ["1", "2", "4", "invisible", "ptraceable"]) {
      put("proc/self/mounts", `proc /proc proc rw,hidepid=${hidepid},gid=5 0 0\n`);
      expect(mapperProof({ procDirectory })).toEqual({
        kind: "cannot-be-seen",
        reason: expect.stringContaining(`hidepid=${hidepid}`),
      });
    }
    put("proc/self/mounts", "proc /proc proc rw,hidepid=0 0 0\n");
    expect(mapperProof({ procDirectory }).kind).toBe("possible");
    rmSync(join(root, "proc/self/ns/pid"));
    expect(mapperProof({ procDirectory }).kind).toBe("cannot-be-seen");
    symlinkSync("pid:[4026532177]", join(root, "proc/self/ns/pid"));
    expect(await scanMappers(target, options())).toEqual({
      kind: "cannot-be-seen",
      reason: expect.stringContaining("container"),
    });
  });
});

describe("the room for L1", () => {
  const machine = () => ({ cgroupDirectory: join(root, "cgroup"), procDirectory: join(root, "proc") });

  it("reads cgroup v2 at every level; 'max' is no limit", async () => {
    put("proc/self/cgroup", "0::/slice/unit\n");
    put("cgroup/slice/unit/memory.max", "max\n");
    put("cgroup/slice/memory.max", `${100 * MIB}\n`);
    put("cgroup/slice/memory.current", `${70 * MIB}\n`);
    put("cgroup/slice/memory.stat", `anon 5\ninactive_file ${20 * MIB}\nactive_file 9\n`);
    expect((await cgroupBounds(machine())).map((bound) => bound.freeBytes)).toEqual([50 * MIB]);
  });

  it("reads cgroup v1; a number near 2^63 is no limit", async () => {
    put("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/box\n0::/\n");
    put("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("cgroup/memory/box/memory.limit_in_bytes", `${64 * MIB}\n`);
    put("cgroup/memory/box/memory.usage_in_bytes", `${80 * MIB}\n`);
    expect((await cgroupBounds(machine())).map((bound) => bound.freeBytes)).toEqual([0]);
  });

  it("refuses what the cgroup does not leave and says how much that is; pages that are there are not asked for", async () => {
    const directory = shmDirectory();
    put("proc/self/cgroup", "0::/\n");
    put("proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n");
    put("cgroup/memory.max", `${8 * MIB}\n`);
    put("cgroup/memory.current", `${MIB}\n`);
    const options = poolOptions(directory, { sizeBytes: 6 * MIB });
    const pool = await openPool(options, machine());
    await pool.reserve(() => {});
    await pool.close({ keep: true });
    put("cgroup/memory.current", `${8 * MIB}\n`);
    const again = await openPool({ ...options, expected: pool.identity }, machine());
    expect(again.reattached).toBe(true);
    await again.close({ keep: false });
    const error = await rejection(openPool(options, machine()));
    expect(error.code).toBe("POOL_TOO_LARGE");
    expect(error.message).toMatch(/6295552 bytes.*memory cgroup.*\b0 bytes.*--l1-size-gb.*--shm-name ""/s);
    expect(existsSync(poolPath(directory))).toBe(false);
    const anonymous = await rejection(openPool({ ...options, shmName: "" }, machine()));
    expect(anonymous.code).toBe("POOL_TOO_LARGE");
  });

  it("refuses more than the machine's RAM", async () => {
    const none = { procDirectory: join(root, "none"), cgroupDirectory: join(root, "none") };
    expect(await rejection(assertRoom(null, totalmem() + 1, none))).toHaveProperty("code", "POOL_TOO_LARGE");
    await assertRoom(null, totalmem(), none);
  });
});

it.each([true, false])("after SIGKILL the next process takes the pool over, koffi %s", async (useKoffi) => {
  const built = fileURLToPath(new URL("../dist/index.js", import.meta.url));
  if (!existsSync(built)) throw new Error("packages/l1-memory/dist is missing: build first (tsc -b)");
  const directory = shmDirectory();
  const options = poolOptions(directory, { useKoffi });
  const code = `
    const { openL1Pool } = await import(${JSON.stringify(built)});
    const pool = await openL1Pool(JSON.parse(process.argv[1]));
    await pool.reserve(() => {});
    await pool.write(12288, Buffer.from("survives"));
    pool.storePosition(99n);
    process.stdout.write(JSON.stringify(pool.identity) + "\\n");
    setInterval(() => {}, 1000);`;
  const args = ["--input-type=module", "-e", code, JSON.stringify(options)];
  const engine = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  let identity: PoolIdentity;
  try {
    identity = JSON.parse(String((await once(engine.stdout, "data"))[0])) as PoolIdentity;
    const refused = await rejection(openPool({ ...options, expected: identity }));
    expect(refused.code).toBe("LOCKED_BY_OTHER_PROCESS");
    expect(refused.message).toContain(`process ${engine.pid}`);
  } finally {
    engine.kill("SIGKILL");
  }
  await once(engine, "exit");
  const pool = await openPool({ ...options, expected: identity, journalId: JOURNAL_ID });
  expect([pool.reattached, pool.attachedPosition, pool.reservedBytes]).toEqual([true, 99n, MIB]);
  const bytes = Buffer.alloc(8);
  await pool.read(12288, bytes);
  expect(bytes.toString()).toBe("survives");
});

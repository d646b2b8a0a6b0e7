import { execFileSync } from "node:child_process";
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hasCode, messageOf } from "@cache/contracts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fallocateByCommand, type KernelCalls, kernelCalls, VIEW_BYTES_MAX } from "../src/index.ts";

const MIB = 2 ** 20;
const directory = mkdtempSync(join(tmpdir(), "cache-libc-"));
let mountRefused: string | null = null;
let libc: KernelCalls;

beforeAll(() => {
  const calls = kernelCalls();
  if (calls === null) throw new Error("koffi does not load on this machine");
  libc = calls;
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=4m", "tmpfs", directory], { stdio: "pipe" });
  } catch (error) {
    mountRefused = messageOf(error);
  }
});

afterAll(() => {
  // Lazily: mappings are never undone, so it stays busy until this process ends.
  if (mountRefused === null) execFileSync("umount", ["-l", directory]);
  rmSync(directory, { recursive: true });
});

/** A file of that size on a tmpfs of 4 MiB, closed and removed afterwards. */
async function withFile(size: number, use: (fd: number, path: string) => Promise<void>): Promise<void> {
  const path = join(directory, "file");
  const fd = openSync(path, "wx+", 0o600);
  try {
    ftruncateSync(fd, size);
    await use(fd, path);
  } finally {
    closeSync(fd);
    rmSync(path, { force: true });
  }
}

describe.each([
  { by: "posix_fallocate", reserve: (fd: number, o: number, l: number) => libc.fallocate(fd, o, l) },
  { by: "fallocate command", reserve: fallocateByCommand },
])("$by", ({ reserve }) => {
  it("reserves pages and keeps bytes that are there", async () => {
    await withFile(2 * MIB, async (fd) => {
      writeSync(fd, Buffer.from("kept"), 0, 4, 4096);
      await reserve(fd, 0, MIB);
      expect(fstatSync(fd).blocks * 512).toBeGreaterThanOrEqual(MIB);
      expect(fstatSync(fd).size).toBe(2 * MIB);
      const bytes = Buffer.alloc(4);
      readSync(fd, bytes, 0, 4, 4096);
      expect(bytes.toString()).toBe("kept");
    });
  });

  it("reaches a file that is unlinked", async () => {
    await withFile(MIB, async (fd, path) => {
      unlinkSync(path);
      await reserve(fd, 0, MIB);
      expect(fstatSync(fd).blocks * 512).toBeGreaterThanOrEqual(MIB);
    });
  });

  it("fails with ENOSPC where the filesystem is full", async (context) => {
    if (mountRefused !== null) context.skip(`no tmpfs of 4 MiB: ${mountRefused}`);
    await withFile(8 * MIB, async (fd) => {
      await reserve(fd, 0, 2 * MIB);
      await expect(reserve(fd, 2 * MIB, 6 * MIB)).rejects.toMatchObject({
        code: "ENOSPC",
        syscall: expect.stringContaining("fallocate"),
      });
      expect(fstatSync(fd).blocks * 512).toBe(2 * MIB);
    });
  });
});

it("posix_fallocate on a descriptor that is not open fails with EBADF", async () => {
  await expect(libc.fallocate(99_999, 0, 4096)).rejects.toMatchObject({ code: "EBADF" });
});

it("the fallocate command that is absent is named with what to install", async () => {
  const path = process.env["PATH"];
  process.env["PATH"] = "/nowhere";
  try {
    await withFile(MIB, async (fd) => {
      const error = await fallocateByCommand(fd, 0, MIB).then(
        () => null,
        (e: unknown) => e,
      );
      expect(hasCode(error, "UNSUPPORTED")).toBe(true);
      expect(messageOf(error)).toMatch(/koffi.*util-linux/);
    });
  } finally {
    process.env["PATH"] = path;
  }
});

it("a shared mapping is coherent with pread and pwrite, both ways", async () => {
  await withFile(64 * 1024, async (fd) => {
    const view = libc.view(libc.mapShared(fd, 64 * 1024), 64 * 1024);
    writeSync(fd, Buffer.from("from pwrite"), 0, 11, 5000);
    expect(view.toString("latin1", 5000, 5011)).toBe("from pwrite");
    view.write("from view", 9000, "latin1");
    const bytes = Buffer.alloc(9);
    readSync(fd, bytes, 0, 9, 9000);
    expect(bytes.toString()).toBe("from view");
  });
});

it("two views of one address show the same bytes; anonymous memory is zero and page aligned", () => {
  const address = libc.mapAnonymous(16 * 4096);
  expect(address % 4096n).toBe(0n);
  const whole = libc.view(address, 16 * 4096);
  const part = libc.view(address + 4096n, 4096);
  expect(whole.every((byte) => byte === 0)).toBe(true);
  whole[4096] = 7;
  expect(part[0]).toBe(7);
});

it("refuses what would abort the process or make no sense", () => {
  const address = libc.mapAnonymous(4096);
  expect(() => libc.view(address, VIEW_BYTES_MAX + 1)).toThrow(RangeError);
  expect(() => libc.view(address, 0)).toThrow(TypeError);
  expect(() => libc.mapAnonymous(0)).toThrow(TypeError);
  expect(() => libc.mapShared(99_999, 4096)).toThrow(
    expect.objectContaining({ code: "EBADF", syscall: "mmap" }),
  );
});

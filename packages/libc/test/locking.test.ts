import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hasCode, isCacheError } from "@cache/contracts";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { acquireFileLock, type FileLock, kernelCalls } from "../src/index.ts";

let directory: string;
let file: string;
const held: FileLock[] = [];
const children: ChildProcess[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "cache-libc-"));
  file = join(directory, "pool");
  writeFileSync(file, "");
});

afterEach(() => {
  for (const lock of held.splice(0)) lock.release();
  for (const child of children.splice(0)) child.kill("SIGKILL");
  rmSync(directory, { recursive: true });
});

async function take(path: string, useKoffi: boolean): Promise<FileLock> {
  const lock = await acquireFileLock(path, { useKoffi });
  held.push(lock);
  return lock;
}

async function refusal(path: string, useKoffi: boolean): Promise<unknown> {
  return acquireFileLock(path, { useKoffi }).then(
    (lock) => {
      lock.release();
      return "not refused";
    },
    (error: unknown) => error,
  );
}

/** A process of its own that holds flock(2) on `file`, taken by Python: a third implementation. */
async function holdInOtherProcess(): Promise<ChildProcess> {
  const code =
    "import fcntl,os,sys,time\nfd=os.open(sys.argv[1],os.O_RDONLY)\nfcntl.flock(fd,fcntl.LOCK_EX)\n" +
    "print('held',flush=True)\nsys.stdin.read()";
  const child = spawn("python3", ["-c", code, file], { stdio: ["pipe", "pipe", "inherit"] });
  children.push(child);
  await once(child.stdout, "data");
  return child;
}

it("koffi loads on this machine, so both mechanisms are tested", () => {
  expect(kernelCalls()).not.toBeNull();
  expect(kernelCalls({ useKoffi: false })).toBeNull();
});

it("CACHE_ENGINE_NO_KOFFI=1 acts as if koffi were absent", () => {
  process.env["CACHE_ENGINE_NO_KOFFI"] = "1";
  try {
    expect(kernelCalls()).toBeNull();
  } finally {
    delete process.env["CACHE_ENGINE_NO_KOFFI"];
  }
  expect(kernelCalls()).not.toBeNull();
});

describe.each([
  { first: true, second: true },
  { first: true, second: false },
  { first: false, second: true },
  { first: false, second: false },
])("lock with koffi $first, then with koffi $second", ({ first, second }) => {
  it("excludes a second open of the same file in this process, until released", async () => {
    const lock = await take(file, first);
    expect(lock.mechanism).toBe(first ? "koffi" : "flock-command");
    const error = await refusal(file, second);
    expect(hasCode(error, "LOCKED_BY_OTHER_PROCESS")).toBe(true);
    expect((error as Error).message).toContain(file);
    lock.release();
    lock.release();
    await take(file, second);
  });

  it("locks a directory", async () => {
    await take(directory, first);
    expect(hasCode(await refusal(directory, second), "LOCKED_BY_OTHER_PROCESS")).toBe(true);
  });
});

describe.each([true, false])("with koffi %s", (useKoffi) => {
  it("another process's lock is respected, named, and gone when that process is killed", async () => {
    const child = await holdInOtherProcess();
    const error = await refusal(file, useKoffi);
    expect(hasCode(error, "LOCKED_BY_OTHER_PROCESS")).toBe(true);
    expect((error as Error).message).toContain(`process ${child.pid}`);
    child.kill("SIGKILL");
    await once(child, "exit");
    await take(file, useKoffi);
  });

  it("our lock keeps another process out", async () => {
    await take(file, useKoffi);
    const code =
      "import fcntl,os,sys\nfd=os.open(sys.argv[1],os.O_RDONLY)\n" +
      "try: fcntl.flock(fd,fcntl.LOCK_EX|fcntl.LOCK_NB)\nexcept BlockingIOError: sys.exit(7)";
    const child = spawn("python3", ["-c", code, file], { stdio: "inherit" });
    children.push(child);
    const [status] = await once(child, "exit");
    expect(status).toBe(7);
  });

  it("names a path that cannot be opened", async () => {
    const missing = join(directory, "nothing");
    const error = await refusal(missing, useKoffi);
    expect(hasCode(error, "LOCK_UNAVAILABLE")).toBe(true);
    expect((error as Error).message).toContain(missing);
  });
});

it("without koffi and without a flock command says what to install", async () => {
  const path = process.env["PATH"];
  process.env["PATH"] = directory;
  try {
    const error = await refusal(file, false);
    expect(isCacheError(error) && error.code).toBe("LOCK_UNAVAILABLE");
    expect((error as Error).message).toMatch(/koffi.*util-linux.*busybox/);
  } finally {
    process.env["PATH"] = path;
  }
});

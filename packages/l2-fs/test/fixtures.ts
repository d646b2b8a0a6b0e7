import { execFileSync } from "node:child_process";
import { mkdtempSync, rmdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type AdapterLog,
  type L1MemoryDesc,
  type L2Adapter,
  type MemoryObj,
  type ObjectKey,
  type ObjectKeyFields,
  objectKey,
  type OpenContext,
} from "@cache/contracts";
import { openL1Pool } from "@cache/l1-memory";
import { afterEach } from "vitest";
import { createFsAdapter } from "../src/adapter.ts";
import { fsConfigSchema } from "../src/config.ts";
import type { FsPort } from "../src/fs-port.ts";

/** Some tests need a filesystem of their own; without the right to mount they are shown as skipped. */
export const canMount: boolean = ((): boolean => {
  const path = mkdtempSync(join(tmpdir(), "cache-l2-fs-mount-"));
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", path], { stdio: "ignore" });
    execFileSync("umount", ["-l", path], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  } finally {
    rmdirSync(path);
  }
})();

/** L1 of which nothing is mapped. */
export const noL1: L1MemoryDesc = { ptr: null, size: 0, alignBytes: 4096, views: [] };
export const never = new AbortController().signal;

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** Runs after the test, last registered first. */
export function after(cleanup: () => Promise<unknown>): void {
  cleanups.push(cleanup);
}

/** A new directory, removed after the test. */
export async function temporaryDirectory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "cache-l2-fs-"));
  after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** One log line. */
export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields: unknown;
}

/** A context for `open`; log lines go to `lines`. */
export function openContext(lines: LogLine[] = [], id = "fs", signal = never): OpenContext {
  const at =
    (level: string): AdapterLog["info"] =>
    (message, fields) =>
      void lines.push({ level, message, fields });
  const log = { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
  return { id, stateDir: null, log, signal };
}

/** An adapter on a directory, open, closed after the test. */
export async function openFs(
  basePath: string,
  config: Record<string, unknown> = {},
  port?: FsPort,
  lines: LogLine[] = [],
  l1: L1MemoryDesc = noL1,
): Promise<Required<L2Adapter>> {
  const parsed = fsConfigSchema.parse({ base_path: basePath, ...config });
  const adapter = createFsAdapter(parsed, l1, port) as Required<L2Adapter>;
  after(() => adapter.close());
  await adapter.open(openContext(lines));
  return adapter;
}

/** A key of its own for each n. */
export function key(n: number, fields: Partial<ObjectKeyFields> = {}): ObjectKey {
  const chunkHash = Buffer.alloc(32);
  chunkHash.writeUInt32BE(n >>> 0, 0);
  return objectKey({ chunkHash, modelName: "org/model", kvRank: 0x01000100, ...fields });
}

/** A buffer of its own. */
export function memory(bytes: Uint8Array | number): MemoryObj {
  return { bytes: typeof bytes === "number" ? new Uint8Array(bytes) : bytes, poolOffset: null };
}

/** Bytes that tell n and every position apart. */
export function pattern(n: number, byteLength: number): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  for (let i = 0; i < byteLength; i++) bytes[i] = Math.imul(i + 1, 2654435761 + n * 40503) >>> 24;
  return bytes;
}

/** The bytes of a key, null if it is a miss. */
export async function loadOne(
  adapter: L2Adapter,
  k: ObjectKey,
  byteLength: number,
): Promise<Uint8Array | null> {
  const into = memory(byteLength);
  const loaded = await adapter.load([{ key: k, byteLength }], [into], never);
  return loaded.has(0) ? into.bytes : null;
}

/** Stores one object and requires that it was acknowledged. */
export async function storeOne(adapter: L2Adapter, k: ObjectKey, bytes: Uint8Array): Promise<number> {
  const result = await adapter.store([k], [memory(bytes)], never);
  const failure = result.failed.get(0);
  if (failure !== undefined) throw failure;
  return result.bytesTransferred;
}

/** Waits for a condition, without a bound of its own: the runner's time-out ends it. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise<void>((resolve) => setTimeout(resolve, 2));
}

/** True once the adapter's first scan of its directory is done. */
export function scansCompleted(adapter: L2Adapter): number {
  const scan = adapter.status()["scan"] as { scans_completed: number };
  return scan.scans_completed;
}

/** Mapped memory, as the engine gives it where koffi is; without koffi ordinary memory of threads. */
export async function anonymousL1(sizeBytes: number, useKoffi = true): Promise<L1MemoryDesc> {
  const journalId = "0".repeat(32);
  const pool = await openL1Pool({
    shmName: "",
    sizeBytes,
    alignBytes: 4096,
    journalId,
    expected: null,
    useKoffi,
  });
  return pool.desc;
}

/** All bytes of a small L1. */
export function memoryOf({ views }: L1MemoryDesc): Uint8Array {
  if (views[0] === undefined) throw new TypeError("nothing of L1 is mapped");
  return views[0].bytes;
}

/** Cuts objects out of L1, one behind the other at pages. */
export function cutter(l1: L1MemoryDesc): (bytes: Uint8Array | number) => MemoryObj {
  let poolOffset = 0;
  return (given) => {
    const byteLength = typeof given === "number" ? given : given.byteLength;
    const bytes = memoryOf(l1).subarray(poolOffset, poolOffset + byteLength);
    if (bytes.byteLength < byteLength) throw new RangeError("L1 of the test is too small");
    if (typeof given !== "number") bytes.set(given);
    const object = { bytes, poolOffset };
    poolOffset += Math.ceil(byteLength / 4096) * 4096;
    return object;
  };
}

/** Threads start with the first job; what comes before they are ready is done without them. */
export async function threadsReady(adapter: L2Adapter, count: number): Promise<void> {
  await until(async () => {
    await adapter.lookupAndLock([{ key: key(0xffffffff), byteLength: 1 }], never);
    return (adapter.status()["threads"] as { ready: number }).ready === count;
  });
}

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { L1MemoryDesc, L2Adapter, MemoryObj } from "@cache/contracts";
import { openL1Pool } from "@cache/l1-memory";
import {
  after,
  key,
  type LogLine,
  never,
  noL1,
  openContext,
  until,
} from "../../../tools/testing/src/adapter-fixtures.ts";
import { createFsAdapter } from "../src/adapter.ts";
import { fsConfigSchema } from "../src/config.ts";
import type { FsPort } from "../src/fs-port.ts";

export * from "../../../tools/testing/src/adapter-fixtures.ts";

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
  await adapter.open(openContext(lines, { id: "fs" }));
  return adapter;
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

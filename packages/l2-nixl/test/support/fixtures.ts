import { constants, existsSync } from "node:fs";
import { open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { L1MemoryDesc, L2Adapter, MemoryObj, ObjectKey } from "@cache/contracts";
import { kernelCalls } from "@cache/libc";
import {
  fillPattern,
  isPattern,
  key,
  loadOne as loadAnyOne,
  storeAll,
} from "../../../../tools/testing/src/adapter-fixtures.ts";

export {
  after,
  isPattern,
  key,
  type LogLine,
  never,
  noL1,
  openContext,
  temporaryDirectory,
  type TestAdapter,
  until,
} from "../../../../tools/testing/src/adapter-fixtures.ts";

export const ALIGN = 4096;
const L1_BYTES = 40 * 1024 * 1024;

/** Where files cost least: the suites try the adapter and not the disk. */
export function quickDirectory(): string {
  return existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
}

/** A directory whose filesystem has O_DIRECT; null, and a line that says so, if none is known. */
export async function directDirectory(): Promise<string | null> {
  for (const folder of [tmpdir(), process.cwd()]) {
    const path = join(folder, `.cache-l2-nixl-direct-${process.pid}`);
    try {
      const flags = constants.O_CREAT | constants.O_RDWR | (constants.O_DIRECT ?? 0);
      await (await open(path, flags, 0o600)).close();
      return folder;
    } catch {
      // no O_DIRECT there
    } finally {
      await rm(path, { force: true });
    }
  }
  process.stdout.write("  skipped: direct input and output, no filesystem here has O_DIRECT\n");
  return null;
}

let mapped: L1MemoryDesc | null = null;

/** Mapped memory, one for the whole test file; what is unmapped could still be written to. */
export function mappedL1(): L1MemoryDesc {
  if (mapped !== null) return mapped;
  const calls = kernelCalls();
  if (calls === null) throw new Error("these tests need koffi");
  const ptr = calls.mapAnonymous(L1_BYTES);
  const bytes = calls.view(ptr, L1_BYTES);
  mapped = {
    ptr,
    size: L1_BYTES,
    alignBytes: ALIGN,
    stableRegistrationSize: L1_BYTES,
    views: [{ offset: 0, bytes }],
  };
  return mapped;
}

let nextOffset = 0;

/** A piece of L1 of its own; they go round, so that a test must not hold more than fit. */
export function memory(byteLength: number): MemoryObj {
  const length = Math.ceil(byteLength / ALIGN) * ALIGN;
  if (nextOffset + length > L1_BYTES) nextOffset = 0;
  const poolOffset = nextOffset;
  nextOffset += length;
  const view = mappedL1().views[0]?.bytes as Uint8Array;
  return { bytes: view.subarray(poolOffset, poolOffset + byteLength), poolOffset };
}

/** Fills memory with the bytes of object n. */
export function fill(object: MemoryObj, n: number): MemoryObj {
  fillPattern(object.bytes, n);
  return object;
}

/** Stores object n and requires that it was acknowledged. */
export function storeOne(adapter: L2Adapter, n: number, byteLength: number, k = key(n)): Promise<number> {
  return storeAll(adapter, [k], [fill(memory(byteLength), n)]);
}

/** The bytes of a key, null if it is a miss. */
export function loadOne(adapter: L2Adapter, k: ObjectKey, byteLength: number): Promise<Uint8Array | null> {
  const into = memory(byteLength);
  into.bytes.fill(0x33);
  return loadAnyOne(adapter, k, byteLength, { into });
}

/** True if the object is there with its own bytes. */
export async function isWhole(
  adapter: L2Adapter,
  n: number,
  byteLength: number,
  k = key(n),
): Promise<boolean> {
  const bytes = await loadOne(adapter, k, byteLength);
  return bytes !== null && isPattern(bytes, n);
}

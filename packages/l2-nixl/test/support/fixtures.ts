import { constants, existsSync } from "node:fs";
import { mkdtemp, open, rm } from "node:fs/promises";
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
import { kernelCalls } from "@cache/libc";
import { afterEach } from "vitest";

export const never = new AbortController().signal;
export const ALIGN = 4096;
const L1_BYTES = 40 * 1024 * 1024;

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
  const path = await mkdtemp(join(tmpdir(), "cache-l2-nixl-"));
  after(() => rm(path, { recursive: true, force: true }));
  return path;
}

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

/** L1 of which nothing is mapped. */
export const noL1: L1MemoryDesc = { ptr: null, size: 0, alignBytes: ALIGN, views: [] };

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

/** One log line. */
export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields: unknown;
}

/** A context for `open`; log lines go to `lines`. */
export function openContext(
  stateDir: string | null = null,
  lines: LogLine[] = [],
  signal = never,
): OpenContext {
  const at =
    (level: string): AdapterLog["info"] =>
    (message, fields) =>
      void lines.push({ level, message, fields });
  const log = { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
  return { id: "nixl", stateDir, log, signal };
}

export type TestAdapter = L2Adapter & Required<Pick<L2Adapter, "delete" | "listKeys">>;

/** A key of its own for each n. */
export function key(n: number, fields: Partial<ObjectKeyFields> = {}): ObjectKey {
  const chunkHash = Buffer.alloc(32);
  chunkHash.writeUInt32BE(n >>> 0, 0);
  return objectKey({ chunkHash, modelName: "org/model", kvRank: 0x01000100, ...fields });
}

/** Fills memory with bytes that tell n and every position apart. */
export function fill(object: MemoryObj, n: number): MemoryObj {
  const { bytes } = object;
  for (let i = 0; i < bytes.length; i++) bytes[i] = Math.imul(i + 1, 2654435761 + n * 40503) >>> 24;
  return object;
}

/** True if the bytes are those of {@link fill}. */
export function isPattern(bytes: Uint8Array, n: number): boolean {
  return bytes.every((byte, i) => byte === Math.imul(i + 1, 2654435761 + n * 40503) >>> 24);
}

/** Stores one object and requires that it was acknowledged. */
export async function storeOne(
  adapter: L2Adapter,
  n: number,
  byteLength: number,
  k = key(n),
): Promise<number> {
  const result = await adapter.store([k], [fill(memory(byteLength), n)], never);
  const failure = result.failed.get(0);
  if (failure !== undefined) throw failure;
  return result.bytesTransferred;
}

/** The bytes of a key, null if it is a miss. */
export async function loadOne(
  adapter: L2Adapter,
  k: ObjectKey,
  byteLength: number,
): Promise<Uint8Array | null> {
  const into = memory(byteLength);
  into.bytes.fill(0x33);
  const loaded = await adapter.load([{ key: k, byteLength }], [into], never);
  return loaded.has(0) ? into.bytes : null;
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

/** Waits for a condition, without a bound of its own: the runner's time-out ends it. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise<void>((resolve) => setTimeout(resolve, 2));
}

import { randomBytes } from "node:crypto";
import { CacheError, type L1MemoryDesc, messageOf } from "@cache/contracts";
import { bulkCopy, kernelCalls, VIEW_BYTES_MAX } from "@cache/libc";
import { PoolViews } from "./pool-views.ts";
import type { L1Pool, L1PoolOptions, MapperScan, PoolAccess, PoolIdentity, PoolRefusal } from "./types.ts";

interface Memory {
  readonly address: bigint | null;
  readonly buffers: readonly Buffer[];
}

/** Mapped through koffi; without it chunks of SharedArrayBuffer, that worker threads can see too. */
function allocateMemory(sizeBytes: number, useKoffi: boolean): Memory {
  const lengths: number[] = [];
  for (let at = 0; at < sizeBytes; at += VIEW_BYTES_MAX)
    lengths.push(Math.min(VIEW_BYTES_MAX, sizeBytes - at));
  try {
    const calls = kernelCalls({ useKoffi });
    if (calls === null) {
      return {
        address: null,
        buffers: lengths.map((length) => Buffer.from(new SharedArrayBuffer(length))),
      };
    }
    const address = calls.mapAnonymous(sizeBytes);
    return {
      address,
      buffers: lengths.map((length, i) => calls.view(address + BigInt(i * VIEW_BYTES_MAX), length)),
    };
  } catch (error) {
    throw new CacheError(
      "POOL_UNAVAILABLE",
      `${sizeBytes} bytes of memory for L1 cannot be had: ${messageOf(error)}; set a smaller --l1-size-gb`,
      { cause: error },
    );
  }
}

/** L1 in memory of this process alone: clients go inline, nothing survives, there is nothing to reserve. */
export class AnonymousPool implements L1Pool {
  readonly identity: PoolIdentity;
  readonly access: PoolAccess = "anonymous";
  readonly shmName = "";
  readonly path = null;
  readonly sizeBytes: number;
  readonly reservedBytes: number;
  readonly reserveError = null;
  readonly reattached = false;
  readonly refusal: PoolRefusal = { check: "absent", detail: "shared memory is off: nothing of L1 survives" };
  readonly desc: L1MemoryDesc;
  readonly attachedPosition = null;
  readonly #views: PoolViews;

  constructor(options: L1PoolOptions) {
    const { sizeBytes, alignBytes, useKoffi = true } = options;
    const { address, buffers } = allocateMemory(sizeBytes, useKoffi);
    this.#views = new PoolViews(buffers, VIEW_BYTES_MAX, bulkCopy({ useKoffi }));
    const poolId = randomBytes(16).toString("hex");
    // Never compared: a boot id that no machine has keeps it from ever agreeing.
    const bootId = "0".repeat(32);
    this.identity = { poolId, bootId, device: "0", inode: "0", sizeBytes, alignBytes };
    this.sizeBytes = sizeBytes;
    this.reservedBytes = sizeBytes;
    this.desc = {
      ptr: address,
      size: sizeBytes,
      alignBytes,
      views: this.#views.list,
      ...(address === null ? {} : { stableRegistrationSize: sizeBytes }),
    };
  }

  async reserve(onProgress: (reservedBytes: number) => void): Promise<void> {
    onProgress(this.sizeBytes);
  }

  view(offset: number, length: number): Buffer {
    return this.#views.view(offset, length);
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#views.read(offset, into);
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    await this.#views.write(offset, from);
  }

  /** Nothing re-attaches this memory: there is nowhere to store a position or a mark. */
  storePosition(_position: bigint): void {}

  markNotReattachable(): void {}

  markReattachable(): void {}

  nameIsOurs(): boolean {
    return true;
  }

  async scanMappers(): Promise<MapperScan> {
    return { kind: "none" };
  }

  async close(_options: { keep: boolean }): Promise<void> {}
}

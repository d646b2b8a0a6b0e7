import { closeSync, fstatSync, read, statfsSync, unlinkSync, write, writeSync } from "node:fs";
import { basename } from "node:path";
import { promisify } from "node:util";
import type { L1MemoryDesc } from "@cache/contracts";
import { bulkCopy, kernelCalls, type KernelCalls, VIEW_BYTES_MAX } from "@cache/libc";
import { scanMappers } from "./mapper-scan.ts";
import { leadsTo, openForMapping, type PoolFile } from "./pool-file.ts";
import { assertInside, PoolViews } from "./pool-views.ts";
import { reservePages } from "./reserve.ts";
import { MARK_CELL, POSITION_CELL, RESERVED_CELL, TRAILER_BYTES } from "./trailer.ts";
import type { L1Pool, L1PoolOptions, MapperScan, PoolAccess, PoolIdentity, PoolRefusal } from "./types.ts";

/** TMPFS_MAGIC of <linux/magic.h>. */
const TMPFS_MAGIC = 0x01021994;

const readAt = promisify(read);
const writeAt = promisify(write);

interface Mapping {
  readonly address: bigint;
  readonly views: PoolViews;
  /** The trailer, as cells of 8 bytes. */
  readonly cells: BigUint64Array;
}

/** Maps the whole file once and lays views of at most 4 GiB over it. */
function mapPool(calls: KernelCalls, file: PoolFile, sizeBytes: number): Mapping {
  const fd = openForMapping(file.path, file.lock);
  try {
    const address = calls.mapShared(fd, sizeBytes + TRAILER_BYTES);
    const buffers: Buffer[] = [];
    for (let offset = 0; offset < sizeBytes; offset += VIEW_BYTES_MAX) {
      buffers.push(calls.view(address + BigInt(offset), Math.min(VIEW_BYTES_MAX, sizeBytes - offset)));
    }
    const trailer = calls.view(address + BigInt(sizeBytes), TRAILER_BYTES);
    const cells = new BigUint64Array(trailer.buffer, trailer.byteOffset, TRAILER_BYTES / 8);
    return { address, views: new PoolViews(buffers, VIEW_BYTES_MAX, bulkCopy()), cells };
  } finally {
    closeSync(fd);
  }
}

/** A pool file in shared memory: mapped through koffi, or reached by `pread` and `pwrite`. */
export class SharedPool implements L1Pool {
  readonly identity: PoolIdentity;
  readonly access: PoolAccess;
  readonly shmName: string;
  readonly path: string;
  readonly sizeBytes: number;
  readonly reattached: boolean;
  readonly refusal: PoolRefusal | null;
  readonly desc: L1MemoryDesc;
  readonly attachedPosition: bigint | null;
  readonly #file: PoolFile;
  readonly #fd: number;
  readonly #calls: KernelCalls | null;
  readonly #procDirectory: string | undefined;
  readonly #mapping: Mapping | null;
  readonly #cell = new BigUint64Array(1);
  #reservedBytes: number;
  #reserveError: Error | null = null;
  #reserving: Promise<void> | null = null;
  #closing = false;
  #closed = false;

  constructor(file: PoolFile, options: L1PoolOptions, procDirectory?: string) {
    const { sizeBytes, alignBytes, useKoffi = true } = options;
    this.#file = file;
    this.#fd = file.lock.fd;
    this.#calls = kernelCalls({ useKoffi });
    this.#procDirectory = procDirectory;
    this.#mapping = this.#calls === null ? null : mapPool(this.#calls, file, sizeBytes);
    this.identity = file.identity;
    this.access = this.#mapping === null ? "file" : "mapped";
    this.path = file.path;
    this.shmName = basename(file.path);
    this.sizeBytes = sizeBytes;
    this.reattached = file.attached !== null;
    this.refusal = file.refusal;
    this.attachedPosition = file.attached?.trailer.position ?? null;
    this.#reservedBytes = file.attached?.reservedBytes ?? 0;
    this.desc = {
      ptr: this.#mapping?.address ?? null,
      size: sizeBytes,
      alignBytes,
      views: this.#mapping?.views.list ?? [],
      ...(this.#mapping === null ? {} : { stableRegistrationSize: sizeBytes }),
    };
  }

  get reservedBytes(): number {
    return this.#reservedBytes;
  }

  get reserveError(): Error | null {
    return this.#reserveError;
  }

  reserve(onProgress: (reservedBytes: number) => void): Promise<void> {
    this.#assertOpen();
    this.#reserving ??= this.#reserveRest(onProgress).finally(() => {
      this.#reserving = null;
    });
    return this.#reserving;
  }

  view(offset: number, length: number): Buffer | null {
    this.#assertOpen();
    return this.#mapping?.views.view(offset, length) ?? null;
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    this.#assertOpen();
    if (this.#mapping !== null) return this.#mapping.views.read(offset, into);
    assertInside(offset, into.length, this.sizeBytes);
    for (let done = 0; done < into.length; ) {
      const { bytesRead } = await readAt(this.#fd, into, done, into.length - done, offset + done);
      if (bytesRead === 0) throw new Error(`${this.path} is shorter than L1: another process truncated it`);
      done += bytesRead;
    }
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.#assertOpen();
    if (this.#mapping !== null) return this.#mapping.views.write(offset, from);
    assertInside(offset, from.length, this.sizeBytes);
    for (let done = 0; done < from.length; ) {
      done += (await writeAt(this.#fd, from, done, from.length - done, offset + done)).bytesWritten;
    }
  }

  storePosition(position: bigint): void {
    this.#storeCell(POSITION_CELL, position);
  }

  markNotReattachable(): void {
    this.#storeCell(MARK_CELL, 1n);
  }

  markReattachable(): void {
    this.#storeCell(MARK_CELL, 0n);
  }

  nameIsOurs(): boolean {
    return !this.#closed && leadsTo(this.path, this.#fd);
  }

  async scanMappers(): Promise<MapperScan> {
    this.#assertOpen();
    const { dev, ino, uid, mode } = fstatSync(this.#fd, { bigint: true });
    const target = {
      device: dev,
      inode: ino,
      ownerUid: Number(uid),
      mode: Number(mode) & 0o7777,
      deviceIsCertain: statfsSync(`/proc/self/fd/${this.#fd}`).type === TMPFS_MAGIC,
    };
    return scanMappers(
      target,
      this.#procDirectory === undefined ? {} : { procDirectory: this.#procDirectory },
    );
  }

  async close(options: { keep: boolean }): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    await this.#reserving;
    if (!options.keep && this.nameIsOurs()) unlinkSync(this.path);
    this.#closed = true;
    this.#file.lock.release();
  }

  async #reserveRest(onProgress: (reservedBytes: number) => void): Promise<void> {
    this.#reserveError = await reservePages({
      fd: this.#fd,
      path: this.path,
      calls: this.#calls,
      // Only a pool that is new in this process is known to hold nothing beyond what is reserved.
      mayWriteZeros: !this.reattached,
      from: this.#reservedBytes,
      sizeBytes: this.sizeBytes,
      alignBytes: this.desc.alignBytes,
      isStopped: () => this.#closing,
      onStep: (reservedBytes) => {
        this.#reservedBytes = reservedBytes;
        this.#storeCell(RESERVED_CELL, BigInt(reservedBytes));
        onProgress(reservedBytes);
      },
    });
  }

  /** One aligned store of 8 bytes, in the byte order of the machine. */
  #storeCell(cell: number, value: bigint): void {
    this.#assertOpen();
    if (this.#mapping !== null) {
      Atomics.store(this.#mapping.cells, cell / 8, value);
      return;
    }
    this.#cell[0] = value;
    writeSync(this.#fd, this.#cell, 0, 8, this.sizeBytes + cell);
  }

  /** The lock is gone after `close`: the file may be another engine's by now, and the number another file. */
  #assertOpen(): void {
    if (this.#closed) throw new TypeError(`the pool ${this.path} is closed`);
  }
}

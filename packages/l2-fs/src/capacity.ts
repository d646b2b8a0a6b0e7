import { OwnObjects } from "@cache/adapter-kit";
import { type AdapterUsage, CacheError } from "@cache/contracts";
import type { FsConfig } from "./config.ts";
import type { FsPort } from "./fs-port.ts";

const GIB = 1024 ** 3;
/** The figure of free bytes is asked for again when it is older than this, in milliseconds. */
const FREE_BYTES_AGE_MS = 5000;

/** How full the directory is, and whether an object still fits. */
export class Capacity {
  /** What may be in the directory, in bytes. */
  readonly limitBytes: number | "unbounded";
  /** What this process stored. */
  readonly own = new OwnObjects();
  readonly #port: FsPort;
  readonly #config: FsConfig;
  readonly #basePath: string;
  #reservedBytes = 0;
  #freeBytes: number | null = null;
  #freeAskedMs = Number.NEGATIVE_INFINITY;

  constructor(port: FsPort, basePath: string, config: FsConfig) {
    this.#port = port;
    this.#config = config;
    this.#basePath = basePath;
    this.limitBytes = config.max_capacity_gb > 0 ? Math.floor(config.max_capacity_gb * GIB) : "unbounded";
  }

  /** Bytes free on the filesystem when last asked; null if it did not answer, or was not asked yet. */
  get freeBytes(): number | null {
    return this.#freeBytes;
  }

  /** Asks for the free bytes if that was some seconds ago; does not wait for the answer. */
  refreshFreeBytes(): void {
    const now = performance.now();
    if (now - this.#freeAskedMs < FREE_BYTES_AGE_MS) return;
    this.#freeAskedMs = now;
    this.#port.statfs(this.#basePath).then(
      ({ bavail, bsize }) => (this.#freeBytes = bavail * bsize),
      () => (this.#freeBytes = null),
    );
  }

  /** This process's bytes, as the engine asks for them. */
  usage(): AdapterUsage {
    return {
      totalBytesUsed: this.own.bytes,
      capacityBytes: this.limitBytes,
      bytesByCacheSalt: this.own.bytesByCacheSalt(),
    };
  }

  /**
   * Keeps room for an object that is about to be written; {@link release} it when that has ended.
   *
   * @param tierBytes what the scan knows to be in the directory, other nodes' objects too.
   * @throws CacheError `BACKEND_FULL` if there is no room.
   */
  reserve(byteLength: number, tierBytes: number): void {
    const used = Math.max(this.own.bytes, tierBytes) + this.#reservedBytes;
    if (this.limitBytes !== "unbounded" && used + byteLength > this.limitBytes) {
      throw new CacheError(
        "BACKEND_FULL",
        `${this.#basePath} holds ${used} of ${this.limitBytes} bytes (max_capacity_gb ${this.#config.max_capacity_gb}) and has no room for ${byteLength} more; raise max_capacity_gb or configure eviction`,
        { details: { usedBytes: used, capacityBytes: this.limitBytes } },
      );
    }
    this.#reservedBytes += byteLength;
  }

  /** Gives back the room of an object: it is stored and counted, or was not stored. */
  release(byteLength: number): void {
    this.#reservedBytes -= byteLength;
  }
}

import { TierAccount } from "@cache/adapter-kit";
import type { FsConfig } from "./config.ts";
import type { FsPort } from "./fs-port.ts";

const GIB = 1024 ** 3;
/** The figure of free bytes is asked for again when it is older than this, in milliseconds. */
const FREE_BYTES_AGE_MS = 5000;

/** How full the directory is, and how much its filesystem has free. */
export class Capacity extends TierAccount {
  readonly #port: FsPort;
  readonly #basePath: string;
  #freeBytes: number | null = null;
  #freeAskedMs = Number.NEGATIVE_INFINITY;

  constructor(port: FsPort, basePath: string, { max_capacity_gb }: FsConfig) {
    const limitBytes = max_capacity_gb > 0 ? Math.floor(max_capacity_gb * GIB) : "unbounded";
    super({ location: basePath, limitBytes });
    this.#port = port;
    this.#basePath = basePath;
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
}

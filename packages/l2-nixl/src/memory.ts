import { CacheError, type L1MemoryDesc, type MemoryObj } from "@cache/contracts";
import type { NixlAgent, Piece, Registration } from "./agent.ts";

/** Longest piece, in bytes: the kernel takes less than 2 GiB in one call. */
const PIECE_BYTES_MAX = 256 * 1024 * 1024;

/** Part of a file or object that an object of the cache lies in. */
export interface Range {
  readonly device: number;
  readonly offset: number;
  readonly byteLength: number;
}

/** L1 as it is registered. */
export class L1Region {
  readonly #base: number;
  readonly #byteLength: number;

  /** @throws CacheError `UNSUPPORTED` if L1 is not mapped, or may move. */
  constructor(l1: L1MemoryDesc) {
    if (l1.ptr === null || l1.stableRegistrationSize === undefined) {
      throw new CacheError(
        "UNSUPPORTED",
        "NIXL needs a mapped L1 and this engine has none; install koffi and keep shared memory on",
      );
    }
    this.#base = Number(l1.ptr);
    this.#byteLength = Math.min(l1.stableRegistrationSize, l1.size);
  }

  /** Makes it known to the library, once. */
  register(agent: NixlAgent): Promise<Registration> {
    return agent.register("memory", [{ address: this.#base, byteLength: this.#byteLength, device: 0 }]);
  }

  /**
   * Where an object lies.
   *
   * @throws CacheError `INVALID_ARGUMENT` for one outside of what is registered.
   */
  address({ bytes, poolOffset }: MemoryObj): number {
    const end = (poolOffset ?? Number.NaN) + bytes.byteLength;
    if (poolOffset !== null && poolOffset >= 0 && end <= this.#byteLength) return this.#base + poolOffset;
    throw new CacheError(
      "INVALID_ARGUMENT",
      `an object at ${poolOffset} of ${bytes.byteLength} bytes lies outside of L1, and NIXL knows no other memory`,
    );
  }
}

/** A block of registered memory beside L1, given back after use. */
export interface Block {
  readonly bytes: Uint8Array;
  readonly address: number;
}

/**
 * Blocks for what cannot be moved straight from or to L1: with direct input and output only whole blocks move, and an
 * object's last bytes share theirs with what is not ours.
 */
export class Blocks {
  /** Most blocks that one taker may ask for. */
  static readonly most = 128;
  readonly #agent: NixlAgent;
  readonly #free: Block[] = [];
  readonly #waiting: { readonly count: number; readonly go: (blocks: Block[]) => void }[] = [];
  readonly #base: number;
  readonly #byteLength: number;
  #registration: Registration | null = null;

  constructor(agent: NixlAgent, blockBytes: number, addressOf: (buffer: Uint8Array) => number) {
    this.#agent = agent;
    this.#byteLength = blockBytes * Blocks.most;
    const memory = new Uint8Array(this.#byteLength + blockBytes);
    const at = addressOf(memory);
    const skip = (blockBytes - (at % blockBytes)) % blockBytes;
    this.#base = at + skip;
    for (let i = 0; i < Blocks.most; i++) {
      const from = skip + i * blockBytes;
      this.#free.push({ bytes: memory.subarray(from, from + blockBytes), address: at + from });
    }
  }

  /** Makes them known to the library. */
  async register(): Promise<void> {
    const item = { address: this.#base, byteLength: this.#byteLength, device: 0 };
    this.#registration = await this.#agent.register("memory", [item]);
  }

  /** Runs `work` with so many blocks, at most {@link Blocks.most}, when they are free. */
  async use<T>(count: number, work: (blocks: readonly Block[]) => Promise<T>): Promise<T> {
    if (count > Blocks.most) throw new TypeError(`${count} blocks of ${Blocks.most}`);
    const mustWait = this.#waiting.length > 0 || this.#free.length < count;
    const blocks = mustWait
      ? await new Promise<Block[]>((go) => this.#waiting.push({ count, go }))
      : this.#free.splice(0, count);
    try {
      return await work(blocks);
    } finally {
      this.#free.push(...blocks);
      this.#wake();
    }
  }

  /** Hands blocks to those who wait, in order. Here and now: who asks before they go on must not get the same ones. */
  #wake(): void {
    for (let [next] = this.#waiting; next !== undefined; [next] = this.#waiting) {
      if (next.count > this.#free.length) return;
      this.#waiting.shift();
      next.go(this.#free.splice(0, next.count));
    }
  }

  async close(): Promise<void> {
    await this.#registration?.close();
    this.#registration = null;
  }
}

/**
 * The pieces of an object over the ranges that it lies in, in order.
 *
 * @param block 1, or the length that all pieces must be multiples of; then `tail` is where the object's last part of
 *   a block lies, null if there is none.
 */
export function piecesOf(
  address: number,
  byteLength: number,
  ranges: readonly Range[],
  block: number,
  tail: number | null,
): Piece[] {
  const pieces: Piece[] = [];
  const body = byteLength - (byteLength % block);
  let done = 0;
  for (const range of ranges) {
    let used = 0;
    for (; used < range.byteLength && done < body; ) {
      const length = Math.min(range.byteLength - used, body - done, PIECE_BYTES_MAX);
      const { device } = range;
      pieces.push({ address: address + done, byteLength: length, offset: range.offset + used, device });
      used += length;
      done += length;
    }
    if (done === body && used < range.byteLength) {
      if (body < byteLength) {
        if (tail === null) throw new TypeError("no block for the last part of an object");
        const offset = range.offset + used;
        pieces.push({ address: tail, byteLength: block, offset, device: range.device });
      }
      return pieces;
    }
  }
  if (done < body || body < byteLength) throw new TypeError(`ranges too short for ${byteLength} bytes`);
  return pieces;
}

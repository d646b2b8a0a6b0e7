import { CacheError, type MemoryObj } from "@cache/contracts";
import type { Core } from "../core.ts";

/** How long a transfer waits for buffers. */
const BORROW_MS_MAX = 10_000;

/** A place in L1. */
export interface Range {
  readonly offset: number;
  readonly length: number;
}

/** Memory for an adapter to read from or write into, for some ranges of L1. */
export interface BorrowedBuffers {
  readonly objects: readonly MemoryObj[];
  /** After a load: brings the given positions into the pool. Nothing to do where the pool is mapped. */
  bringIn(positions: Iterable<number>): Promise<void>;
  /** Once the adapter has settled. */
  giveBack(): void;
}

/**
 * Views of the pool where it is mapped. Without a mapping: buffers of a bounded budget that are copied from and to
 * the pool file; who finds the budget used waits in order of arrival.
 */
export class ObjectBuffers {
  readonly #core: Core;
  #bytesOut = 0;
  #waiting: {
    bytes: number;
    resolve: () => void;
    reject: (error: CacheError) => void;
    cancel: () => void;
  }[] = [];

  constructor(core: Core) {
    this.#core = core;
  }

  /** Bytes of bounce buffers in use; 0 where the pool is mapped. */
  get bounceBytes(): number {
    return this.#bytesOut;
  }

  /** @param fill true to copy the ranges' bytes into the buffers first (a store). */
  async borrow(ranges: readonly Range[], fill: boolean): Promise<BorrowedBuffers> {
    const { pool } = this.#core;
    const views = ranges.map(({ offset, length }) => pool.view(offset, length));
    if (views.every((view) => view !== null)) {
      return {
        objects: views.map((bytes, i) => ({ bytes, poolOffset: (ranges[i] as Range).offset })),
        bringIn: () => Promise.resolve(),
        giveBack: () => {},
      };
    }
    return this.#bounce(ranges, fill);
  }

  async #bounce(ranges: readonly Range[], fill: boolean): Promise<BorrowedBuffers> {
    const { pool } = this.#core;
    const total = ranges.reduce((sum, { length }) => sum + length, 0);
    await this.#take(total);
    const buffers = ranges.map(({ length }) => Buffer.allocUnsafeSlow(length));
    try {
      if (fill)
        for (const [i, range] of ranges.entries()) await pool.read(range.offset, buffers[i] as Buffer);
    } catch (error) {
      this.#release(total);
      throw error;
    }
    return {
      objects: buffers.map((bytes) => ({ bytes, poolOffset: null })),
      bringIn: async (positions) => {
        for (const i of positions) await pool.write((ranges[i] as Range).offset, buffers[i] as Buffer);
      },
      giveBack: () => this.#release(total),
    };
  }

  #fits(bytes: number): boolean {
    return this.#bytesOut === 0 || this.#bytesOut + bytes <= this.#core.options.bounceBytesMax;
  }

  async #take(bytes: number): Promise<void> {
    if (this.#waiting.length > 0 || !this.#fits(bytes)) {
      await new Promise<void>((resolve, reject) => {
        const cancel = this.#core.clock.after(BORROW_MS_MAX, () => this.#giveUp(resolve));
        this.#waiting.push({ bytes, resolve, reject, cancel });
      });
      return;
    }
    this.#bytesOut += bytes;
  }

  #giveUp(resolve: () => void): void {
    const at = this.#waiting.findIndex((waiting) => waiting.resolve === resolve);
    const [waiting] = at < 0 ? [] : this.#waiting.splice(at, 1);
    waiting?.reject(
      new CacheError(
        "LIMIT_REACHED",
        `no buffer came free in ${BORROW_MS_MAX} ms: ${this.#bytesOut} bytes are with the adapter; install koffi, and none are needed`,
      ),
    );
  }

  #release(bytes: number): void {
    this.#bytesOut -= bytes;
    for (let next = this.#waiting[0]; next !== undefined && this.#fits(next.bytes); next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#bytesOut += next.bytes;
      next.cancel();
      next.resolve();
    }
  }
}

/** Kept between turns; a larger buffer is given back to the heap. */
const KEEP_BYTES = 1024 * 1024;
const START_BYTES = 16 * 1024;

/** A buffer that grows by doubling and is used again. */
export class PendingBytes {
  length = 0;
  buffer: Buffer = Buffer.alloc(0);

  /** Makes room behind `length`. */
  reserve(bytes: number): void {
    const needed = this.length + bytes;
    if (needed <= this.buffer.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.buffer.length * 2, START_BYTES));
    this.buffer.copy(grown, 0, 0, this.length);
    this.buffer = grown;
  }

  /** What waits; valid until the next `reserve` or `clear`. */
  bytes(): Buffer {
    return this.buffer.subarray(0, this.length);
  }

  clear(): void {
    this.length = 0;
    if (this.buffer.length > KEEP_BYTES) this.buffer = Buffer.alloc(0);
  }
}

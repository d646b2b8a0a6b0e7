import type { L1View } from "@cache/contracts";
import type { BulkCopy } from "@cache/libc";

/** Throws unless `[offset, offset + length)` lies in L1. */
export function assertInside(offset: number, length: number, sizeBytes: number): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  if (!whole || offset < 0 || length < 0 || offset + length > sizeBytes) {
    throw new RangeError(`${length} bytes at ${offset} do not lie in L1 (${sizeBytes} bytes)`);
  }
}

/** The buffers over L1, each `viewBytes` long but the last. */
export class PoolViews {
  readonly #buffers: readonly Buffer[];
  readonly #viewBytes: number;
  readonly #sizeBytes: number;
  readonly #copy: BulkCopy;

  constructor(buffers: readonly Buffer[], viewBytes: number, copy: BulkCopy) {
    this.#copy = copy;
    this.#buffers = buffers;
    this.#viewBytes = viewBytes;
    this.#sizeBytes = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
  }

  get list(): readonly L1View[] {
    return this.#buffers.map((bytes, i) => ({ offset: i * this.#viewBytes, bytes }));
  }

  /** @throws RangeError if the range crosses the end of a view. */
  view(offset: number, length: number): Buffer {
    assertInside(offset, length, this.#sizeBytes);
    // An empty range at the very end belongs to the last view.
    const index = Math.min(Math.floor(offset / this.#viewBytes), this.#buffers.length - 1);
    const buffer = this.#buffers[index];
    const start = offset - index * this.#viewBytes;
    if (buffer === undefined || start + length > buffer.length) {
      throw new RangeError(`${length} bytes at ${offset} cross the end of a view (${this.#viewBytes} bytes)`);
    }
    return buffer.subarray(start, start + length);
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#eachPart(offset, into, (part, bytes) => this.#copy(bytes, part));
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    await this.#eachPart(offset, from, (part, bytes) => this.#copy(part, bytes));
  }

  async #eachPart(
    offset: number,
    bytes: Uint8Array,
    copy: (part: Buffer, bytes: Uint8Array) => Promise<void>,
  ): Promise<void> {
    assertInside(offset, bytes.length, this.#sizeBytes);
    for (let done = 0; done < bytes.length; ) {
      const at = offset + done;
      const length = Math.min(bytes.length - done, this.#viewBytes - (at % this.#viewBytes));
      await copy(this.view(at, length), bytes.subarray(done, done + length));
      done += length;
    }
  }
}

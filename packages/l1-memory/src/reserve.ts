import { write } from "node:fs";
import { promisify } from "node:util";
import { CacheError, hasCode, messageOf } from "@cache/contracts";
import { fallocateByCommand, type KernelCalls } from "@cache/libc";

/** Bytes that are reserved at a time: about a tenth of a second. */
const STEP_BYTES = 256 * 2 ** 20;
const ZEROS_BYTES = 4 * 2 ** 20;

const writeAt = promisify(write);

/** What to reserve. */
export interface ReserveRequest {
  readonly fd: number;
  readonly path: string;
  readonly calls: KernelCalls | null;
  /** True if nothing beyond `from` can hold data. */
  readonly mayWriteZeros: boolean;
  /** Bytes that are reserved already. */
  readonly from: number;
  readonly sizeBytes: number;
  readonly alignBytes: number;
  isStopped(): boolean;
  onStep(reservedBytes: number): void;
}

async function writeZeros(fd: number, offset: number, length: number): Promise<void> {
  const zeros = Buffer.alloc(Math.min(ZEROS_BYTES, length));
  for (let done = 0; done < length; ) {
    const count = Math.min(zeros.length, length - done);
    done += (await writeAt(fd, zeros, 0, count, offset + done)).bytesWritten;
  }
}

/** One step by the best way there is; never writes where data may be. */
async function reserveStep(request: ReserveRequest, offset: number, length: number): Promise<void> {
  if (request.calls !== null) return request.calls.fallocate(request.fd, offset, length);
  try {
    await fallocateByCommand(request.fd, offset, length);
  } catch (error) {
    if (!request.mayWriteZeros || !hasCode(error, "UNSUPPORTED")) throw error;
    await writeZeros(request.fd, offset, length);
  }
}

function stopped(request: ReserveRequest, reserved: number, error: unknown): CacheError {
  return new CacheError(
    "POOL_TOO_LARGE",
    `only ${reserved} of ${request.sizeBytes} bytes of L1 could be reserved in ${request.path}: ` +
      `${messageOf(error)}; L1 goes on with these. Free or enlarge shared memory, or set a smaller --l1-size-gb`,
    { cause: error, details: { reservedBytes: reserved, sizeBytes: request.sizeBytes } },
  );
}

/**
 * Reserves pages step by step, off the main thread. `onStep` is called after each step, and once if there is
 * nothing to do.
 *
 * @returns null at the end (or when stopped), else why it went no further.
 */
export async function reservePages(request: ReserveRequest): Promise<CacheError | null> {
  const { sizeBytes, alignBytes } = request;
  const step = Math.max(STEP_BYTES, alignBytes);
  let reserved = request.from;
  if (reserved === sizeBytes) request.onStep(reserved);
  while (reserved < sizeBytes && !request.isStopped()) {
    const length = Math.min(step, sizeBytes - reserved);
    try {
      await reserveStep(request, reserved, length);
    } catch (error) {
      return stopped(request, reserved, error);
    }
    reserved += length;
    request.onStep(reserved);
  }
  return null;
}

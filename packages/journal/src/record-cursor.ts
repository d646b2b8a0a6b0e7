import { checksum, headChecksum } from "./checksum.ts";
import { HEADER_BYTES, RECORD_HEAD_BYTES, SECTOR_BYTES } from "./format.ts";

/** Reads are this long; a fresh buffer each, so that payloads stay valid, unless `reuse` is set. */
const WINDOW_BYTES = 256 * 1024;

/** Where a cursor reads. */
export interface RecordSource {
  /** Fills `buffer[0, length)` from a file position; returns how many bytes came. */
  read(buffer: Buffer, length: number, position: number): number;
  /** Bytes that may be read. */
  readonly size: number;
}

/** How a cursor reads. */
export interface CursorOptions {
  readonly salt: number;
  /** Log: position of the first record. Side: unused. */
  readonly first: number;
  /** Records are keyed by position (log) or by byte offset (side). */
  readonly keyedBy: "position" | "offset";
  readonly recordBytesMax: number;
  /** Check the payload's checksum, too. */
  readonly verify: boolean;
  /** Overwrite the same buffer: payloads are valid until the next record only. */
  readonly reuse?: boolean;
}

/** Why a cursor stopped before the end. */
export type RecordFault = "short-head" | "bad-head" | "too-long" | "short-payload" | "bad-payload";

/** What to tell people about a fault. */
export const FAULT_TEXT: Readonly<Record<RecordFault, string>> = {
  "short-head": "the segment ends inside a record's head",
  "bad-head": "checksum of a record's head does not match",
  "too-long": "record is longer than recordBytesMax",
  "short-payload": "the segment ends inside a record's payload",
  "bad-payload": "checksum of a record's payload does not match",
};

/** Walks over the records of one segment with large reads. */
export class RecordCursor {
  /** Offset of the next record, after the end that of the first one that is not good. */
  offset = HEADER_BYTES;
  /** Position of the next record. */
  position: number;
  /** Set once the walk has stopped early. */
  fault: RecordFault | null = null;
  /** Where the record that `next` found begins. */
  recordOffset = 0;
  /** Position of the record that `next` found. */
  recordPosition = 0;
  private readonly source: RecordSource;
  private readonly options: CursorOptions;
  private window: Buffer = Buffer.alloc(0);
  private windowAt = 0;
  private windowLength = 0;
  private payloadStart = 0;
  private payloadEnd = 0;

  constructor(source: RecordSource, options: CursorOptions) {
    this.source = source;
    this.options = options;
    this.position = options.first;
  }

  /** Goes to the next record. False: the segment has ended or, with `fault`, stopped being good. */
  next(): boolean {
    const { source, options, offset } = this;
    if (this.fault !== null || offset >= source.size) return false;
    if (!this.have(offset, RECORD_HEAD_BYTES)) return this.stop("short-head");
    let at = offset - this.windowAt;
    const length = this.window.readUInt32LE(at);
    const head = this.window.readUInt32LE(at + 4);
    const key = options.keyedBy === "position" ? this.position : offset;
    if (headChecksum(options.salt, key, length) !== head) return this.stop("bad-head");
    if (length > options.recordBytesMax) return this.stop("too-long");
    if (!this.have(offset, RECORD_HEAD_BYTES + length)) return this.stop("short-payload");
    at = offset - this.windowAt;
    this.payloadStart = at + RECORD_HEAD_BYTES;
    this.payloadEnd = this.payloadStart + length;
    if (options.verify) {
      const body = checksum(this.window, this.payloadStart, this.payloadEnd, head);
      if (this.window.readUInt32LE(at + 8) !== body) return this.stop("bad-payload");
    }
    this.recordOffset = offset;
    this.recordPosition = this.position;
    this.offset = offset + RECORD_HEAD_BYTES + length;
    this.position++;
    return true;
  }

  /** Payload of the record that `next` found. */
  payload(): Uint8Array {
    return this.window.subarray(this.payloadStart, this.payloadEnd);
  }

  /** After `bad-payload`: goes on behind that record, whose head is good. */
  skipBadPayload(): void {
    if (this.fault !== "bad-payload") return;
    this.offset += RECORD_HEAD_BYTES + (this.payloadEnd - this.payloadStart);
    this.position++;
    this.fault = null;
  }

  private stop(fault: RecordFault): false {
    this.fault = fault;
    return false;
  }

  private have(offset: number, bytes: number): boolean {
    if (offset + bytes <= this.windowAt + this.windowLength) return true;
    const left = this.source.size - offset;
    if (left < bytes) return false;
    const length = Math.min(left, Math.max(bytes, WINDOW_BYTES));
    if (this.options.reuse !== true || this.window.length < length) {
      this.window = Buffer.allocUnsafeSlow(length);
    }
    this.windowAt = offset;
    this.windowLength = this.source.read(this.window, length, offset);
    return this.windowLength >= bytes;
  }
}

/** Where the zeros begin with which the file ends; its size if it ends in another byte. Looks no further back than `from`. */
function zerosBeginAt(source: RecordSource, from: number): number {
  let begin = source.size;
  const buffer = Buffer.allocUnsafe(Math.min(64 * 1024, Math.max(1, source.size - from)));
  while (begin > from) {
    const start = Math.max(from, begin - buffer.length);
    let at = source.read(buffer, begin - start, start);
    while (at > 0 && buffer[at - 1] === 0) at--;
    begin = start + at;
    if (at > 0) break;
  }
  return begin;
}

/** True if there is nothing but zeros from an offset on. */
export function isAllZero(source: RecordSource, from: number): boolean {
  return zerosBeginAt(source, from) <= from;
}

/**
 * True if the file holds zeros up to its end from `offset`, or from a later sector boundary: what a machine that died
 * leaves where pages never came.
 */
export function endsInHole(source: RecordSource, offset: number): boolean {
  const begin = zerosBeginAt(source, offset);
  if (begin >= source.size) return false;
  return begin <= offset || Math.ceil(begin / SECTOR_BYTES) * SECTOR_BYTES < source.size;
}

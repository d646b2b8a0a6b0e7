import { CacheError } from "@cache/contracts";
import { type AppendFile, appendBytes, createAppendFile, reopenAppendFile } from "./append-file.ts";
import type { Durability } from "./durability.ts";
import type { JournalFiles } from "./files.ts";
import { encodeRecord, HEADER_BYTES, RECORD_HEAD_BYTES, saltOf, segmentName } from "./format.ts";
import { PendingBytes } from "./pending-bytes.ts";
import type { SegmentInfo } from "./recovery.ts";

/** What {@link LogWriter} needs. */
export interface LogWriterOptions {
  readonly files: JournalFiles;
  readonly durability: Durability;
  readonly journalId: string;
  readonly segmentBytesMax: number;
  readonly recordBytesMax: number;
  /** Good segments after the snapshot. */
  readonly segments: SegmentInfo[];
  /** Position of the last good record. */
  readonly lastPosition: number;
  /** Do not append to the last recovered segment if it holds anything. */
  readonly beginSegment: boolean;
}

/** The log segments: what waits, what is in files, which file grows. */
export class LogWriter {
  readonly segments: SegmentInfo[];
  /** Last appended position. */
  position: number;
  /** Last position in a file. */
  committed: number;
  readonly salt: number;
  private readonly options: LogWriterOptions;
  private readonly pending = new PendingBytes();
  private file: AppendFile;

  /** @throws whatever the files throw: a new journal needs its first segment. */
  constructor(options: LogWriterOptions) {
    this.options = options;
    this.segments = options.segments;
    this.salt = saltOf(options.journalId);
    this.position = options.lastPosition;
    this.committed = options.lastPosition;
    const last = options.segments.at(-1);
    const goesOn = last !== undefined && (!options.beginSegment || last.last < last.first);
    this.file = goesOn
      ? reopenAppendFile(options.files, { kind: "log", name: last.name, length: last.bytes })
      : this.create();
  }

  /** Bytes that wait for a commit. */
  get pendingBytes(): number {
    return this.pending.length;
  }

  /** The file that grows. */
  get current(): AppendFile {
    return this.file;
  }

  /** Bytes of all segments. */
  get bytes(): number {
    return this.segments.reduce((sum, segment) => sum + segment.bytes, 0);
  }

  /** Encodes records behind those that wait. Lengths are the caller's to check. */
  append(records: readonly Uint8Array[]): void {
    let bytes = 0;
    for (const payload of records) bytes += RECORD_HEAD_BYTES + payload.length;
    this.pending.reserve(bytes);
    let at = this.pending.length;
    for (const payload of records) {
      at = encodeRecord(this.pending.buffer, at, { salt: this.salt, key: ++this.position, payload });
    }
    this.pending.length = at;
  }

  /** @throws CacheError `INVALID_ARGUMENT` for a record that is too long. */
  check(records: readonly Uint8Array[]): number {
    let bytes = 0;
    for (const payload of records) {
      if (payload.length > this.options.recordBytesMax) {
        throw new CacheError(
          "INVALID_ARGUMENT",
          `record of ${payload.length} bytes is longer than recordBytesMax ${this.options.recordBytesMax}; split it`,
        );
      }
      bytes += RECORD_HEAD_BYTES + payload.length;
    }
    return bytes;
  }

  /** Name of the file that the next write goes to. */
  get target(): string {
    return this.isFull() ? segmentName(this.committed + 1) : this.file.name;
  }

  /** Writes what waits with one write. `onWritten` sees the bytes before they are dropped. */
  write(onWritten: (bytes: Buffer, first: number) => void): void {
    if (this.pending.length === 0) return;
    if (this.isFull()) this.rotate();
    const bytes = this.pending.bytes();
    appendBytes(this.options.files, this.file, bytes);
    const segment = this.segments.at(-1);
    if (segment === undefined) throw new TypeError("no segment");
    const first = this.committed + 1;
    segment.bytes = this.file.length;
    segment.last = this.position;
    this.committed = this.position;
    this.options.durability.wrote(this.file);
    onWritten(bytes, first);
    this.pending.clear();
  }

  /** Closes the current segment unless it is empty. Nothing may wait. Returns the last position of what is closed. */
  rotate(): number {
    if (this.file.length > HEADER_BYTES) {
      const closed = this.file;
      this.file = this.create();
      this.options.durability.retire(closed);
    }
    return this.committed;
  }

  /** Removes closed segments up to a position, off the main thread. Returns what could not be removed. */
  async removeThrough(position: number): Promise<unknown[]> {
    const failures: unknown[] = [];
    while (this.segments.length > 1) {
      const oldest = this.segments[0];
      if (oldest === undefined || oldest.last > position) break;
      this.segments.shift();
      try {
        await this.options.files.removeLater(oldest.name);
      } catch (error) {
        failures.push(error);
      }
    }
    return failures;
  }

  private isFull(): boolean {
    return this.file.length >= this.options.segmentBytesMax && this.file.length > HEADER_BYTES;
  }

  private create(): AppendFile {
    const { files, journalId, durability } = this.options;
    const first = this.committed + 1;
    const name = segmentName(first);
    const file = createAppendFile(files, name, { kind: "log", header: { journalId, number: first } });
    this.segments.push({ name, first, last: first - 1, bytes: HEADER_BYTES });
    durability.created();
    durability.wrote(file);
    return file;
  }
}

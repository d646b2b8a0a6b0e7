import { CacheError } from "@cache/contracts";
import { type AppendFile, appendBytes, createAppendFile, reopenAppendFile } from "./append-file.ts";
import { checksum, headChecksum } from "./checksum.ts";
import type { Durability } from "./durability.ts";
import { type JournalFiles, readFully } from "./files.ts";
import { encodeRecord, HEADER_BYTES, RECORD_HEAD_BYTES, saltOf, sideName } from "./format.ts";
import { PendingBytes } from "./pending-bytes.ts";
import type { RecoveredSide, SideSegmentInfo } from "./side-recovery.ts";
import type { SideLog, SideRef } from "./types.ts";

/** Records are read in windows of this size, so that references in order cost few reads. */
const WINDOW_BYTES = 16 * 1024;
/** Records of a segment whose length is looked up after a start; the others are taken to be like them. */
const SAMPLES_MAX = 16;

/** What {@link SideSegments} needs. */
export interface SideLogOptions {
  readonly files: JournalFiles;
  readonly durability: Durability;
  readonly journalId: string;
  readonly segmentBytesMax: number;
  readonly recordBytesMax: number;
  readonly recovered: RecoveredSide;
  /** @throws CacheError `LIMIT_REACHED` if no more bytes may wait. */
  readonly admit: (bytes: number) => void;
}

interface Chunk {
  readonly segment: number;
  /** Where in the file the chunk begins. */
  readonly offset: number;
  readonly bytes: PendingBytes;
}

/** The side segments. Memory: a few numbers a segment, nothing a record. */
export class SideSegments implements SideLog {
  private readonly options: SideLogOptions;
  private readonly salt: number;
  private readonly segments: Map<number, SideSegmentInfo>;
  /** Waiting bytes, oldest first; more than one only where a segment ended. */
  private readonly chunks: Chunk[] = [];
  /** Segment and length with everything that waits. */
  private planned: SideSegmentInfo | null;
  private file: AppendFile | null = null;
  private fileSegment = 0;
  private lastNumber: number;
  /** Buffer of a chunk that was written, to be used again: a fresh one each turn would keep the collector busy. */
  private spare: PendingBytes | null = null;
  /** Closed segment that was read last. */
  private reader: { readonly segment: number; readonly handle: number } | null = null;
  private readonly window = { segment: 0, start: 0, length: 0, bytes: Buffer.alloc(0) };

  constructor(options: SideLogOptions) {
    this.options = options;
    this.salt = saltOf(options.journalId);
    this.segments = options.recovered.segments;
    this.lastNumber = Math.max(0, ...this.segments.keys());
    this.planned = options.recovered.open;
    if (this.planned !== null) {
      const { number, length } = this.planned;
      this.file = reopenAppendFile(options.files, { kind: "side", name: sideName(number), length });
      this.fileSegment = number;
    }
  }

  get current(): AppendFile | null {
    return this.file;
  }

  get pendingBytes(): number {
    return this.chunks.reduce((sum, chunk) => sum + chunk.bytes.length, 0);
  }

  get count(): number {
    return this.segments.size;
  }

  /** Bytes of all side segments, waiting ones included. */
  get bytes(): number {
    let sum = 0;
    for (const segment of this.segments.values()) sum += segment.length;
    return sum;
  }

  /** Name of the file that the next write goes to, null if nothing waits. */
  get target(): string | null {
    const chunk = this.chunks[0];
    return chunk === undefined ? null : sideName(chunk.segment);
  }

  append(payload: Uint8Array): SideRef {
    const { recordBytesMax, segmentBytesMax } = this.options;
    if (payload.length > recordBytesMax) {
      const text = `side record of ${payload.length} bytes is longer than recordBytesMax ${recordBytesMax}`;
      throw new CacheError("INVALID_ARGUMENT", `${text}; split it`);
    }
    const bytes = RECORD_HEAD_BYTES + payload.length;
    this.options.admit(bytes);
    let planned = this.planned;
    if (planned === null || (planned.length >= segmentBytesMax && planned.length > HEADER_BYTES)) {
      planned = { number: ++this.lastNumber, length: HEADER_BYTES, records: 0, alive: 0, known: true };
      this.planned = planned;
      this.segments.set(planned.number, planned);
    }
    let chunk = this.chunks.at(-1);
    if (chunk === undefined || chunk.segment !== planned.number) {
      chunk = { segment: planned.number, offset: planned.length, bytes: this.spare ?? new PendingBytes() };
      this.spare = null;
      this.chunks.push(chunk);
    }
    const ref = { segment: planned.number, offset: planned.length };
    chunk.bytes.reserve(bytes);
    const record = { salt: this.salt, key: ref.offset, payload };
    chunk.bytes.length = encodeRecord(chunk.bytes.buffer, chunk.bytes.length, record);
    planned.length += bytes;
    planned.records++;
    planned.alive++;
    return ref;
  }

  /** Writes what waits: one write, and one more for each segment that ended meanwhile. */
  write(): void {
    for (let chunk = this.chunks[0]; chunk !== undefined; chunk = this.chunks[0]) {
      const file = this.fileOf(chunk.segment);
      appendBytes(this.options.files, file, chunk.bytes.bytes());
      this.options.durability.wrote(file);
      this.chunks.shift();
      chunk.bytes.clear();
      this.spare = chunk.bytes;
    }
  }

  read(ref: SideRef): Uint8Array {
    const head = this.headOf(ref);
    if (head === null) throw this.damaged(ref, "checksum of the record's head does not match");
    const payload = Buffer.allocUnsafeSlow(head.length);
    const at = ref.offset + RECORD_HEAD_BYTES;
    if (this.readThroughWindow(ref.segment, payload, at) < head.length) {
      throw this.damaged(ref, "the segment ends inside the record");
    }
    if (checksum(payload, 0, payload.length, head.head) !== head.body) {
      throw this.damaged(ref, "checksum of the record's payload does not match");
    }
    return payload;
  }

  markDead(ref: SideRef): void {
    const segment = this.segments.get(ref.segment);
    if (segment !== undefined && segment.alive > 0) segment.alive--;
  }

  setAlive(refs: Iterable<SideRef>): void {
    const samples = new Map<SideSegmentInfo, number[]>();
    for (const segment of this.segments.values()) {
      segment.alive = 0;
      segment.known = true;
      if (segment.records === 0) samples.set(segment, []);
    }
    for (const ref of refs) {
      const segment = this.segments.get(ref.segment);
      // A reference into nothing is found when it is read; here it counts for nothing.
      if (segment === undefined || ref.offset >= segment.length) continue;
      segment.alive++;
      const lengths = samples.get(segment);
      if (lengths === undefined || lengths.length >= SAMPLES_MAX) continue;
      const head = this.headOf(ref);
      if (head !== null) lengths.push(RECORD_HEAD_BYTES + head.length);
    }
    for (const [segment, lengths] of samples) {
      const mean = lengths.reduce((sum, length) => sum + length, 0) / lengths.length;
      const total = segment.length - HEADER_BYTES;
      segment.records = Math.max(segment.alive, lengths.length === 0 ? 0 : Math.round(total / mean));
    }
  }

  candidate(): number | null {
    let best: { number: number; alive: number } | null = null;
    for (const segment of this.segments.values()) {
      if (!segment.known || this.isOpen(segment.number)) continue;
      const alive = segment.alive === 0 ? 0 : segment.alive / segment.records;
      if (alive < 0.5 && (best === null || alive < best.alive)) best = { number: segment.number, alive };
    }
    return best?.number ?? null;
  }

  async removeSegment(segment: number): Promise<void> {
    if (!this.segments.has(segment)) {
      throw new CacheError("INVALID_ARGUMENT", `side segment ${segment} does not exist`);
    }
    if (this.isOpen(segment)) {
      throw new CacheError(
        "INVALID_ARGUMENT",
        `side segment ${segment} is still written; only closed ones go`,
      );
    }
    this.closeReader(segment);
    await this.options.files.removeLater(sideName(segment));
    this.segments.delete(segment);
    if (this.window.segment === segment) this.window.length = 0;
    this.closeReader(segment);
  }

  /** Closes what is open for reading only. */
  closeReader(segment: number | null = null): void {
    if (this.reader === null || (segment !== null && this.reader.segment !== segment)) return;
    this.options.files.close(this.reader.handle);
    this.reader = null;
  }

  private isOpen(segment: number): boolean {
    return (
      segment === this.planned?.number ||
      segment === this.fileSegment ||
      this.chunks.some((chunk) => chunk.segment === segment)
    );
  }

  private fileOf(segment: number): AppendFile {
    if (this.file !== null && this.fileSegment === segment) return this.file;
    const { files, journalId, durability } = this.options;
    const header = { journalId, number: segment };
    const file = createAppendFile(files, sideName(segment), { kind: "side", header });
    durability.created();
    if (this.file !== null) durability.retire(this.file);
    this.file = file;
    this.fileSegment = segment;
    return file;
  }

  private damaged(ref: SideRef, reason: string): CacheError {
    const text = `side record at ${sideName(ref.segment)} offset ${ref.offset}: ${reason}`;
    return new CacheError("DATA_CORRUPT", `${text}; treat it as lost`, { details: { ...ref, reason } });
  }

  /** The three words before a payload; null if they are damaged. */
  private headOf(ref: SideRef): { length: number; head: number; body: number } | null {
    const { segment, offset } = ref;
    const length = this.segments.get(segment)?.length;
    if (length === undefined || !Number.isSafeInteger(offset) || offset < HEADER_BYTES || offset >= length) {
      throw new CacheError("INVALID_ARGUMENT", `no side record at segment ${segment} offset ${offset}`);
    }
    const bytes = this.headBytes(segment, offset);
    if (bytes === null) return null;
    const found = { length: bytes.readUInt32LE(0), head: bytes.readUInt32LE(4), body: bytes.readUInt32LE(8) };
    if (headChecksum(this.salt, offset, found.length) !== found.head) return null;
    return offset + RECORD_HEAD_BYTES + found.length > length ? null : found;
  }

  private headBytes(segment: number, offset: number): Buffer | null {
    const { window } = this;
    if (!this.isInWindow(segment, offset, RECORD_HEAD_BYTES)) {
      if (window.bytes.length === 0) window.bytes = Buffer.allocUnsafeSlow(WINDOW_BYTES);
      window.segment = segment;
      window.start = offset;
      window.length = this.readBytes(segment, window.bytes, offset);
      if (window.length < RECORD_HEAD_BYTES) return null;
    }
    return window.bytes.subarray(offset - window.start, offset - window.start + RECORD_HEAD_BYTES);
  }

  private isInWindow(segment: number, offset: number, bytes: number): boolean {
    const { window } = this;
    const end = window.start + window.length;
    return window.segment === segment && offset >= window.start && offset + bytes <= end;
  }

  private readThroughWindow(segment: number, target: Buffer, offset: number): number {
    if (!this.isInWindow(segment, offset, target.length)) return this.readBytes(segment, target, offset);
    return this.window.bytes.copy(target, 0, offset - this.window.start);
  }

  /** Fills a buffer from what waits or from the file, as far as there is something. */
  private readBytes(segment: number, target: Buffer, offset: number): number {
    const chunk = this.chunks.find((one) => one.segment === segment && offset >= one.offset);
    if (chunk !== undefined) return chunk.bytes.bytes().copy(target, 0, offset - chunk.offset);
    const { files } = this.options;
    const span = { length: target.length, position: offset };
    if (this.file !== null && this.fileSegment === segment) {
      span.length = Math.min(span.length, this.file.length - offset);
      return readFully(files, this.file.handle, target, span);
    }
    if (this.reader?.segment !== segment) {
      this.closeReader();
      this.reader = { segment, handle: files.open(sideName(segment), "read") };
    }
    return readFully(files, this.reader.handle, target, span);
  }
}

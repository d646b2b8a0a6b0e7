import { CacheError, messageOf } from "@cache/contracts";
import type { FileLock } from "@cache/libc";
import { Durability } from "./durability.ts";
import type { JournalFiles } from "./files.ts";
import { type RunningFold, segmentData, startFold } from "./fold.ts";
import { HEADER_BYTES, snapshotName } from "./format.ts";
import { ioError } from "./io-error.ts";
import { LogWriter } from "./log-writer.ts";
import type { RecoveredLog } from "./recovery.ts";
import { type ReadOptions, readRecords } from "./segment-reader.ts";
import { SideSegments } from "./side-log.ts";
import type { RecoveredSide } from "./side-recovery.ts";
import { readSnapshot, writeSnapshot } from "./snapshot-file.ts";
import { Subscriptions } from "./subscriptions.ts";
import type { Syncer } from "./syncer.ts";
import type {
  FsyncPolicy,
  Journal,
  JournalHealth,
  JournalRecord,
  JournalStatus,
  SideLog,
  SnapshotSource,
  SubscriptionItem,
} from "./types.ts";

/** While the file cannot be written, a commit is tried again this often. */
const RETRY_MS = 1000;
const BUFFER_MAX = 4096;

/** What {@link FileJournal} is made of. */
export interface JournalParts {
  readonly id: string;
  readonly files: JournalFiles;
  readonly syncer: Syncer;
  readonly lock: FileLock | null;
  readonly log: Omit<RecoveredLog, "snapshot">;
  /** Position of the snapshot that the log begins after, null for none; its bytes are the recovery's alone. */
  readonly snapshotPosition: number | null;
  readonly snapshotBytes: number;
  readonly side: RecoveredSide;
  readonly lastPosition: number;
  readonly fsync: FsyncPolicy;
  readonly segmentBytesMax: number;
  readonly recordBytesMax: number;
  readonly pendingBytesMax: number;
  readonly onHealth: (health: JournalHealth) => void;
}

/** The journal over any {@link JournalFiles}: a directory, or memory. */
export class FileJournal implements Journal {
  readonly id: string;
  private readonly parts: JournalParts;
  private readonly log: LogWriter;
  private readonly sideLog: SideSegments;
  private readonly durability: Durability;
  private readonly subscriptions: Subscriptions;
  private readonly reading: ReadOptions;
  private writeCause: CacheError | null = null;
  private syncCause: CacheError | null = null;
  private retry: NodeJS.Timeout | null = null;
  private snapshotPosition: number | null;
  private snapshotLength: number;
  private sinceSnapshot: number;
  private lastSnapshotError: string | null;
  private folding: RunningFold | null = null;
  private snapshotting: Promise<unknown> | null = null;
  private closing: Promise<void> | null = null;

  constructor(parts: JournalParts) {
    const { files, id, segmentBytesMax, recordBytesMax } = parts;
    this.id = id;
    this.parts = parts;
    this.snapshotPosition = parts.snapshotPosition;
    this.snapshotLength = parts.snapshotBytes;
    this.lastSnapshotError = parts.log.snapshotNote;
    this.sinceSnapshot = parts.log.segments.reduce((sum, one) => sum + one.bytes - HEADER_BYTES, 0);
    this.durability = new Durability({
      files,
      policy: files.directory === null ? "none" : parts.fsync,
      syncer: parts.syncer,
      onSync: (failure) => this.onSync(failure),
    });
    const shared = { files, durability: this.durability, journalId: id, segmentBytesMax, recordBytesMax };
    this.log = new LogWriter({
      ...shared,
      segments: parts.log.segments,
      lastPosition: parts.lastPosition,
      beginSegment: parts.log.damage !== null,
    });
    this.sideLog = new SideSegments({
      ...shared,
      recovered: parts.side,
      admit: (bytes) => this.admit(bytes),
    });
    this.reading = { files, salt: this.log.salt, recordBytesMax, verify: true };
    this.subscriptions = new Subscriptions({
      position: () => this.log.position,
      committed: () => this.log.committed,
      oldest: () => this.log.segments[0]?.first ?? 1,
      read: (from) => readRecords(this.log, from, this.reading),
    });
  }

  get position(): bigint {
    return BigInt(this.log.position);
  }

  get side(): SideLog {
    return this.sideLog;
  }

  get bytesSinceSnapshot(): number {
    return this.sinceSnapshot;
  }

  get snapshotBytes(): number {
    return this.snapshotLength;
  }

  get health(): JournalHealth {
    const cause = this.writeCause ?? this.syncCause;
    if (cause === null) return { state: "ok" };
    return { state: "degraded", cause, pendingBytes: this.pendingBytes };
  }

  append(records: readonly Uint8Array[]): bigint {
    this.assertOpen();
    const bytes = this.log.check(records);
    this.admit(bytes);
    this.log.append(records);
    this.sinceSnapshot += bytes;
    return BigInt(this.log.position);
  }

  commit(): boolean {
    this.assertOpen();
    return this.write();
  }

  durable(): Promise<void> {
    return this.durability.wait();
  }

  read(options: { from: bigint }): Iterable<JournalRecord> {
    const from = positionOf(options.from);
    return { [Symbol.iterator]: () => readRecords(this.log, from, this.reading) };
  }

  subscribe(options: {
    from: bigint;
    bufferMax?: number;
    signal: AbortSignal;
  }): AsyncIterable<SubscriptionItem> {
    this.assertOpen();
    const bufferMax = options.bufferMax ?? BUFFER_MAX;
    if (!Number.isInteger(bufferMax) || bufferMax < 1) {
      throw new CacheError("INVALID_ARGUMENT", `bufferMax ${bufferMax} is not a positive integer`);
    }
    return this.subscriptions.subscribe(Math.max(1, positionOf(options.from)), bufferMax, options.signal);
  }

  snapshot(source: SnapshotSource): Promise<{ position: bigint }> {
    this.assertOpen();
    if (this.snapshotting !== null) {
      const text = "a snapshot is being made already; wait for it to end";
      return Promise.reject(new CacheError("LIMIT_REACHED", text));
    }
    const made = this.makeSnapshot(source).then(
      (position) => {
        this.snapshotting = null;
        this.lastSnapshotError = null;
        return { position: BigInt(position) };
      },
      (error: unknown) => {
        this.snapshotting = null;
        this.lastSnapshotError = messageOf(error);
        throw error;
      },
    );
    this.snapshotting = made.then(
      () => {},
      () => {},
    );
    return made;
  }

  status(): JournalStatus {
    return {
      health: this.health,
      directory: this.parts.files.directory,
      fsync: this.parts.fsync,
      lockMechanism: this.parts.lock?.mechanism ?? null,
      position: this.position,
      segments: this.log.segments.length,
      bytes: this.log.bytes,
      snapshotPosition: this.snapshotPosition === null ? null : BigInt(this.snapshotPosition),
      lastSnapshotError: this.lastSnapshotError,
      sideSegments: this.sideLog.count,
      sideBytes: this.sideLog.bytes,
    };
  }

  /** @throws CacheError `JOURNAL_IO` if something that was appended is not in the file, after everything is released. */
  close(): Promise<void> {
    this.closing ??= this.shut();
    return this.closing;
  }

  private async shut(): Promise<void> {
    const written = this.write();
    this.stopRetry();
    this.subscriptions.close();
    await this.folding?.stop();
    await this.snapshotting;
    this.sideLog.closeReader();
    const failure = await this.durability.close([this.sideLog.current, this.log.current]);
    this.parts.files.dispose();
    this.parts.lock?.release();
    if (!written && this.writeCause !== null) throw this.writeCause;
    if (failure !== null) throw this.syncError(failure);
  }

  private get pendingBytes(): number {
    return this.log.pendingBytes + this.sideLog.pendingBytes;
  }

  private assertOpen(): void {
    if (this.closing !== null)
      throw new CacheError("INVALID_ARGUMENT", "the journal is closed; open it again");
  }

  private admit(bytes: number): void {
    const { pendingBytesMax } = this.parts;
    if (this.pendingBytes + bytes <= pendingBytesMax) return;
    // Healthy: writing early is always allowed, and keeps what waits within the bound.
    if (this.writeCause === null && this.write()) return;
    throw new CacheError(
      "LIMIT_REACHED",
      `${this.pendingBytes} bytes wait for the journal's file, the limit is ${pendingBytesMax}: ` +
        messageOf(this.writeCause),
      { cause: this.writeCause, details: { pendingBytes: this.pendingBytes, pendingBytesMax } },
    );
  }

  private write(): boolean {
    if (this.pendingBytes === 0) return this.writeCause === null;
    const sideTarget = this.sideLog.target;
    let failure = this.attempt(
      "write",
      () => this.sideLog.target ?? sideTarget ?? "",
      () => this.sideLog.write(),
    );
    failure ??= this.attempt(
      "write",
      () => this.log.target,
      () => this.log.write((bytes, first) => this.subscriptions.publish(bytes, first)),
    );
    if (failure === null) this.durability.committed();
    this.setCauses(failure, this.syncCause);
    return failure === null;
  }

  private attempt(operation: string, file: () => string, action: () => void): CacheError | null {
    try {
      action();
      return null;
    } catch (error) {
      return ioError(error, { operation, file: file(), directory: this.parts.files.directory });
    }
  }

  private onSync(failure: unknown): void {
    this.setCauses(this.writeCause, failure === null ? null : this.syncError(failure));
  }

  private syncError(failure: unknown): CacheError {
    const file = this.log.current.name;
    return ioError(failure, { operation: "sync", file, directory: this.parts.files.directory });
  }

  private setCauses(write: CacheError | null, sync: CacheError | null): void {
    const before = this.health.state;
    this.writeCause = write;
    this.syncCause = sync;
    if (write === null) this.stopRetry();
    else if (this.closing === null) this.startRetry();
    const { health } = this;
    if (health.state !== before) this.parts.onHealth(health);
  }

  private startRetry(): void {
    this.retry ??= setInterval(() => this.write(), RETRY_MS).unref();
  }

  private stopRetry(): void {
    if (this.retry !== null) clearInterval(this.retry);
    this.retry = null;
  }

  private async makeSnapshot(source: SnapshotSource): Promise<number> {
    const { files, recordBytesMax } = this.parts;
    if (!this.write()) throw this.writeCause ?? new CacheError("JOURNAL_IO", "the journal cannot be written");
    const covered = this.sinceSnapshot;
    const position = this.rotate();
    if (position === (this.snapshotPosition ?? 0)) return position;
    const previousPosition = this.snapshotPosition;
    const closed = this.log.segments.filter((one) => one.last <= position && one.last >= one.first);
    this.folding = startFold({
      directory: files.directory,
      journalId: this.id,
      position,
      previousPosition,
      previous: files.directory === null ? this.snapshotInMemory(previousPosition) : null,
      segments: closed.map(({ name, first, bytes }) => {
        return { name, first, bytes, data: segmentData(files, { name, bytes }) };
      }),
      recordBytesMax,
      module: source.module.href,
    });
    try {
      const bytes = await this.folding.done;
      if (bytes !== null) writeSnapshot(files, { journalId: this.id, number: position }, bytes);
    } finally {
      this.folding = null;
    }
    this.snapshotPosition = position;
    this.snapshotLength = this.lengthOf(snapshotName(position));
    this.sinceSnapshot -= covered;
    await this.removeCovered(position, previousPosition);
    return position;
  }

  private lengthOf(name: string): number {
    const { files } = this.parts;
    const handle = files.open(name, "read");
    try {
      return files.size(handle);
    } finally {
      files.close(handle);
    }
  }

  private rotate(): number {
    try {
      return this.log.rotate();
    } catch (error) {
      const { directory } = this.parts.files;
      throw ioError(error, { operation: "begin a segment after", file: this.log.current.name, directory });
    }
  }

  private async removeCovered(position: number, previous: number | null): Promise<void> {
    const failures = await this.log.removeThrough(position);
    if (previous !== null) {
      try {
        await this.parts.files.removeLater(snapshotName(previous));
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) {
      const text = `the snapshot is good, but what it covers cannot be removed: ${messageOf(failures[0])}`;
      throw new CacheError("JOURNAL_IO", text, { cause: failures[0] });
    }
  }

  private snapshotInMemory(position: number | null): Uint8Array | null {
    if (position === null) return null;
    const read = readSnapshot(this.parts.files, snapshotName(position));
    if (typeof read === "string") throw new CacheError("JOURNAL_DAMAGED", read);
    return read.bytes;
  }
}

function positionOf(from: bigint): number {
  if (from < 0n || from > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new CacheError("INVALID_ARGUMENT", `position ${from} is out of range`);
  }
  return Number(from);
}

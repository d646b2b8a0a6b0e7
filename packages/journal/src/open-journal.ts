import { randomBytes } from "node:crypto";
import { CacheError, isCacheError } from "@cache/contracts";
import type { FileLock } from "@cache/libc";
import { type JournalFiles, nodeFiles } from "./files.ts";
import { ioError } from "./io-error.ts";
import { FileJournal } from "./journal.ts";
import { memoryFiles } from "./memory-files.ts";
import { recoverLog, type RecoveredLog } from "./recovery.ts";
import { openSegment, throwIfDamaged } from "./segment-reader.ts";
import { saltOf } from "./format.ts";
import { recoverSide, type RecoveredSide } from "./side-recovery.ts";
import { noSyncer, type Syncer, workerSyncer } from "./syncer.ts";
import type { Journal, JournalOptions, JournalRecovery } from "./types.ts";

const MIB = 1024 * 1024;
const RECORD_BYTES_LIMIT = 1024 * MIB;

/** What tests put in the place of the kernel. */
export interface JournalPorts {
  readonly files?: JournalFiles;
  readonly syncer?: Syncer;
  readonly lock?: (directory: string) => Promise<FileLock>;
  /** Id of a new journal, 32 hex digits. */
  readonly newId?: () => string;
}

interface Sizes {
  readonly segmentBytesMax: number;
  readonly recordBytesMax: number;
  readonly pendingBytesMax: number;
}

function sizesOf(options: JournalOptions): Sizes {
  const sizes = {
    segmentBytesMax: options.segmentBytesMax ?? 16 * MIB,
    recordBytesMax: options.recordBytesMax ?? 16 * MIB,
    pendingBytesMax: options.pendingBytesMax ?? 64 * MIB,
  };
  for (const [name, value] of Object.entries(sizes)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new CacheError("INVALID_ARGUMENT", `${name} ${value} is not a positive number of bytes`);
    }
  }
  if (sizes.recordBytesMax > RECORD_BYTES_LIMIT) {
    throw new CacheError("INVALID_ARGUMENT", `recordBytesMax ${sizes.recordBytesMax} is above 1 GiB`);
  }
  return sizes;
}

async function takeLock(directory: string, options: JournalOptions): Promise<FileLock> {
  const { acquireFileLock } = await import("@cache/libc");
  return acquireFileLock(directory, options.useKoffi === undefined ? {} : { useKoffi: options.useKoffi });
}

function recoveryOf(
  log: RecoveredLog,
  side: RecoveredSide,
  how: { files: JournalFiles; id: string; recordBytesMax: number; isUntouched: () => boolean },
): JournalRecovery {
  const segments = log.segments.map((segment) => ({ ...segment }));
  const damage =
    log.damage === null || side.keptAs.length === 0
      ? log.damage
      : { ...log.damage, keptAs: [...log.damage.keptAs, ...side.keptAs] };
  return {
    snapshot:
      log.snapshot === null ? null : { position: BigInt(log.snapshot.position), bytes: log.snapshot.bytes },
    tornBytes: log.tornBytes + side.tornBytes,
    damage,
    lastPosition: BigInt(lastPositionOf(log)),
    replay(onRecord) {
      if (!how.isUntouched()) throw new TypeError("replay must be called before the first append");
      const { files, recordBytesMax } = how;
      // Every checksum was verified a moment ago, under the lock that we still hold.
      const options = { files, salt: saltOf(how.id), recordBytesMax, verify: false };
      for (const segment of segments) {
        const { cursor, close } = openSegment(segment, options);
        try {
          while (cursor.next()) onRecord(BigInt(cursor.recordPosition), cursor.payload());
          throwIfDamaged(cursor, segment.name);
        } finally {
          close();
        }
      }
    },
  };
}

function lastPositionOf(log: RecoveredLog): number {
  return log.segments.at(-1)?.last ?? log.snapshot?.position ?? 0;
}

/** {@link openJournal} with replaceable ports. */
export async function openJournalWith(
  options: JournalOptions,
  ports: JournalPorts,
): Promise<{ journal: Journal; recovery: JournalRecovery }> {
  const sizes = sizesOf(options);
  const { directory } = options;
  const openFiles = (): JournalFiles => (directory === null ? memoryFiles() : nodeFiles(directory));
  let files: JournalFiles | null = null;
  let lock: FileLock | null = null;
  try {
    files = ports.files ?? openFiles();
    if (directory !== null) lock = await (ports.lock ?? ((path) => takeLock(path, options)))(directory);
    const log = recoverLog(files, sizes);
    const id = log.journalId ?? (ports.newId ?? (() => randomBytes(16).toString("hex")))();
    const side = recoverSide(files, { journalId: id, recordBytesMax: sizes.recordBytesMax });
    const lastPosition = lastPositionOf(log);
    // Replay reads the recovered files, so the figures are copied before the journal changes its own.
    let journal: FileJournal | null = null;
    const isUntouched = (): boolean => journal?.position === BigInt(lastPosition);
    const recovery = recoveryOf(log, side, { files, id, recordBytesMax: sizes.recordBytesMax, isUntouched });
    // The snapshot may be as large as all state: only the recovery, soon forgotten, holds it.
    const { snapshot, ...withoutSnapshot } = log;
    const syncer = ports.syncer ?? (directory === null ? noSyncer() : workerSyncer());
    const onHealth = options.onHealth ?? (() => {});
    const fsync = options.fsync ?? "batch";
    journal = new FileJournal({
      ...sizes,
      id,
      files,
      syncer,
      lock,
      log: withoutSnapshot,
      snapshotPosition: snapshot?.position ?? null,
      snapshotBytes: snapshot?.bytes.length ?? 0,
      side,
      lastPosition,
      fsync,
      onHealth,
    });
    return { journal, recovery };
  } catch (error) {
    files?.dispose();
    lock?.release();
    if (isCacheError(error)) throw error;
    throw ioError(error, { operation: "open the journal", file: "", directory });
  }
}

/**
 * Opens a journal, or makes one, and recovers what its files hold. Format: `docs/reference/journal-format.md`.
 *
 * With a directory it takes an exclusive `flock` on it, cuts a torn tail, and keeps damaged files under other names.
 * With `directory: null` everything is in memory: the same rules, no lock, and nothing survives.
 *
 * @throws CacheError `LOCKED_BY_OTHER_PROCESS`, `LOCK_UNAVAILABLE`, `JOURNAL_IO` if the files cannot be read or made,
 *   `INVALID_ARGUMENT` for sizes out of range.
 */
export function openJournal(
  options: JournalOptions,
): Promise<{ journal: Journal; recovery: JournalRecovery }> {
  return openJournalWith(options, {});
}

import { CacheError } from "@cache/contracts";
import type { JournalFiles } from "./files.ts";
import type { LogWriter } from "./log-writer.ts";
import { FAULT_TEXT, RecordCursor } from "./record-cursor.ts";
import { type SegmentInfo, sourceOf } from "./recovery.ts";
import type { JournalRecord } from "./types.ts";

/** How segments are read. */
export interface ReadOptions {
  readonly files: JournalFiles;
  readonly salt: number;
  readonly recordBytesMax: number;
  readonly verify: boolean;
}

/** A cursor over one segment. Close it after use. */
export function openSegment(
  segment: Pick<SegmentInfo, "name" | "first" | "bytes">,
  options: ReadOptions,
): { cursor: RecordCursor; close: () => void } {
  const { files, salt, recordBytesMax, verify } = options;
  const handle = files.open(segment.name, "read");
  const source = sourceOf(files, handle, segment.bytes);
  const cursor = new RecordCursor(source, {
    salt,
    first: segment.first,
    keyedBy: "position",
    recordBytesMax,
    verify,
  });
  return { cursor, close: () => files.close(handle) };
}

/** @throws CacheError `JOURNAL_DAMAGED` if a cursor stopped early: the file was good when it was opened. */
export function throwIfDamaged(cursor: RecordCursor, segment: string): void {
  if (cursor.fault === null) return;
  throw new CacheError(
    "JOURNAL_DAMAGED",
    `${segment}, offset ${cursor.offset}: ${FAULT_TEXT[cursor.fault]}; restart to recover what is good`,
    { details: { segment, offset: cursor.offset, reason: FAULT_TEXT[cursor.fault] } },
  );
}

/**
 * Committed records from a position on, or from the oldest retained one if that is later.
 *
 * @throws CacheError `JOURNAL_IO` if a snapshot removes what would have come next while this is being read.
 */
export function* readRecords(log: LogWriter, from: number, options: ReadOptions): Generator<JournalRecord> {
  let next = Math.max(from, log.segments[0]?.first ?? 1);
  while (next <= log.committed) {
    const segment = log.segments.find((one) => one.first <= next && next <= one.last);
    if (segment === undefined) {
      const oldest = log.segments[0]?.first ?? 0;
      throw new CacheError(
        "JOURNAL_IO",
        `records from ${next} on were removed by a snapshot while they were read; read again from ${oldest}`,
      );
    }
    const { cursor, close } = openSegment({ ...segment }, options);
    try {
      while (cursor.next()) {
        if (cursor.recordPosition < next) continue;
        next = cursor.recordPosition + 1;
        yield { position: BigInt(cursor.recordPosition), payload: cursor.payload() };
      }
      throwIfDamaged(cursor, segment.name);
    } finally {
      close();
    }
  }
}

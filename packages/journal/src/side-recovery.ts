import type { JournalFiles } from "./files.ts";
import { decodeHeader, HEADER_BYTES, numberInName, saltOf, sideName } from "./format.ts";
import { isAllZero, RecordCursor } from "./record-cursor.ts";
import { isTornTail, setAside, sourceOf } from "./recovery.ts";

/** What is kept in memory of a side segment. */
export interface SideSegmentInfo {
  readonly number: number;
  /** Header and records, waiting ones included, in bytes. */
  length: number;
  /** Records, dead ones too; 0 where a start did not count them yet. */
  records: number;
  /** Records that are not dead. */
  alive: number;
  /** False after recovery until it was told what is alive. */
  known: boolean;
}

/** What the side files hold. */
export interface RecoveredSide {
  readonly segments: Map<number, SideSegmentInfo>;
  /** The segment to go on with, null: begin a new one. */
  readonly open: SideSegmentInfo | null;
  readonly tornBytes: number;
  /** Files of another journal, kept aside. */
  readonly keptAs: readonly string[];
}

interface ScannedSide {
  readonly length: number;
  /** 0 where they were not counted. */
  readonly records: number;
  readonly tornBytes: number;
  /** `foreign`: of another journal. `closed`: damaged, not to be written any more. */
  readonly state: "open" | "closed" | "foreign" | "torn-header";
}

function scanSide(
  files: JournalFiles,
  number: number,
  options: { journalId: string; newest: boolean; recordBytesMax: number },
): ScannedSide {
  const handle = files.open(sideName(number), options.newest ? "write" : "read");
  try {
    const size = files.size(handle);
    const source = sourceOf(files, handle, size);
    const head = Buffer.alloc(HEADER_BYTES);
    const header = decodeHeader("side", head.subarray(0, source.read(head, HEADER_BYTES, 0)));
    if (typeof header === "string") {
      const torn = options.newest && (size < HEADER_BYTES || isAllZero(source, 0));
      return { length: size, records: 0, tornBytes: torn ? size : 0, state: torn ? "torn-header" : "closed" };
    }
    if (header.journalId !== options.journalId)
      return { length: size, records: 0, tornBytes: 0, state: "foreign" };
    if (!options.newest) return { length: size, records: 0, tornBytes: 0, state: "closed" };
    const cursor = new RecordCursor(source, {
      salt: saltOf(options.journalId),
      first: 0,
      keyedBy: "offset",
      recordBytesMax: options.recordBytesMax,
      verify: true,
      reuse: true,
    });
    while (cursor.next());
    const records = cursor.position;
    if (cursor.fault === null) return { length: size, records, tornBytes: 0, state: "open" };
    if (!isTornTail(source, cursor.fault, cursor.offset)) {
      return { length: size, records: 0, tornBytes: 0, state: "closed" };
    }
    files.truncate(handle, cursor.offset);
    return { length: cursor.offset, records, tornBytes: size - cursor.offset, state: "open" };
  } finally {
    files.close(handle);
  }
}

/** Finds the side segments, cuts the torn tail of the newest, keeps those of another journal aside. */
export function recoverSide(
  files: JournalFiles,
  options: { journalId: string; recordBytesMax: number },
): RecoveredSide {
  const numbers: number[] = [];
  for (const name of files.list()) {
    const number = numberInName("side", name);
    if (number !== null) numbers.push(number);
  }
  numbers.sort((a, b) => a - b);
  const segments = new Map<number, SideSegmentInfo>();
  const keptAs: string[] = [];
  let open: SideSegmentInfo | null = null;
  let tornBytes = 0;
  for (const number of numbers) {
    const newest = number === numbers.at(-1);
    const scanned = scanSide(files, number, { ...options, newest });
    tornBytes += scanned.tornBytes;
    if (scanned.state === "foreign") {
      keptAs.push(setAside(files, sideName(number)));
    } else if (scanned.state === "torn-header") {
      files.remove(sideName(number));
    } else {
      const length = Math.max(scanned.length, HEADER_BYTES);
      const info = { number, length, records: scanned.records, alive: 0, known: false };
      segments.set(number, info);
      if (scanned.state === "open") open = info;
    }
  }
  return { segments, open, tornBytes, keptAs };
}

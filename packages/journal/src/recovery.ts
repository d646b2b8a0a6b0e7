import { type JournalFiles, readFully } from "./files.ts";
import { decodeHeader, HEADER_BYTES, numberInName, saltOf, segmentName, snapshotName } from "./format.ts";
import {
  endsInHole,
  FAULT_TEXT,
  isAllZero,
  RecordCursor,
  type RecordFault,
  type RecordSource,
} from "./record-cursor.ts";
import { readSnapshot, type ReadSnapshot } from "./snapshot-file.ts";
import type { JournalDamage } from "./types.ts";

/** A log segment as far as it is good. */
export interface SegmentInfo {
  readonly name: string;
  /** Position of the first record. */
  readonly first: number;
  /** Position of the last record, `first - 1` if there is none. */
  last: number;
  /** Length of the file, in bytes. */
  bytes: number;
}

/** What the log's files hold. */
export interface RecoveredLog {
  /** Null: nothing usable is there, begin a new journal. */
  readonly journalId: string | null;
  readonly snapshot: { readonly position: number; readonly bytes: Buffer } | null;
  /** Good segments after the snapshot, in order. */
  readonly segments: SegmentInfo[];
  readonly tornBytes: number;
  readonly damage: JournalDamage | null;
  /** A newer snapshot that was not readable and whose segments were still there. */
  readonly snapshotNote: string | null;
}

/** A {@link RecordSource} over an open file. */
export function sourceOf(files: JournalFiles, handle: number, size: number): RecordSource {
  return { size, read: (buffer, length, position) => readFully(files, handle, buffer, { length, position }) };
}

/** Moves a file to the first free `*.damaged-N` name. */
export function setAside(files: JournalFiles, name: string): string {
  const kept = freeDamagedName(files, name);
  files.rename(name, kept);
  return kept;
}

function freeDamagedName(files: JournalFiles, name: string): string {
  const taken = new Set(files.list());
  for (let number = 1; ; number++) {
    const kept = `${name}.damaged-${number}`;
    if (!taken.has(kept)) return kept;
  }
}

/** True if what follows the last good record is what a crash leaves, see the table in the format document. */
export function isTornTail(source: RecordSource, fault: RecordFault, offset: number): boolean {
  if (fault === "short-head" || fault === "short-payload") return true;
  return fault !== "too-long" && endsInHole(source, offset);
}

interface Base {
  readonly snapshot: ReadSnapshot | null;
  readonly failed: readonly { name: string; reason: string }[];
  /** False: the records have no beginning. */
  readonly usable: boolean;
}

function chooseBase(files: JournalFiles, snapshots: number[], segments: number[]): Base {
  const failed: { name: string; reason: string }[] = [];
  for (const position of snapshots.toSorted((a, b) => b - a)) {
    const name = snapshotName(position);
    const read = readSnapshot(files, name);
    if (typeof read === "string") {
      failed.push({ name, reason: read });
    } else if (failed.length === 0 || segments.includes(position + 1)) {
      return { snapshot: read, failed, usable: true };
    }
  }
  const nothing = snapshots.length === 0 && segments.length === 0;
  return { snapshot: null, failed, usable: nothing || segments.includes(1) };
}

type Scan =
  | { readonly kind: "good"; readonly info: SegmentInfo; readonly tornBytes: number }
  | { readonly kind: "torn-header"; readonly tornBytes: number }
  | {
      readonly kind: "damaged";
      readonly info: SegmentInfo;
      readonly offset: number;
      readonly reason: string;
    };

function scanSegment(
  files: JournalFiles,
  first: number,
  options: { journalId: string | null; newest: boolean; recordBytesMax: number },
): Scan & { journalId: string | null } {
  const name = segmentName(first);
  const info: SegmentInfo = { name, first, last: first - 1, bytes: HEADER_BYTES };
  const handle = files.open(name, options.newest ? "write" : "read");
  try {
    const size = files.size(handle);
    const source = sourceOf(files, handle, size);
    const head = Buffer.alloc(HEADER_BYTES);
    const header = decodeHeader("log", head.subarray(0, source.read(head, HEADER_BYTES, 0)));
    const { journalId } = options;
    if (typeof header === "string") {
      if (options.newest && (size < HEADER_BYTES || isAllZero(source, 0))) {
        return { kind: "torn-header", tornBytes: size, journalId };
      }
      return { kind: "damaged", info, offset: 0, reason: header, journalId };
    }
    if (header.number !== first) {
      return { kind: "damaged", info, offset: 0, reason: `header says position ${header.number}`, journalId };
    }
    if (journalId !== null && header.journalId !== journalId) {
      const reason = `segment of another journal, ${header.journalId}`;
      return { kind: "damaged", info, offset: 0, reason, journalId };
    }
    const cursor = new RecordCursor(source, {
      salt: saltOf(header.journalId),
      first,
      keyedBy: "position",
      recordBytesMax: options.recordBytesMax,
      verify: true,
      reuse: true,
    });
    while (cursor.next());
    info.last = cursor.position - 1;
    info.bytes = cursor.offset;
    const found = { info, journalId: header.journalId };
    if (cursor.fault === null) return { kind: "good", tornBytes: 0, ...found };
    if (options.newest && isTornTail(source, cursor.fault, cursor.offset)) {
      files.truncate(handle, cursor.offset);
      return { kind: "good", tornBytes: size - cursor.offset, ...found };
    }
    return { kind: "damaged", offset: cursor.offset, reason: FAULT_TEXT[cursor.fault], ...found };
  } finally {
    files.close(handle);
  }
}

/** Keeps the damaged file under another name; what is good of it stays under its own. */
function splitDamaged(files: JournalFiles, info: SegmentInfo): string {
  if (info.last < info.first) return setAside(files, info.name);
  const kept = freeDamagedName(files, info.name);
  files.copy(info.name, kept);
  const handle = files.open(info.name, "write");
  files.truncate(handle, info.bytes);
  files.sync(handle);
  files.close(handle);
  return kept;
}

function keepEverythingAside(files: JournalFiles, names: string[], base: Base): RecoveredLog {
  const cause = base.failed[0] ?? {
    name: names[0] ?? "",
    reason: "the segments before this one are missing",
  };
  const keptAs = names.toReversed().map((name) => setAside(files, name));
  const damage: JournalDamage = { segment: cause.name, offset: 0, reason: cause.reason, keptAs };
  return { journalId: null, snapshot: null, segments: [], tornBytes: 0, damage, snapshotNote: null };
}

function namesOf(files: JournalFiles): { snapshots: number[]; segments: number[] } {
  const snapshots: number[] = [];
  const segments: number[] = [];
  for (const name of files.list()) {
    if (name.endsWith(".tmp")) files.remove(name);
    const snapshot = numberInName("snapshot", name);
    const segment = numberInName("log", name);
    if (snapshot !== null) snapshots.push(snapshot);
    if (segment !== null) segments.push(segment);
  }
  return { snapshots: snapshots.sort((a, b) => a - b), segments: segments.sort((a, b) => a - b) };
}

/**
 * Verifies every record that counts, cuts a torn tail, keeps damaged files aside and removes what the snapshot covers.
 * Can be interrupted anywhere and run again.
 */
export function recoverLog(files: JournalFiles, options: { recordBytesMax: number }): RecoveredLog {
  const { snapshots, segments: numbers } = namesOf(files);
  const base = chooseBase(files, snapshots, numbers);
  if (!base.usable) {
    const names = [...numbers.map(segmentName), ...snapshots.map(snapshotName)];
    return keepEverythingAside(files, names, base);
  }
  const covered = base.snapshot?.position ?? 0;
  const segments: SegmentInfo[] = [];
  let journalId = base.snapshot?.journalId ?? null;
  let expected = covered + 1;
  let tornBytes = 0;
  let damage: JournalDamage | null = null;
  const after = numbers.filter((first) => first > covered);
  for (const [index, first] of after.entries()) {
    const newest = index === after.length - 1;
    const scan: Scan & { journalId: string | null } =
      first === expected
        ? scanSegment(files, first, { journalId, newest, recordBytesMax: options.recordBytesMax })
        : {
            kind: "damaged",
            info: { name: segmentName(first), first, last: first - 1, bytes: 0 },
            offset: 0,
            reason: `records ${expected} to ${first - 1} are missing before this segment`,
            journalId,
          };
    journalId = scan.journalId;
    if (scan.kind === "torn-header") {
      tornBytes += scan.tornBytes;
      files.remove(segmentName(first));
      break;
    }
    if (scan.kind === "good") tornBytes += scan.tornBytes;
    if (scan.kind === "good" || scan.info.last >= scan.info.first) segments.push(scan.info);
    expected = scan.info.last + 1;
    if (scan.kind === "damaged") {
      const keptAs = [splitDamaged(files, scan.info)];
      for (const later of after.slice(index + 1)) keptAs.push(setAside(files, segmentName(later)));
      damage = { segment: scan.info.name, offset: scan.offset, reason: scan.reason, keptAs };
      break;
    }
  }
  for (const failed of base.failed) setAside(files, failed.name);
  removeCovered(files, { covered, snapshots, numbers });
  if (expected === 1 && damage !== null) journalId = null;
  if (files.directoryHandle !== null) files.sync(files.directoryHandle);
  const first = base.failed[0];
  return {
    journalId,
    snapshot: base.snapshot === null ? null : { position: covered, bytes: base.snapshot.bytes },
    segments,
    tornBytes,
    damage,
    snapshotNote:
      first === undefined ? null : `${first.name} was not readable (${first.reason}) and is kept aside`,
  };
}

function removeCovered(
  files: JournalFiles,
  names: { covered: number; snapshots: number[]; numbers: number[] },
): void {
  for (const first of names.numbers) if (first <= names.covered) files.remove(segmentName(first));
  for (const position of names.snapshots) if (position < names.covered) files.remove(snapshotName(position));
}

import { checksum, headChecksum } from "./checksum.ts";

/** Format version, `docs/reference/journal-format.md`. */
const FORMAT_VERSION = 1;
/** Bytes of the header of each file. */
export const HEADER_BYTES = 64;
/** Bytes before the payload of each record. */
export const RECORD_HEAD_BYTES = 12;
/** Bytes between header and content of a snapshot: length (u64), checksum, checksum of both. */
export const SNAPSHOT_PREAMBLE_BYTES = 16;
/** Unit in which a dying machine loses file content. */
export const SECTOR_BYTES = 512;

/** First 8 bytes of each kind of file. */
const MAGIC = { log: "KVJRNLOG", side: "KVJRNSID", snapshot: "KVJRNSNP" } as const;

/** A kind of file. */
export type FileKind = keyof typeof MAGIC;

/** What a header says. */
export interface FileHeader {
  /** 32 hex digits. */
  readonly journalId: string;
  /** Log: position of the first record; side: segment number; snapshot: last position that it covers. */
  readonly number: number;
}

/** Makes the header of a file. */
export function encodeHeader(kind: FileKind, header: FileHeader): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.write(MAGIC[kind], 0, "latin1");
  bytes.writeUInt32LE(FORMAT_VERSION, 8);
  bytes.writeUInt32LE(HEADER_BYTES, 12);
  bytes.write(header.journalId, 16, "hex");
  bytes.writeBigUInt64LE(BigInt(header.number), 32);
  bytes.writeUInt32LE(checksum(bytes, 0, HEADER_BYTES - 4, 0), HEADER_BYTES - 4);
  return bytes;
}

/** Reads a header; a string says what is wrong with it. */
export function decodeHeader(kind: FileKind, bytes: Buffer): FileHeader | string {
  if (bytes.length < HEADER_BYTES) return `header ends after ${bytes.length} of ${HEADER_BYTES} bytes`;
  if (bytes.toString("latin1", 0, 8) !== MAGIC[kind]) return `not a ${kind} file: wrong magic`;
  const check = checksum(bytes, 0, HEADER_BYTES - 4, 0);
  if (bytes.readUInt32LE(HEADER_BYTES - 4) !== check) return "header checksum does not match";
  const version = bytes.readUInt32LE(8);
  if (version !== FORMAT_VERSION) return `format version ${version}, this program reads ${FORMAT_VERSION}`;
  const number = bytes.readBigUInt64LE(32);
  if (number > BigInt(Number.MAX_SAFE_INTEGER)) return `number ${number} in the header is out of range`;
  return { journalId: bytes.toString("hex", 16, 32), number: Number(number) };
}

/** Seed of all record checksums of a journal, so that records of another journal are not taken for its own. */
export function saltOf(journalId: string): number {
  return checksum(Buffer.from(journalId, "hex"), 0, 16, 0);
}

/** Writes a record at `at` of `target`, which must have room. Returns where it ends. */
export function encodeRecord(
  target: Buffer,
  at: number,
  record: { salt: number; key: number; payload: Uint8Array },
): number {
  const length = record.payload.length;
  const head = headChecksum(record.salt, record.key, length);
  target.writeUInt32LE(length, at);
  target.writeUInt32LE(head, at + 4);
  target.writeUInt32LE(checksum(record.payload, 0, length, head), at + 8);
  target.set(record.payload, at + RECORD_HEAD_BYTES);
  return at + RECORD_HEAD_BYTES + length;
}

/** Name of the log segment that begins with a position. */
export function segmentName(first: number): string {
  return `${String(first).padStart(20, "0")}.journal`;
}

/** Name of the snapshot up to a position. */
export function snapshotName(position: number): string {
  return `snapshot-${String(position).padStart(20, "0")}`;
}

/** Name of a side segment. */
export function sideName(segment: number): string {
  return `${String(segment).padStart(10, "0")}.side`;
}

/** The number in a file's name, null if the name is not of that kind. */
export function numberInName(kind: FileKind, name: string): number | null {
  const pattern = { log: /^(\d{20})\.journal$/, side: /^(\d{10})\.side$/, snapshot: /^snapshot-(\d{20})$/ }[
    kind
  ];
  const digits = pattern.exec(name)?.[1];
  if (digits === undefined) return null;
  const number = Number(digits);
  return Number.isSafeInteger(number) ? number : null;
}

import { messageOf } from "@cache/contracts";
import { checksum } from "./checksum.ts";
import { type JournalFiles, readFully, writeFully } from "./files.ts";
import {
  decodeHeader,
  encodeHeader,
  type FileHeader,
  HEADER_BYTES,
  numberInName,
  SNAPSHOT_PREAMBLE_BYTES,
  snapshotName,
} from "./format.ts";

const PIECE_BYTES = 1024 * 1024;
const PREFIX_BYTES = HEADER_BYTES + SNAPSHOT_PREAMBLE_BYTES;

/** A snapshot that verified. */
export interface ReadSnapshot {
  readonly journalId: string;
  readonly position: number;
  readonly bytes: Buffer;
}

function checksumInPieces(bytes: Uint8Array): number {
  let crc = 0;
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    crc = checksum(bytes, at, Math.min(bytes.length, at + PIECE_BYTES), crc);
  }
  return crc;
}

function preamble(bytes: Uint8Array): Buffer {
  const out = Buffer.alloc(SNAPSHOT_PREAMBLE_BYTES);
  out.writeBigUInt64LE(BigInt(bytes.length), 0);
  out.writeUInt32LE(checksumInPieces(bytes), 8);
  out.writeUInt32LE(checksum(out, 0, 12, 0), 12);
  return out;
}

function readOpen(files: JournalFiles, handle: number, name: string): ReadSnapshot | string {
  const size = files.size(handle);
  const prefix = Buffer.alloc(PREFIX_BYTES);
  if (readFully(files, handle, prefix, { length: PREFIX_BYTES, position: 0 }) < PREFIX_BYTES) {
    return `snapshot ends after ${size} bytes, inside its header`;
  }
  const header = decodeHeader("snapshot", prefix.subarray(0, HEADER_BYTES));
  if (typeof header === "string") return header;
  if (header.number !== numberInName("snapshot", name)) return `snapshot is of position ${header.number}`;
  if (prefix.readUInt32LE(HEADER_BYTES + 12) !== checksum(prefix, HEADER_BYTES, HEADER_BYTES + 12, 0)) {
    return "checksum of the snapshot's length does not match";
  }
  const length = prefix.readBigUInt64LE(HEADER_BYTES);
  if (length !== BigInt(size - PREFIX_BYTES)) {
    return `snapshot has ${size - PREFIX_BYTES} bytes, its header says ${length}`;
  }
  const bytes = Buffer.allocUnsafeSlow(Number(length));
  if (readFully(files, handle, bytes, { length: bytes.length, position: PREFIX_BYTES }) < bytes.length) {
    return "snapshot cannot be read to its end";
  }
  if (prefix.readUInt32LE(HEADER_BYTES + 8) !== checksumInPieces(bytes)) {
    return "checksum of the snapshot does not match";
  }
  return { journalId: header.journalId, position: header.number, bytes };
}

/** Reads and verifies a snapshot; a string says what is wrong with it. */
export function readSnapshot(files: JournalFiles, name: string): ReadSnapshot | string {
  let handle: number;
  try {
    handle = files.open(name, "read");
  } catch (error) {
    return `snapshot cannot be opened: ${messageOf(error)}`;
  }
  try {
    return readOpen(files, handle, name);
  } catch (error) {
    return `snapshot cannot be read: ${messageOf(error)}`;
  } finally {
    files.close(handle);
  }
}

/**
 * Writes a snapshot under a temporary name, syncs it, renames it, syncs the directory and reads it back.
 *
 * @throws Error if any step fails or what is read back differs.
 */
export function writeSnapshot(files: JournalFiles, header: FileHeader, bytes: Uint8Array): void {
  const name = snapshotName(header.number);
  const temporary = `${name}.tmp`;
  if (files.list().includes(temporary)) files.remove(temporary);
  const handle = files.open(temporary, "create");
  try {
    const head = Buffer.concat([encodeHeader("snapshot", header), preamble(bytes)]);
    writeFully(files, handle, head, { length: head.length, position: 0 });
    writeFully(files, handle, bytes, { length: bytes.length, position: head.length });
    files.sync(handle);
  } catch (error) {
    files.close(handle);
    files.remove(temporary);
    throw error;
  }
  files.close(handle);
  files.rename(temporary, name);
  if (files.directoryHandle !== null) files.sync(files.directoryHandle);
  const read = readSnapshot(files, name);
  if (typeof read === "string") throw new Error(`snapshot read back: ${read}`);
  if (Buffer.compare(read.bytes, bytes) !== 0) throw new Error("snapshot read back: its bytes differ");
}

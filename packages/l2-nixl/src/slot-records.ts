import { crc32 } from "node:zlib";
import type { PageRun } from "./pages.ts";
import type { PoolEntry } from "./slot-map.ts";

/** What a map belongs to. */
export interface MapHeader {
  /** Random, also kept beside the pool: a pool that another map was used for since is not taken up. */
  readonly poolId: string;
  /** The boot in which the map was written. */
  readonly bootId: string;
  /** True if records are on the disk, behind the data that they are about, before a store is acknowledged. */
  readonly isDurable: boolean;
  /** What the page numbers mean; a map with another value is of no use. */
  readonly geometry: string;
}

/** One line of the map's history. An object is named by its first page when it goes. */
export type MapRecord =
  | { readonly type: "header"; readonly header: MapHeader }
  | { readonly type: "stored"; readonly entry: PoolEntry }
  | { readonly type: "deleted"; readonly firstPage: number }
  | { readonly type: "closed" };

const HEADER = 1;
const STORED = 2;
const DELETED = 3;
const CLOSED = 4;
const VERSION = 1;
/** Length of the payload, its complement, its CRC-32: 4 bytes each, little endian as all numbers here. */
const FRAME_BYTES = 12;
/** A longer payload is damage: an object has at most 2^16 runs. */
const PAYLOAD_BYTES_MAX = 1024 * 1024;

/** Most runs of one entry. */
export const RUNS_MAX = 65_536;

function encodeStored({ name, cacheSalt, byteLength, runs }: PoolEntry): Buffer {
  const nameBytes = Buffer.from(name);
  const saltBytes = Buffer.from(cacheSalt);
  const payload = Buffer.alloc(15 + nameBytes.length + saltBytes.length + runs.length * 8);
  payload.writeUInt8(STORED, 0);
  payload.writeUIntLE(byteLength, 1, 6);
  payload.writeUInt16LE(nameBytes.length, 7);
  payload.writeUInt16LE(saltBytes.length, 9);
  payload.writeUInt32LE(runs.length, 11);
  let at = 15;
  at += nameBytes.copy(payload, at);
  at += saltBytes.copy(payload, at);
  for (const { first, count } of runs) {
    payload.writeUInt32LE(first, at);
    payload.writeUInt32LE(count, at + 4);
    at += 8;
  }
  return payload;
}

function encodePayload(record: MapRecord): Buffer {
  switch (record.type) {
    case "header":
      return Buffer.concat([Buffer.from([HEADER, VERSION]), Buffer.from(JSON.stringify(record.header))]);
    case "stored":
      return encodeStored(record.entry);
    case "deleted": {
      const payload = Buffer.alloc(5, DELETED);
      payload.writeUInt32LE(record.firstPage, 1);
      return payload;
    }
    case "closed":
      return Buffer.from([CLOSED]);
  }
}

/** A record as it stands in the file. */
export function encodeRecord(record: MapRecord): Buffer {
  const payload = encodePayload(record);
  const framed = Buffer.alloc(FRAME_BYTES + payload.length);
  framed.writeUInt32LE(payload.length, 0);
  framed.writeUInt32LE(~payload.length >>> 0, 4);
  framed.writeUInt32LE(crc32(payload), 8);
  payload.copy(framed, FRAME_BYTES);
  return framed;
}

function decodeStored(payload: Buffer): MapRecord | null {
  if (payload.length < 15) return null;
  const byteLength = payload.readUIntLE(1, 6);
  const nameLength = payload.readUInt16LE(7);
  const saltLength = payload.readUInt16LE(9);
  const runCount = payload.readUInt32LE(11);
  const runsAt = 15 + nameLength + saltLength;
  if (runCount < 1 || runCount > RUNS_MAX || payload.length !== runsAt + runCount * 8) return null;
  const name = payload.toString("utf8", 15, 15 + nameLength);
  const cacheSalt = payload.toString("utf8", 15 + nameLength, runsAt);
  const runs: PageRun[] = [];
  for (let at = runsAt; at < payload.length; at += 8) {
    runs.push({ first: payload.readUInt32LE(at), count: payload.readUInt32LE(at + 4) });
  }
  return { type: "stored", entry: { name, cacheSalt, byteLength, runs } };
}

function decodeHeader(payload: Buffer): MapRecord | null {
  if (payload[1] !== VERSION) return null;
  try {
    const value = JSON.parse(payload.toString("utf8", 2)) as Record<keyof MapHeader, unknown>;
    const { poolId, bootId, isDurable, geometry } = value;
    if (typeof poolId !== "string" || typeof bootId !== "string" || typeof geometry !== "string") return null;
    return { type: "header", header: { poolId, bootId, isDurable: isDurable === true, geometry } };
  } catch {
    return null;
  }
}

function decodePayload(payload: Buffer): MapRecord | null {
  switch (payload[0]) {
    case HEADER:
      return decodeHeader(payload);
    case STORED:
      return decodeStored(payload);
    case DELETED:
      return payload.length === 5 ? { type: "deleted", firstPage: payload.readUInt32LE(1) } : null;
    case CLOSED:
      return payload.length === 1 ? { type: "closed" } : null;
    default:
      return null;
  }
}

/**
 * The records of a file. An end that was torn by the death of the writer is left out; anything else that cannot be
 * read is damage: what follows it may say that pages have another object now.
 */
export function decodeRecords(file: Buffer): {
  readonly records: MapRecord[];
  readonly damage: string | null;
} {
  const records: MapRecord[] = [];
  for (let at = 0; at < file.length; ) {
    if (at + FRAME_BYTES > file.length) break; // torn
    const length = file.readUInt32LE(at);
    const end = at + FRAME_BYTES + length;
    const isLength = file.readUInt32LE(at + 4) === ~length >>> 0;
    if (!isLength || length > PAYLOAD_BYTES_MAX)
      return { records, damage: `a record of ${length} bytes at ${at}` };
    if (end > file.length) break; // torn
    const payload = file.subarray(at + FRAME_BYTES, end);
    if (crc32(payload) !== file.readUInt32LE(at + 8)) {
      if (end === file.length) break; // torn
      return { records, damage: `a wrong checksum at ${at}` };
    }
    const record = decodePayload(payload);
    if (record === null) return { records, damage: `an unknown record at ${at}` };
    records.push(record);
    at = end;
  }
  return { records, damage: null };
}

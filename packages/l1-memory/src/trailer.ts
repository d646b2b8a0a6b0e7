import { createHash } from "node:crypto";

/**
 * The last 4,096 bytes of a pool file, ours alone, little-endian. Written once, except for three cells of 8 bytes
 * that are each changed by one aligned store:
 *
 * | offset | bytes | what |
 * |---|---|---|
 * | 0 | 8 | magic `KVL1POOL` |
 * | 8 | 4 | version, 1 |
 * | 12 | 4 | zero |
 * | 16 | 16 | pool id |
 * | 32 | 16 | journal id |
 * | 48 | 16 | boot id |
 * | 64 | 8 | bytes of L1 |
 * | 72 | 8 | alignment in bytes |
 * | 96 | 32 | SHA-256 of bytes 0 to 95 |
 * | 1024 | 8 | cell: position of the last record whose effect may be in the pool |
 * | 1088 | 8 | cell: not 0 if the pool is not to be re-attached |
 * | 1152 | 8 | cell: bytes of L1 whose pages are reserved |
 */
export const TRAILER_BYTES = 4096;
const TRAILER_VERSION = 1;
const MAGIC = Buffer.from("KVL1POOL", "latin1");
const CHECKED_BYTES = 96;
const CHECKSUM_BYTES = 32;

/** Offsets of the cells inside the trailer. */
export const POSITION_CELL = 1024;
export const MARK_CELL = 1088;
export const RESERVED_CELL = 1152;

/** What is written once. Ids are 32 hex digits. */
export interface TrailerHeader {
  readonly poolId: string;
  readonly journalId: string;
  readonly bootId: string;
  readonly sizeBytes: number;
  readonly alignBytes: number;
}

/** A trailer as found. */
export interface Trailer extends TrailerHeader {
  readonly position: bigint;
  readonly marked: boolean;
  /** As found: check it before use. */
  readonly reservedBytes: bigint;
}

function checksum(bytes: Buffer): Buffer {
  return createHash("sha256").update(bytes.subarray(0, CHECKED_BYTES)).digest();
}

/** The 4,096 bytes of a new pool: position 0, nothing reserved, may be re-attached. */
export function encodeTrailer(header: TrailerHeader): Buffer {
  const bytes = Buffer.alloc(TRAILER_BYTES);
  MAGIC.copy(bytes, 0);
  bytes.writeUInt32LE(TRAILER_VERSION, 8);
  bytes.write(header.poolId, 16, 16, "hex");
  bytes.write(header.journalId, 32, 16, "hex");
  bytes.write(header.bootId, 48, 16, "hex");
  bytes.writeBigUInt64LE(BigInt(header.sizeBytes), 64);
  bytes.writeBigUInt64LE(BigInt(header.alignBytes), 72);
  checksum(bytes).copy(bytes, CHECKED_BYTES);
  return bytes;
}

/** True if the bytes begin as one of our trailers does, whatever follows. */
export function hasTrailerMagic(bytes: Buffer): boolean {
  return bytes.length >= MAGIC.length && bytes.subarray(0, MAGIC.length).equals(MAGIC);
}

/** The trailer, or why it is none. */
export function decodeTrailer(bytes: Buffer): Trailer | { readonly damage: string } {
  if (bytes.length !== TRAILER_BYTES) return { damage: `it has ${bytes.length} bytes` };
  if (!hasTrailerMagic(bytes)) return { damage: "its magic is missing" };
  const stored = bytes.subarray(CHECKED_BYTES, CHECKED_BYTES + CHECKSUM_BYTES);
  if (!checksum(bytes).equals(stored)) return { damage: "its checksum does not hold" };
  const version = bytes.readUInt32LE(8);
  if (version !== TRAILER_VERSION) return { damage: `its version is ${version}, not ${TRAILER_VERSION}` };
  return {
    poolId: bytes.toString("hex", 16, 32),
    journalId: bytes.toString("hex", 32, 48),
    bootId: bytes.toString("hex", 48, 64),
    sizeBytes: Number(bytes.readBigUInt64LE(64)),
    alignBytes: Number(bytes.readBigUInt64LE(72)),
    position: bytes.readBigUInt64LE(POSITION_CELL),
    marked: bytes.readBigUInt64LE(MARK_CELL) !== 0n,
    reservedBytes: bytes.readBigUInt64LE(RESERVED_CELL),
  };
}

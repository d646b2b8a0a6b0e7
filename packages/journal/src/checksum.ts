import { crc32 } from "node:zlib";

/** Below this many bytes the table is quicker than the call into zlib. */
const SMALL_BYTES = 64;

const TABLE = Int32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** CRC-32 of `bytes[start, end)`, continued from `seed`: the same as `zlib.crc32(bytes.subarray(start, end), seed)`. */
export function checksum(bytes: Uint8Array, start: number, end: number, seed: number): number {
  if (end - start > SMALL_BYTES) return crc32(bytes.subarray(start, end), seed);
  let crc = ~seed;
  for (let at = start; at < end; at++) crc = (TABLE[(crc ^ (bytes[at] ?? 0)) & 255] ?? 0) ^ (crc >>> 8);
  return ~crc >>> 0;
}

function addWord(crc: number, word: number): number {
  let next = (TABLE[(crc ^ word) & 255] ?? 0) ^ (crc >>> 8);
  next = (TABLE[(next ^ (word >>> 8)) & 255] ?? 0) ^ (next >>> 8);
  next = (TABLE[(next ^ (word >>> 16)) & 255] ?? 0) ^ (next >>> 8);
  return (TABLE[(next ^ (word >>> 24)) & 255] ?? 0) ^ (next >>> 8);
}

/** CRC-32 of `key` (u64) and `length` (u32), little endian, continued from `salt`, without a buffer. */
export function headChecksum(salt: number, key: number, length: number): number {
  let crc = addWord(~salt, key >>> 0);
  crc = addWord(crc, (key / 0x1_0000_0000) >>> 0);
  return ~addWord(crc, length) >>> 0;
}

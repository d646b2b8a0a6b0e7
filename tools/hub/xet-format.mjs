// The binary formats of Xet storage, as far as a server has to read them: xorbs (chunks) and shards (what files are made of).

const CHUNK_HEADER_BYTES = 8;
const HASH_BYTES = 32;
const ENTRY_BYTES = 48;
const SHARD_TAG = Buffer.concat([
  Buffer.from("HFRepoMetaData"),
  Buffer.from([0, 85, 105, 103, 69, 106, 123, 129, 87, 131, 165, 189, 217, 92, 205, 209, 74, 169]),
]);
const WITH_VERIFICATION = 0x80000000;
const WITH_METADATA = 0x40000000;
const SCHEMES = 3;

/** What a client sent is not in the format. Answered with 400. */
export class FormatError extends Error {}

/** A binary hash as text: each of its four 64-bit words is little-endian in the binary, big-endian in the text. */
export function hashText(bytes) {
  let text = "";
  for (let word = 0; word < 4; word++)
    text += bytes
      .readBigUInt64LE(word * 8)
      .toString(16)
      .padStart(16, "0");
  return text;
}

/** The chunks of a xorb: where each begins and ends in it, and its length unpacked. */
export function parseXorb(bytes) {
  const chunks = [];
  let at = 0;
  while (at < bytes.length) {
    if (bytes.length - at >= 7 && bytes.latin1Slice(at, at + 7) === "XETBLOB") break; // a footer
    if (bytes.length - at < CHUNK_HEADER_BYTES) throw new FormatError("a chunk header is cut off");
    const packed = bytes.readUIntLE(at + 1, 3);
    const end = at + CHUNK_HEADER_BYTES + packed;
    if (bytes[at] !== 0) throw new FormatError(`chunk version ${bytes[at]}`);
    if (bytes[at + 4] >= SCHEMES) throw new FormatError(`compression scheme ${bytes[at + 4]}`);
    if (end > bytes.length) throw new FormatError("a chunk is cut off");
    chunks.push({ begin: at, end, length: bytes.readUIntLE(at + 5, 3) });
    at = end;
  }
  if (chunks.length === 0) throw new FormatError("a xorb without chunks");
  return chunks;
}

/** The files of a shard: hash, and terms of which each names chunks of a xorb. */
export function parseShard(bytes) {
  if (bytes.length < ENTRY_BYTES * 3 || !bytes.subarray(0, HASH_BYTES).equals(SHARD_TAG)) {
    throw new FormatError("no shard");
  }
  if (bytes.readBigUInt64LE(HASH_BYTES) !== 2n) throw new FormatError("unknown shard version");
  let at = ENTRY_BYTES;
  /** The next entry of 48 bytes. */
  const entry = () => {
    if (at + ENTRY_BYTES > bytes.length) throw new FormatError("a shard is cut off");
    at += ENTRY_BYTES;
    return bytes.subarray(at - ENTRY_BYTES, at);
  };
  const isBookend = (part) => part.subarray(0, HASH_BYTES).every((byte) => byte === 0xff);
  const files = [];
  for (let head = entry(); !isBookend(head); head = entry()) {
    const flags = head.readUInt32LE(32);
    const count = head.readUInt32LE(36);
    if (count * ENTRY_BYTES > bytes.length) throw new FormatError("more terms than bytes");
    const terms = Array.from({ length: count }, () => {
      const term = entry();
      const range = { start: term.readUInt32LE(40), end: term.readUInt32LE(44) };
      return { hash: hashText(term), unpackedLength: term.readUInt32LE(36), range };
    });
    if ((flags & WITH_VERIFICATION) !== 0) for (let i = 0; i < count; i++) entry();
    if ((flags & WITH_METADATA) !== 0) entry();
    files.push({ hash: hashText(head), terms });
  }
  for (let head = entry(); !isBookend(head); head = entry()) {
    const count = head.readUInt32LE(36);
    if (count * ENTRY_BYTES > bytes.length) throw new FormatError("more chunks than bytes");
    for (let i = 0; i < count; i++) entry();
  }
  return files;
}

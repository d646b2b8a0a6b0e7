import type { KvEventBatch, KvEventRecord } from "./handlers.ts";

const UINT32 = 0xce;
const UINT64 = 0xcf;

/** A str or a key of up to 31 bytes. */
function short(text: string): Buffer {
  return Buffer.concat([Buffer.from([0xa0 | text.length]), Buffer.from(text, "latin1")]);
}

const BATCH_KEYS = ["enabled", "incarnation", "next_cursor", "lost", "events"].map(short);
const [ENABLED, INCARNATION, NEXT_CURSOR, LOST, EVENTS] = BATCH_KEYS as [
  Buffer,
  Buffer,
  Buffer,
  Buffer,
  Buffer,
];
const SEQ = short("seq");
const KIND = short("kind");
const KINDS = { stored: short("stored"), removed: short("removed") } as const;
/** Everything between a record's kind and the name of its model. */
const MEDIUM = Buffer.concat([short("medium"), short("CPU"), short("model_name")]);
const HASHES = short("block_hashes");
const PARENT = short("parent_block_hash");
const TOKENS = short("token_ids");

/** Grows as needed. */
class Writer {
  bytes = Buffer.allocUnsafe(16_384);
  length = 0;

  room(count: number): void {
    if (this.length + count <= this.bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(this.bytes.length * 2, this.length + count));
    this.bytes.copy(grown, 0, 0, this.length);
    this.bytes = grown;
  }

  raw(bytes: Uint8Array): void {
    this.room(bytes.length);
    this.bytes.set(bytes, this.length);
    this.length += bytes.length;
  }

  byte(value: number): void {
    this.room(1);
    this.bytes[this.length++] = value;
  }

  uint64(value: bigint): void {
    this.byte(UINT64);
    this.room(8);
    this.length = this.bytes.writeBigUInt64BE(value, this.length);
  }

  /** Head of an array, bin or str in its 32-bit form. */
  head32(type: number, count: number): void {
    this.byte(type);
    this.room(4);
    this.length = this.bytes.writeUInt32BE(count, this.length);
  }

  bin(bytes: Uint8Array): void {
    this.head32(0xc6, bytes.length);
    this.raw(bytes);
  }

  bool(value: boolean): void {
    this.byte(value ? 0xc3 : 0xc2);
  }

  /** Big-endian uint32 each, as an array of ints: copied, never made numbers of. */
  tokens(tokens: Uint8Array): void {
    const count = Math.floor(tokens.length / 4);
    this.head32(0xdd, count);
    this.room(count * 5);
    const { bytes } = this;
    let at = this.length;
    for (let from = 0; from < count * 4; from += 4) {
      bytes[at] = UINT32;
      bytes[at + 1] = tokens[from] as number;
      bytes[at + 2] = tokens[from + 1] as number;
      bytes[at + 3] = tokens[from + 2] as number;
      bytes[at + 4] = tokens[from + 3] as number;
      at += 5;
    }
    this.length = at;
  }
}

function writeRecord(writer: Writer, record: KvEventRecord): void {
  writer.byte(0x87);
  writer.raw(SEQ);
  writer.uint64(BigInt(record.seq));
  writer.raw(KIND);
  writer.raw(KINDS[record.kind]);
  writer.raw(MEDIUM);
  const name = Buffer.from(record.modelName);
  writer.head32(0xdb, name.length);
  writer.raw(name);
  writer.raw(HASHES);
  writer.head32(0xdd, record.blockHashes.length);
  for (const hash of record.blockHashes) writer.bin(hash);
  writer.raw(PARENT);
  if (record.parentBlockHash === null) writer.byte(0xc0);
  else writer.bin(record.parentBlockHash);
  writer.raw(TOKENS);
  writer.tokens(record.tokenIds);
}

/** The payload of one batch: LMCache's `KVEventBatch` as msgpack. */
export function encodeKvEventBatch(batch: KvEventBatch): Buffer {
  const writer = new Writer();
  writer.byte(0x85);
  writer.raw(ENABLED);
  writer.bool(batch.enabled);
  writer.raw(INCARNATION);
  writer.uint64(batch.incarnation);
  writer.raw(NEXT_CURSOR);
  writer.uint64(BigInt(batch.nextCursor));
  writer.raw(LOST);
  writer.bool(batch.lost);
  writer.raw(EVENTS);
  writer.head32(0xdd, batch.events.length);
  for (const record of batch.events) writeRecord(writer, record);
  return writer.bytes.subarray(0, writer.length);
}

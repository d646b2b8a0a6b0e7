import { isUtf8 } from "node:buffer";
import { violation } from "./violations.ts";

/**
 * Reads msgpack from a frame, field by field, without building what it does not need. Every length is held
 * against the bytes that are there before anything is allocated, and only `PROTOCOL_VIOLATION` is thrown.
 * Stricter than a general decoder where LMCache is: ints must be ints on the wire, bool is no int.
 */
export class MsgpackReader {
  readonly #bytes: Buffer;
  /** Offset of the next byte. */
  pos = 0;

  /** @param bytes the frame; not copied */
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** Bytes that are left. */
  get left(): number {
    return this.#bytes.length - this.pos;
  }

  /** The frame. */
  get bytes(): Buffer {
    return this.#bytes;
  }

  /** Throws unless everything was read. */
  expectEnd(field: string): void {
    if (this.left !== 0) throw violation(field, `has ${this.left} bytes after its value`);
  }

  /** The type byte at the cursor; the cursor stays. */
  peek(field: string): number {
    if (this.left < 1) throw violation(field, "ends early");
    return this.#bytes[this.pos] as number;
  }

  #take(field: string, count: number): number {
    if (this.left < count) throw violation(field, `ends early: ${count} bytes wanted, ${this.left} left`);
    const at = this.pos;
    this.pos += count;
    return at;
  }

  /** Skips a nil and says whether there was one. */
  nil(field: string): boolean {
    if (this.peek(field) !== 0xc0) return false;
    this.pos += 1;
    return true;
  }

  /** true or false; ints are refused. */
  bool(field: string): boolean {
    const type = this.peek(field);
    if (type !== 0xc2 && type !== 0xc3) throw violation(field, "must be a bool");
    this.pos += 1;
    return type === 0xc3;
  }

  /** An int of any width: a Number where that is exact, else a BigInt. Floats and bools are refused. */
  int(field: string): number | bigint {
    const type = this.peek(field);
    const b = this.#bytes;
    if (type < 0x80) {
      this.pos += 1;
      return type;
    }
    if (type >= 0xe0) {
      this.pos += 1;
      return type - 256;
    }
    if (type < 0xcc || type > 0xd3) throw violation(field, "must be an int");
    const width = 1 << (type & 3);
    const at = this.#take(field, 1 + width) + 1;
    if (width < 8) return type < 0xd0 ? b.readUIntBE(at, width) : b.readIntBE(at, width);
    const value = type < 0xd0 ? b.readBigUInt64BE(at) : b.readBigInt64BE(at);
    return value >= -MAX_SAFE && value <= MAX_SAFE ? Number(value) : value;
  }

  /** An int from `min` to `max`, both safe integers. */
  intIn(field: string, min: number, max: number): number {
    const value = this.int(field);
    if (typeof value === "bigint" || value < min || value > max) {
      throw violation(field, `${value} is not in ${min}..${max}`);
    }
    return value;
  }

  /** An unsigned int of up to 64 bits, as instance ids are. */
  uint64(field: string): bigint {
    const value = this.int(field);
    if (value < 0) throw violation(field, `${value} is negative`);
    return BigInt(value);
  }

  /** A float; ints are taken too, as LMCache does. NaN is refused. */
  float(field: string): number {
    const type = this.peek(field);
    if (type !== 0xca && type !== 0xcb) return Number(this.int(field));
    const at = this.#take(field, type === 0xca ? 5 : 9) + 1;
    const value = type === 0xca ? this.#bytes.readFloatBE(at) : this.#bytes.readDoubleBE(at);
    if (Number.isNaN(value)) throw violation(field, "is NaN");
    return value;
  }

  #length(field: string, kind: LengthKind): number {
    const type = this.peek(field);
    const { fixed, mask, first, widths, name } = kind;
    if (fixed >= 0 && (type & ~mask) === fixed) {
      this.pos += 1;
      return type & mask;
    }
    const width = widths[type - first];
    if (width === undefined) throw violation(field, `must be ${name}`);
    return this.#bytes.readUIntBE(this.#take(field, 1 + width) + 1, width);
  }

  /** A str of at most `maxBytes` bytes of valid UTF-8. */
  str(field: string, maxBytes: number): string {
    const length = this.#length(field, STR);
    if (length > maxBytes) throw violation(field, `has ${length} bytes; at most ${maxBytes} are taken`);
    const at = this.#take(field, length);
    const raw = this.#bytes.subarray(at, at + length);
    if (!isUtf8(raw)) throw violation(field, "is not valid UTF-8");
    return raw.toString("utf8");
  }

  /** A bin; a str in its place is refused. The result is a view of the frame. */
  bin(field: string): Buffer {
    const length = this.#length(field, BIN);
    const at = this.#take(field, length);
    return this.#bytes.subarray(at, at + length);
  }

  /** The count of an array; each element takes a byte at least, so more than are left is refused. */
  array(field: string): number {
    const count = this.#length(field, ARRAY);
    if (count > this.left) throw violation(field, `claims ${count} elements in ${this.left} bytes`);
    return count;
  }

  /** The count of pairs of a map. */
  map(field: string): number {
    const count = this.#length(field, MAP);
    if (count * 2 > this.left) throw violation(field, `claims ${count} pairs in ${this.left} bytes`);
    return count;
  }

  /** Skips one value of any type. No recursion: depth is no danger. */
  skip(field: string): void {
    let values = 1;
    while (values > 0) {
      values -= 1;
      const type = this.peek(field);
      if (type < 0x80 || type >= 0xe0 || type === 0xc0 || type === 0xc2 || type === 0xc3) this.pos += 1;
      else if (type < 0x90 || type === 0xde || type === 0xdf) values += 2 * this.map(field);
      else if (type < 0xa0 || type === 0xdc || type === 0xdd) values += this.array(field);
      else if (type < 0xc0 || (type >= 0xd9 && type <= 0xdb)) this.#take(field, this.#length(field, STR));
      else if (type >= 0xc4 && type <= 0xc6) this.#take(field, this.#length(field, BIN));
      else if (type >= 0xc7 && type <= 0xc9) this.#take(field, this.#length(field, EXT) + 1);
      else if (type >= 0xd4 && type <= 0xd8) this.#take(field, 2 + (1 << (type - 0xd4)));
      else if (type === 0xca || type === 0xcb) this.#take(field, type === 0xca ? 5 : 9);
      else if (type >= 0xcc && type <= 0xd3) this.#take(field, 1 + (1 << (type & 3)));
      else throw violation(field, `has the unused msgpack type 0x${type.toString(16)}`);
      // Each value takes a byte at least: a small frame cannot claim much work.
      if (values > this.left) throw violation(field, `claims ${values} values in ${this.left} bytes`);
    }
  }
}

const MAX_SAFE = BigInt(Number.MAX_SAFE_INTEGER);

interface LengthKind {
  /** Type byte of the short form without its length bits; -1 for none. */
  readonly fixed: number;
  readonly mask: number;
  /** Type byte of the first long form, and bytes of length in each of them. */
  readonly first: number;
  readonly widths: readonly number[];
  readonly name: string;
}

const STR: LengthKind = { fixed: 0xa0, mask: 0x1f, first: 0xd9, widths: [1, 2, 4], name: "a str" };
const BIN: LengthKind = { fixed: -1, mask: 0, first: 0xc4, widths: [1, 2, 4], name: "bytes" };
const EXT: LengthKind = { fixed: -1, mask: 0, first: 0xc7, widths: [1, 2, 4], name: "an ext" };
const ARRAY: LengthKind = { fixed: 0x90, mask: 0x0f, first: 0xdc, widths: [2, 4], name: "an array" };
const MAP: LengthKind = { fixed: 0x80, mask: 0x0f, first: 0xde, widths: [2, 4], name: "a map" };

import { violation } from "./violations.ts";

/** A value as a pickle names it. Nothing is ever called: a REDUCE is only noted. */
export type PickleValue =
  | { readonly kind: "int"; readonly value: number }
  | { readonly kind: "big" }
  | { readonly kind: "none" }
  | { readonly kind: "bool"; readonly value: boolean }
  | { readonly kind: "str"; readonly value: string }
  | { readonly kind: "bytes"; readonly value: Buffer }
  | { readonly kind: "global"; readonly name: string }
  | { readonly kind: "tuple" | "list"; readonly items: PickleValue[] }
  | { readonly kind: "dict"; readonly entries: [PickleValue, PickleValue][] }
  | { readonly kind: "call"; readonly callee: PickleValue; readonly args: PickleValue }
  | { readonly kind: "persistent"; readonly id: PickleValue }
  | { readonly kind: "mark" };

const PICKLE = "pickle";
/** Most stack and memo entries of one stream. */
const STACK_MAX = 100_000;
const STR_BYTES_MAX = 4096;

/**
 * Walks the opcodes of one pickle of protocol 2 to 4 and says what it would build, without building it. Only
 * the opcodes that a list of torch tensors needs are known, every other is refused. Throws nothing but
 * `PROTOCOL_VIOLATION`; reads nothing outside the buffer.
 */
export class PickleMachine {
  readonly #bytes: Buffer;
  readonly #stepsMax: number;
  #pos: number;
  #stack: PickleValue[] = [];
  readonly #memo = new Map<number, PickleValue>();

  /** @param stepsMax most opcodes to walk */
  constructor(bytes: Buffer, stepsMax: number, offset = 0) {
    this.#bytes = bytes;
    this.#stepsMax = stepsMax;
    this.#pos = offset;
  }

  /** Offset after the last opcode that was walked. */
  get pos(): number {
    return this.#pos;
  }

  /** Walks to STOP. */
  run(): PickleValue {
    for (let step = 0; step < this.#stepsMax; step++) {
      const opcode = this.#bytes[this.#take(1)] as number;
      if (opcode === 0x2e) {
        const value = this.#pop();
        if (this.#stack.length !== 0) throw violation(PICKLE, "ends with more than one value");
        return value;
      }
      if (!this.#literal(opcode) && !this.#structure(opcode)) {
        throw violation(PICKLE, `has the opcode 0x${opcode.toString(16)}, which no list of tensors needs`);
      }
      if (this.#stack.length > STACK_MAX || this.#memo.size > STACK_MAX) {
        throw violation(PICKLE, `holds more than ${STACK_MAX} values`);
      }
    }
    throw violation(PICKLE, `has more than ${this.#stepsMax} opcodes`);
  }

  #take(count: number): number {
    const at = this.#pos;
    if (count > this.#bytes.length - at) {
      throw violation(PICKLE, `ends early: ${count} bytes wanted, ${this.#bytes.length - at} left`);
    }
    this.#pos = at + count;
    return at;
  }

  #push(value: PickleValue): true {
    this.#stack.push(value);
    return true;
  }

  #pop(): PickleValue {
    const value = this.#stack.pop();
    if (value === undefined || value.kind === "mark")
      throw violation(PICKLE, "takes a value that is not there");
    return value;
  }

  #top(): PickleValue {
    const value = this.#stack.at(-1);
    if (value === undefined || value.kind === "mark")
      throw violation(PICKLE, "takes a value that is not there");
    return value;
  }

  #popToMark(): PickleValue[] {
    let at = this.#stack.length - 1;
    while (at >= 0 && this.#stack[at]?.kind !== "mark") at -= 1;
    if (at < 0) throw violation(PICKLE, "has no mark");
    const items = this.#stack.slice(at + 1);
    this.#stack.length = at;
    return items;
  }

  #str(length: number): string {
    if (length > STR_BYTES_MAX) throw violation(PICKLE, `has a str of ${length} bytes`);
    const at = this.#take(length);
    return this.#bytes.toString("utf8", at, at + length);
  }

  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#pos);
    if (end < 0 || end - this.#pos > STR_BYTES_MAX) throw violation(PICKLE, "has a line without an end");
    const text = this.#bytes.toString("latin1", this.#pos, end);
    this.#pos = end + 1;
    return text;
  }

  #bytesOf(length: number): true {
    const at = this.#take(length);
    return this.#push({ kind: "bytes", value: this.#bytes.subarray(at, at + length) });
  }

  #uint(width: 1 | 2 | 4): number {
    return this.#bytes.readUIntLE(this.#take(width), width);
  }

  /** Longer than any buffer counts as just that. */
  #uint64(): number {
    return Number(this.#bytes.readBigUInt64LE(this.#take(8)));
  }

  #long(width: number): true {
    const at = this.#take(width);
    if (width === 0) return this.#push({ kind: "int", value: 0 });
    if (width <= 6) return this.#push({ kind: "int", value: this.#bytes.readIntLE(at, width) });
    const value = width === 8 ? Number(this.#bytes.readBigInt64LE(at)) : Number.NaN;
    return this.#push(Number.isSafeInteger(value) ? { kind: "int", value } : { kind: "big" });
  }

  #literal(opcode: number): boolean {
    switch (opcode) {
      case 0x80: {
        const protocol = this.#uint(1);
        if (protocol < 2 || protocol > 5)
          throw violation(PICKLE, `has protocol ${protocol}; 2 to 5 are read`);
        return true;
      }
      case 0x95: // FRAME: how the stream is cut, nothing to us
        this.#take(8);
        return true;
      case 0x4b:
        return this.#push({ kind: "int", value: this.#uint(1) });
      case 0x4d:
        return this.#push({ kind: "int", value: this.#uint(2) });
      case 0x4a:
        return this.#push({ kind: "int", value: this.#bytes.readInt32LE(this.#take(4)) });
      case 0x8a:
        return this.#long(this.#uint(1));
      case 0x4e:
        return this.#push({ kind: "none" });
      case 0x88:
      case 0x89:
        return this.#push({ kind: "bool", value: opcode === 0x88 });
      case 0x8c:
        return this.#push({ kind: "str", value: this.#str(this.#uint(1)) });
      case 0x58:
        return this.#push({ kind: "str", value: this.#str(this.#uint(4)) });
      case 0x43:
        return this.#bytesOf(this.#uint(1));
      case 0x42:
        return this.#bytesOf(this.#uint(4));
      case 0x8e:
        return this.#bytesOf(this.#uint64());
      case 0x63:
        return this.#push({ kind: "global", name: `${this.#line()}.${this.#line()}` });
      default:
        return false;
    }
  }

  #structure(opcode: number): boolean {
    switch (opcode) {
      case 0x28:
        return this.#push({ kind: "mark" });
      case 0x5d:
        return this.#push({ kind: "list", items: [] });
      case 0x7d:
        return this.#push({ kind: "dict", entries: [] });
      case 0x29:
        return this.#push({ kind: "tuple", items: [] });
      case 0x85:
      case 0x86:
      case 0x87: {
        const items: PickleValue[] = [];
        for (let i = 0x84; i < opcode; i++) items.unshift(this.#pop());
        return this.#push({ kind: "tuple", items });
      }
      case 0x74:
        return this.#push({ kind: "tuple", items: this.#popToMark() });
      case 0x61:
        return this.#append([this.#pop()]);
      case 0x65:
        return this.#append(this.#popToMark());
      case 0x73: {
        const value = this.#pop();
        return this.#setItems([this.#pop(), value]);
      }
      case 0x75:
        return this.#setItems(this.#popToMark());
      case 0x93:
        return this.#stackGlobal();
      case 0x52: {
        const args = this.#pop();
        return this.#push({ kind: "call", callee: this.#pop(), args });
      }
      case 0x51:
        return this.#push({ kind: "persistent", id: this.#pop() });
      case 0x94:
        this.#memo.set(this.#memo.size, this.#top());
        return true;
      case 0x71:
      case 0x72:
        this.#memo.set(this.#uint(opcode === 0x71 ? 1 : 4), this.#top());
        return true;
      case 0x68:
      case 0x6a: {
        const value = this.#memo.get(this.#uint(opcode === 0x68 ? 1 : 4));
        if (value === undefined) throw violation(PICKLE, "refers to a value that it did not name");
        return this.#push(value);
      }
      default:
        return false;
    }
  }

  #append(items: readonly PickleValue[]): true {
    const list = this.#top();
    if (list.kind !== "list") throw violation(PICKLE, "appends to what is no list");
    for (const item of items) list.items.push(item);
    if (list.items.length > STACK_MAX) throw violation(PICKLE, `holds more than ${STACK_MAX} values`);
    return true;
  }

  #setItems(items: readonly PickleValue[]): true {
    const dict = this.#top();
    if (dict.kind !== "dict" || items.length % 2 !== 0)
      throw violation(PICKLE, "sets items of what is no dict");
    for (let i = 0; i < items.length; i += 2) {
      dict.entries.push([items[i] as PickleValue, items[i + 1] as PickleValue]);
    }
    if (dict.entries.length > STACK_MAX) throw violation(PICKLE, `holds more than ${STACK_MAX} values`);
    return true;
  }

  #stackGlobal(): true {
    const name = this.#pop();
    const module = this.#pop();
    if (name.kind !== "str" || module.kind !== "str")
      throw violation(PICKLE, "names a global without strings");
    return this.#push({ kind: "global", name: `${module.value}.${name.value}` });
  }
}

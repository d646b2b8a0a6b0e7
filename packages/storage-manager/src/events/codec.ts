import { CacheError } from "@cache/contracts";
import { type CacheEvent, EVENT_DEFINITIONS, type EventType, type FieldKind } from "./definitions.ts";

/** Bounds of one field: what a damaged or foreign record may make us allocate. */
const LIST_ITEMS_MAX = 4_194_304;
const TEXT_BYTES_MAX = 65_536;
const HASH_BYTES = 32;
/** Differences are coded with a sign: half of what a single number may be. */
const LIST_ITEM_MAX = 2 ** 52 - 1;

/** Grows as needed; reused for every event. */
class Writer {
  bytes = Buffer.allocUnsafe(65_536);
  length = 0;

  room(count: number): void {
    if (this.length + count <= this.bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(this.bytes.length * 2, this.length + count));
    this.bytes.copy(grown, 0, 0, this.length);
    this.bytes = grown;
  }

  uint(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) throw new TypeError(`${value} is not an unsigned integer`);
    this.room(8);
    let rest = value;
    while (rest >= 0x80) {
      this.bytes[this.length++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.bytes[this.length++] = rest;
  }

  raw(bytes: Uint8Array): void {
    this.room(bytes.length);
    this.bytes.set(bytes, this.length);
    this.length += bytes.length;
  }
}

class Reader {
  readonly bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  uint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 8; i++) {
      const byte = this.bytes[this.at++];
      if (byte === undefined) throw corrupt("ends inside a number");
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (!Number.isSafeInteger(value)) throw corrupt("holds a number beyond 2^53");
        return value;
      }
      scale *= 0x80;
    }
    throw corrupt("holds a number of more than eight bytes");
  }

  take(count: number): Uint8Array {
    if (count > this.bytes.length - this.at) throw corrupt(`ends inside a field of ${count} bytes`);
    const part = this.bytes.subarray(this.at, this.at + count);
    this.at += count;
    return part;
  }
}

function corrupt(what: string): CacheError {
  return new CacheError(
    "DATA_CORRUPT",
    `event record ${what}; the journal was written by another version or is damaged`,
  );
}

/** What could not be read back must not be written: it would make the whole journal unreadable. */
function assertCount(count: number, max: number, what: string): void {
  if (count > max) {
    throw new CacheError("LIMIT_REACHED", `${count} ${what} do not fit into one event, at most ${max} do`);
  }
}

/** Runs: an ascending run `a, a+1, … a+n-1` is two numbers. The distance to the run before is zigzag-coded. */
function writeRuns(writer: Writer, items: readonly number[]): void {
  assertCount(items.length, LIST_ITEMS_MAX, "list items");
  writer.uint(items.length);
  let previous = 0;
  for (let i = 0; i < items.length; ) {
    const first = items[i] as number;
    let run = 1;
    while (i + run < items.length && items[i + run] === first + run) run++;
    const distance = first - previous;
    writer.uint(distance >= 0 ? distance * 2 : -distance * 2 - 1);
    writer.uint(run - 1);
    previous = first + run;
    i += run;
  }
}

function readRuns(reader: Reader): number[] {
  const count = reader.uint();
  if (count > LIST_ITEMS_MAX) throw corrupt(`holds a list of ${count} items`);
  const items: number[] = [];
  let previous = 0;
  while (items.length < count) {
    const coded = reader.uint();
    const first = previous + (coded % 2 === 0 ? coded / 2 : -(coded + 1) / 2);
    const run = reader.uint() + 1;
    if (first < 0 || run > count - items.length) throw corrupt("holds a run outside its list");
    if (first + run > LIST_ITEM_MAX + 1) throw corrupt("holds a list item of 2^52 or more");
    for (let i = 0; i < run; i++) items.push(first + i);
    previous = first + run;
  }
  return items;
}

function writeField(writer: Writer, kind: FieldKind, value: unknown): void {
  switch (kind) {
    case "uint":
      writer.uint(value as number);
      return;
    case "flag":
      writer.uint(value === true ? 1 : 0);
      return;
    case "id64": {
      writer.room(8);
      writer.bytes.writeBigUInt64LE(value as bigint, writer.length);
      writer.length += 8;
      return;
    }
    case "text": {
      const bytes = Buffer.from(value as string);
      assertCount(bytes.length, TEXT_BYTES_MAX, "bytes of text");
      writer.uint(bytes.length);
      writer.raw(bytes);
      return;
    }
    case "uints":
      writeRuns(writer, value as readonly number[]);
      return;
    case "hashes": {
      const bytes = value as Uint8Array;
      if (bytes.length % HASH_BYTES !== 0) throw new TypeError("hashes are 32 bytes each");
      assertCount(bytes.length / HASH_BYTES, LIST_ITEMS_MAX, "hashes");
      writer.uint(bytes.length / HASH_BYTES);
      writer.raw(bytes);
    }
  }
}

function readField(reader: Reader, kind: FieldKind): unknown {
  switch (kind) {
    case "uint":
      return reader.uint();
    case "flag":
      return reader.uint() === 1;
    case "id64": {
      const bytes = reader.take(8);
      return Buffer.from(bytes.buffer, bytes.byteOffset, 8).readBigUInt64LE(0);
    }
    case "text": {
      const length = reader.uint();
      if (length > TEXT_BYTES_MAX) throw corrupt(`holds a text of ${length} bytes`);
      const bytes = reader.take(length);
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString();
    }
    case "uints":
      return readRuns(reader);
    case "hashes": {
      const count = reader.uint();
      if (count > LIST_ITEMS_MAX) throw corrupt(`holds ${count} hashes`);
      return reader.take(count * HASH_BYTES);
    }
  }
}

interface Plan {
  readonly type: EventType;
  readonly version: number;
  readonly fields: readonly (readonly [string, FieldKind])[];
}

const PLANS_BY_CODE: (Plan | undefined)[] = [];
for (const [type, definition] of Object.entries(EVENT_DEFINITIONS)) {
  if (PLANS_BY_CODE[definition.code] !== undefined)
    throw new TypeError(`event code ${definition.code} twice`);
  PLANS_BY_CODE[definition.code] = {
    type: type as EventType,
    version: definition.version,
    fields: Object.entries(definition.fields),
  };
}

const shared = new Writer();

/**
 * The record of an event: code, version, fields in the order of the definition.
 *
 * @throws CacheError `LIMIT_REACHED` for a text or list that no reader would take, `TypeError` for a value that is
 *   not of its field's kind.
 */
export function encodeEvent(event: CacheEvent): Uint8Array {
  const definition = EVENT_DEFINITIONS[event.type];
  shared.length = 0;
  shared.uint(definition.code);
  shared.uint(definition.version);
  const values = event as unknown as Readonly<Record<string, unknown>>;
  for (const name in definition.fields) {
    writeField(shared, definition.fields[name as keyof typeof definition.fields], values[name]);
  }
  return Uint8Array.prototype.slice.call(shared.bytes, 0, shared.length);
}

/**
 * The event of a record. `hashes` are views of `record`.
 *
 * @throws CacheError `DATA_CORRUPT` for an unknown code or version, or a field that does not fit.
 */
export function decodeEvent(record: Uint8Array): CacheEvent {
  const reader = new Reader(record);
  const code = reader.uint();
  const plan = PLANS_BY_CODE[code];
  if (plan === undefined) throw corrupt(`has the unknown event code ${code}`);
  const version = reader.uint();
  if (version !== plan.version)
    throw corrupt(`has version ${version} of ${plan.type}, known is ${plan.version}`);
  const event: Record<string, unknown> = { type: plan.type };
  for (const [name, kind] of plan.fields) event[name] = readField(reader, kind);
  if (reader.at !== record.length)
    throw corrupt(`of ${plan.type} has ${record.length - reader.at} bytes too many`);
  return event as unknown as CacheEvent;
}

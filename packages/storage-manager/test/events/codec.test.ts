import { hasCode } from "@cache/contracts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeEvent, encodeEvent } from "../../src/events/codec.ts";
import {
  type CacheEvent,
  EVENT_DEFINITIONS,
  type EventType,
  type FieldKind,
} from "../../src/events/definitions.ts";

const TYPES = Object.keys(EVENT_DEFINITIONS) as EventType[];
/** List items are coded as differences with a sign: half of what a single number may be. */
const LIST_ITEM_MAX = 2 ** 52 - 1;

const runs = fc
  .array(fc.tuple(fc.nat({ max: LIST_ITEM_MAX - 100 }), fc.integer({ min: 1, max: 40 })), { maxLength: 8 })
  .map((parts) => parts.flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i)));

const FIELD_ARBITRARIES: { readonly [K in FieldKind]: fc.Arbitrary<unknown> } = {
  uint: fc.oneof(fc.nat(300), fc.maxSafeNat()),
  id64: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  text: fc.string({ unit: "grapheme", maxLength: 60 }),
  flag: fc.boolean(),
  uints: fc.oneof(runs, fc.array(fc.nat(LIST_ITEM_MAX), { maxLength: 30 })),
  hashes: fc
    .nat(12)
    .chain((count) => fc.uint8Array({ minLength: count * 32, maxLength: count * 32 }))
    .map((bytes) => Uint8Array.from(bytes)),
};

function anyEvent(type: EventType): fc.Arbitrary<CacheEvent> {
  const fields: Record<string, fc.Arbitrary<unknown>> = { type: fc.constant(type) };
  for (const [name, kind] of Object.entries(EVENT_DEFINITIONS[type].fields)) {
    fields[name] = FIELD_ARBITRARIES[kind as FieldKind];
  }
  return fc.record(fields) as fc.Arbitrary<unknown> as fc.Arbitrary<CacheEvent>;
}

/** Bytes as hex: a Buffer and a Uint8Array of equal bytes are equal here. */
function plain(event: CacheEvent): unknown {
  return Object.fromEntries(
    Object.entries(event).map(([name, value]) => [
      name,
      value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value,
    ]),
  );
}

/** The event, or null where the record is refused as it should be. */
function decodeOrCode(bytes: Uint8Array): CacheEvent | null {
  try {
    return decodeEvent(bytes);
  } catch (error) {
    if (!hasCode(error, "DATA_CORRUPT")) throw error;
    return null;
  }
}

describe("every event type", () => {
  it.each(TYPES)("%s comes back as it went", (type) => {
    fc.assert(
      fc.property(anyEvent(type), (event) => {
        expect(plain(decodeEvent(encodeEvent(event)))).toEqual(plain(event));
      }),
      { numRuns: 60 },
    );
  });

  it("has a code and a name of its own, in the first two bytes of its record", () => {
    const codes = TYPES.map((type) => EVENT_DEFINITIONS[type].code);
    expect(new Set(codes).size).toBe(TYPES.length);
    for (const type of TYPES) {
      const [event] = fc.sample(anyEvent(type), 1) as [CacheEvent];
      const { code, version } = EVENT_DEFINITIONS[type];
      expect([...encodeEvent(event).subarray(0, 2)]).toEqual([code, version]);
    }
  });
});

describe("a damaged or foreign record", () => {
  it("fails as DATA_CORRUPT, or is an event that can be written again", () => {
    const code = fc.constantFrom(...TYPES.map((type) => EVENT_DEFINITIONS[type].code), 0, 99, 127);
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 80 }),
      fc
        .tuple(code, fc.uint8Array({ maxLength: 60 }))
        .map(([first, rest]) => Uint8Array.from([first, 1, ...rest])),
    );
    fc.assert(
      fc.property(bytes, (record) => {
        const event = decodeOrCode(record);
        if (event !== null) expect(plain(decodeEvent(encodeEvent(event)))).toEqual(plain(event));
      }),
      { numRuns: 3_000 },
    );
  });

  it("fails, or decodes to something, after each flip of one bit and each cut", () => {
    fc.assert(
      fc.property(fc.constantFrom(...TYPES).chain(anyEvent), fc.nat(), (event, at) => {
        const record = encodeEvent(event);
        const flipped = Uint8Array.from(record);
        const bit = at % (record.length * 8);
        flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
        decodeOrCode(flipped);
        expect(decodeOrCode(record.subarray(0, at % record.length))).toBeNull();
        expect(decodeOrCode(Uint8Array.from([...record, 0]))).toBeNull();
      }),
      { numRuns: 1_000 },
    );
  });

  it("never makes us allocate beyond the bounds", () => {
    const huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
    const { code: evicted } = EVENT_DEFINITIONS["l1.keys.evicted"];
    const { code: quota } = EVENT_DEFINITIONS["quota.removed"];
    const { code: bound } = EVENT_DEFINITIONS["l1.key.bound"];
    // A list of 2^52 items; one item more than allowed, as a single run; a text and hashes longer than allowed.
    const bombs = [
      [evicted, 1, ...huge, 0, ...huge],
      [evicted, 1, 0x81, 0x80, 0x80, 0x02, 0, 0x80, 0x80, 0x80, 0x02, 0],
      [quota, 1, ...huge],
      [quota, 1, 0x81, 0x80, 0x04],
      [bound, 1, 0, 0, ...huge],
      [bound, 1, 0, 0, 0x81, 0x80, 0x80, 0x02],
    ];
    const before = process.memoryUsage().rss;
    for (const bomb of bombs) expect(decodeOrCode(Uint8Array.from(bomb))).toBeNull();
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
  });

  it("is refused where its numbers leave the safe integers", () => {
    const { code } = EVENT_DEFINITIONS["l1.keys.evicted"];
    // Two runs that each begin 2^52 - 1 after the end of the one before.
    const far = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
    const record = Uint8Array.from([code, 1, 3, ...far, 0, ...far, 0, ...far, 0, 0]);
    expect(decodeOrCode(record)).toBeNull();
  });
});

describe("what could not be read back is not written", () => {
  it.each<[string, CacheEvent]>([
    ["a text of more than 65,536 bytes", { type: "quota.removed", cacheSalt: "x".repeat(65_537) }],
    ["a negative number", { type: "session.answered", session: -1 }],
    ["a fraction", { type: "session.answered", session: 0.5 }],
    ["an unsafe number", { type: "session.answered", session: 2 ** 53 }],
    ["half a hash", { type: "l1.key.bound", group: 0, keys: [0], hashes: new Uint8Array(31) }],
  ])("%s", (_, event) => {
    expect(() => encodeEvent(event)).toThrow();
  });
});

const CHUNKS = 512;
const RANKS = 8;
const COUNT = CHUNKS * RANKS;

/** A journal that has lived: numbers are in use here and there, offsets lie where there was room. */
function used(count: number, from: number): number[] {
  return Array.from({ length: count }, (_, i) => from + i + Math.floor(i / 64) * 3);
}

/** Numbers of one lookup: chunk by chunk, each rank's slots lie in a batch of their own. */
function lookupSlots(): number[] {
  const slots: number[] = [];
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    for (let rank = 0; rank < RANKS; rank++) slots.push(100_000 + rank * CHUNKS + chunk + 1);
  }
  return slots;
}

/** One event of each type that names keys or slots, for 512 chunks of 8 ranks. */
function batchEvents(): Partial<Record<EventType, CacheEvent>> {
  const slots = used(COUNT, 100_000);
  const keys = used(COUNT, 900_000);
  const lookup = lookupSlots();
  const text = { requestId: "cmpl-0123456789abcdef0123456789abcdef-0", match: "0123456789abcdef".repeat(2) };
  const l2 = { adapter: 3, task: 123_456 };
  const range = { session: 77, fromChunk: 0, toChunk: CHUNKS };
  return {
    "l1.write.reserved": {
      type: "l1.write.reserved",
      transfer: 12_345,
      writer: 0,
      instance: 2n ** 63n,
      adapter: 0,
      ...text,
      layout: 7,
      complete: true,
      temporary: false,
      slots,
      keys,
      offsets: used(COUNT, 5_000_000),
    },
    "l1.write.finished": { type: "l1.write.finished", transfer: 12_345, missing: slots.map((_, i) => i) },
    "session.looked_up": {
      type: "session.looked_up",
      session: 77,
      requestId: text.requestId,
      pending: true,
      ranks: RANKS,
      readers: 1,
      hits: CHUNKS,
      slots: lookup,
    },
    "session.locks.released": { type: "session.locks.released", ...range, rank: 0, count: 1 },
    "session.ended": { type: "session.ended", session: 77, reason: "ended" },
    "l1.read.expired": { type: "l1.read.expired", slots: lookup },
    "l1.read.handed_out": {
      type: "l1.read.handed_out",
      transfer: 12_345,
      instance: 2n ** 63n,
      ...text,
      ...range,
      rank: 7,
      inline: false,
      slots: lookup,
    },
    "l1.read.finished": { type: "l1.read.finished", transfer: 12_345, committed: true, reason: "commit" },
    "l1.keys.evicted": { type: "l1.keys.evicted", slots: [...slots].reverse(), reason: "watermark" },
    "l1.keys.accessed": { type: "l1.keys.accessed", slots: lookup },
    "l2.store.submitted": { type: "l2.store.submitted", ...l2, layout: 7, keys },
    "l2.store.completed": {
      type: "l2.store.completed",
      ...l2,
      stored: keys.filter((_, i) => i % 2 === 0),
      failed: keys.filter((_, i) => i % 2 === 1),
      reason: "mock: store was told to fail",
    },
    "l2.store.given_up": { type: "l2.store.given_up", adapter: 3, keys, reason: "full" },
    "l2.delete.submitted": { type: "l2.delete.submitted", adapter: 3, keys, reason: "watermark" },
    "l2.keys.deleted": { type: "l2.keys.deleted", adapter: 3, keys, reason: "watermark" },
    "l2.delete.refused": { type: "l2.delete.refused", adapter: 3, keys },
    "l2.keys.accessed": { type: "l2.keys.accessed", adapter: 3, keys: lookup },
  };
}

const STAGING_BYTES_MAX = 64;
const COMMIT_BYTES_MAX = 32;
const OTHER_BYTES_MAX = 8;
/** Commits and stores to L2. */
const COMMIT_TYPES = new Set<EventType>(["l1.write.finished", "l2.store.submitted", "l2.store.completed"]);

describe(`a batch of ${CHUNKS} chunks and ${RANKS} ranks`, () => {
  const batch = batchEvents();

  it(`needs at most ${STAGING_BYTES_MAX} bytes a key to stage, with what binds the keys`, () => {
    const binding: CacheEvent = {
      type: "l1.key.bound",
      group: 9,
      keys: used(COUNT, 900_000),
      hashes: new Uint8Array(COUNT * 32).fill(0xab),
    };
    const staging = batch["l1.write.reserved"] as CacheEvent;
    const bytes = encodeEvent(binding).length + encodeEvent(staging).length;
    expect(bytes / COUNT).toBeLessThanOrEqual(STAGING_BYTES_MAX);
    expect(bytes / COUNT).toBeGreaterThan(32);
  });

  it.each((Object.keys(batch) as EventType[]).filter((type) => type !== "l1.write.reserved"))(
    "needs few bytes a key in %s",
    (type) => {
      const bytes = encodeEvent(batch[type] as CacheEvent).length / COUNT;
      expect(bytes).toBeLessThanOrEqual(COMMIT_TYPES.has(type) ? COMMIT_BYTES_MAX : OTHER_BYTES_MAX);
    },
  );

  it("holds back the 17 bytes of a digest in commits and stores to L2", () => {
    for (const type of COMMIT_TYPES) {
      expect(encodeEvent(batch[type] as CacheEvent).length / COUNT + 17).toBeLessThanOrEqual(
        COMMIT_BYTES_MAX,
      );
    }
  });
});

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Reply, RespError, RespReader } from "../src/resp-reader.ts";
import { pattern } from "./support/fixtures.ts";

/** What one reply looks like on the wire, and what the reader has to make of it. */
interface Sent {
  readonly wire: Buffer;
  readonly reply: Reply;
  /** For a bulk: its bytes, and whether the sink wants them. */
  readonly bulk: { readonly bytes: Uint8Array; readonly wanted: boolean } | null;
}

const line = (text: string): Buffer => Buffer.from(`${text}\r\n`);

function bulkOf(bytes: Uint8Array, wanted: boolean): Sent {
  return {
    wire: Buffer.concat([line(`$${bytes.length}`), bytes, line("")]),
    reply: { kind: "bulk", byteLength: bytes.length, kept: wanted },
    bulk: { bytes, wanted },
  };
}

const SIMPLE: readonly Sent[] = [
  { wire: line("+OK"), reply: { kind: "simple", text: "OK" }, bulk: null },
  { wire: line("+"), reply: { kind: "simple", text: "" }, bulk: null },
  { wire: line("-ERR no"), reply: { kind: "error", text: "ERR no" }, bulk: null },
  { wire: line(":-12"), reply: { kind: "integer", value: -12 }, bulk: null },
  { wire: line("$-1"), reply: { kind: "null" }, bulk: null },
  bulkOf(new Uint8Array(0), true),
];

/** Feeds the wire in pieces of these sizes (the last one repeats) and checks every reply and byte. */
function feed(
  sent: readonly Sent[],
  sizes: readonly number[],
  scratchBytes: number,
  headBytes = scratchBytes,
): void {
  const wire = Buffer.concat(sent.map((one) => one.wire));
  const bulks = sent.flatMap(({ bulk }) => bulk ?? []);
  const memories = bulks.map(({ bytes }) => Buffer.alloc(bytes.length + 2, 0xa5));
  const replies: Reply[] = [];
  let begun = 0;
  const reader = new RespReader(
    {
      beginBulk: () => {
        const memory = memories[begun] as Buffer;
        return bulks[begun++]?.wanted === true ? memory.subarray(1, -1) : null;
      },
      reply: (reply) => void replies.push(reply),
    },
    Buffer.allocUnsafeSlow(scratchBytes),
  );
  let at = 0;
  for (let n = 0; at < wire.length; n++) {
    const into = reader.target(headBytes);
    const size = Math.min(
      Math.max(1, sizes[Math.min(n, sizes.length - 1)] ?? 1),
      into.byteLength,
      wire.length - at,
    );
    into.set(wire.subarray(at, at + size));
    at += size;
    reader.advance(size, into);
  }
  expect(replies).toEqual(sent.map(({ reply }) => reply));
  for (const [i, { bytes, wanted }] of bulks.entries()) {
    const memory = memories[i] as Buffer;
    const expected = wanted ? Buffer.from(bytes) : Buffer.alloc(bytes.length, 0xa5);
    expect(memory.subarray(1, -1).equals(expected)).toBe(true);
    expect([memory[0], memory.at(-1)]).toEqual([0xa5, 0xa5]);
  }
}

describe("RespReader", () => {
  const mixed = [
    ...SIMPLE,
    bulkOf(pattern(1, 37), true),
    bulkOf(Buffer.from("\r\n$5\r\n+OK\r\n"), true),
    bulkOf(pattern(2, 20), false),
    ...SIMPLE,
  ];

  test("input split at every byte", () => {
    const total = Buffer.concat(mixed.map(({ wire }) => wire)).length;
    for (let split = 1; split < total; split++) feed(mixed, [split, total], 256);
    for (let size = 1; size <= 16; size++) feed(mixed, [size], 16);
    for (let head = 1; head <= 16; head++) feed(mixed, [total], 256, head);
  });

  test("random replies, split anywhere, with any scratch, and as little read ahead as you like", () => {
    const reply = fc.oneof(
      fc.constantFrom(...SIMPLE),
      fc
        .record({ seed: fc.nat(1000), size: fc.nat(5000), wanted: fc.boolean() })
        .map(({ seed, size, wanted }) => bulkOf(pattern(seed, size), wanted || size === 0)),
    );
    const sizes = fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(
        fc.array(reply, { minLength: 1, maxLength: 20 }),
        sizes,
        fc.integer({ min: 3, max: 4096 }),
        fc.integer({ min: 1, max: 600 }),
        (sent, pieces, scratchBytes, headBytes) =>
          feed(sent, pieces, scratchBytes, Math.min(headBytes, scratchBytes)),
      ),
      { numRuns: 300 },
    );
  });

  const hostile: [string, RegExp][] = [
    ["*2\r\n", /begins with byte 42/],
    ["_\r\n", /begins with byte 95/],
    ["HTTP/1.1 400 Bad Request\r\n", /begins with byte 72/],
    ["\0\0\0\r\n", /begins with byte 0/],
    ["\r\n", /does not end with CR LF/],
    ["+OK\n", /does not end with CR LF/],
    ["$\r\n", /is no integer/],
    ["$-2\r\n", /announces -2 bytes/],
    ["$1e3\r\n", /is no integer/],
    ["$007\r\n", /is no integer/],
    ["$ 5\r\n", /is no integer/],
    ["$99999999999999999999\r\n", /is no integer/],
    ["$9999999999999\r\n", /announces 9999999999999 bytes/],
    [":1.5\r\n", /is no integer/],
    [`+${"x".repeat(9000)}`, /longer than 8192 bytes/],
    ["$3\r\nabcd\r\n", /does not end with CR LF/],
    ["$3\r\nabc\rX", /does not end with CR LF/],
  ];
  test.each(hostile)("%j is refused", (wire, message) => {
    for (const size of [1, 7, 10_000]) {
      const reader = new RespReader(
        { beginBulk: () => null, reply: () => undefined },
        Buffer.allocUnsafeSlow(10_000),
      );
      const bytes = Buffer.from(wire);
      const run = (): void => {
        for (let at = 0; at < bytes.length; at += size) {
          const into = reader.target();
          into.set(bytes.subarray(at, at + size));
          reader.advance(Math.min(size, bytes.length - at), into);
        }
      };
      expect(run).toThrow(RespError);
      expect(run).toThrow(message);
    }
  });

  test("random garbage gives replies or a RespError, never anything else, and writes nowhere", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 400 }), fc.nat(5), (garbage, lead) => {
        const wire = Buffer.concat([Buffer.from(["$", "+", ":", "-", "$5\r\n", ""][lead] ?? ""), garbage]);
        const reader = new RespReader(
          { beginBulk: () => null, reply: () => undefined },
          Buffer.allocUnsafeSlow(64),
        );
        try {
          for (let at = 0; at < wire.length; ) {
            const into = reader.target();
            const size = Math.min(into.byteLength, wire.length - at);
            into.set(wire.subarray(at, at + size));
            at += size;
            reader.advance(size, into);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(RespError);
        }
      }),
    );
  });
});

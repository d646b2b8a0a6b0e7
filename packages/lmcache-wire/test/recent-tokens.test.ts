import fc from "fast-check";
import { Packr } from "msgpackr";
import { describe, expect, test } from "vitest";
import { HashSessions } from "../src/hash-sessions.ts";
import { TokenBuffer } from "../src/key-reader.ts";
import { RecentTokens } from "../src/recent-tokens.ts";
import { decodeCall, type WireChunkRange } from "../src/requests.ts";
import { chunkHashes, TokenHasher } from "../src/token-hasher.ts";

const CHUNK = 4;
const packr = new Packr({ useRecords: false, variableMapSize: true });
const hasher = await TokenHasher.load(CHUNK);

function tokenBytes(ids: readonly number[]): Buffer {
  const bytes = Buffer.alloc(ids.length * 4);
  for (const [i, id] of ids.entries()) bytes.writeUInt32BE(id, i * 4);
  return bytes;
}

interface Ask {
  readonly ids: readonly number[];
  readonly end: number;
  readonly request: string;
  readonly salt: string;
}

async function reader(bytesMax: number) {
  const sessions = await HashSessions.load(hasher);
  const recent = new RecentTokens(bytesMax);
  const tokens = new TokenBuffer();
  const read = (ask: Ask): WireChunkRange => {
    const key = {
      model_name: "m",
      world_size: 1,
      worker_id: null,
      token_ids: ask.ids.map((id) => (id > 0x7fffffff ? BigInt(id) : id)),
      start: 0,
      end: ask.end,
      request_id: ask.request,
      cache_salt: ask.salt,
    };
    const call = decodeCall("lookup", [packr.pack(key), packr.pack(1)], {
      chunkSize: CHUNK,
      tokens,
      sessions,
      recent,
    });
    if (call.op !== "lookup") throw new Error("no lookup");
    return call.range;
  };
  return { read, recent, sessions };
}

/** Prompts that share much: beginnings, lengths, all but one id. */
const id = fc.constantFrom(0, 127, 128, 255, 256, 65_535, 65_536, 150_000, 0xffffffff);
const prompts = fc
  .tuple(fc.array(id, { maxLength: 40 }), fc.array(fc.tuple(fc.nat({ max: 39 }), id), { maxLength: 4 }))
  .map(([base, edits]) => [
    base,
    base.slice(0, -1),
    ...edits.map(([at, to]) => base.map((one, i) => (i === at ? to : one))),
  ]);

describe("token arrays that come again", () => {
  test("give the hashes of their own tokens, whatever came before and whatever was dropped", async () => {
    const asks = prompts.chain((list) =>
      fc.array(
        fc.record({
          ids: fc.constantFrom(...list),
          end: fc.nat({ max: 44 }),
          request: fc.constantFrom("a", "b"),
          salt: fc.constantFrom("", "tenant"),
        }),
        { maxLength: 30 },
      ),
    );
    await fc.assert(
      fc.asyncProperty(asks, fc.constantFrom(0, 700, 2000, 8 * 2 ** 20), async (list, bytesMax) => {
        const { read, recent } = await reader(bytesMax);
        for (const ask of list) {
          const range = read(ask);
          const bytes = tokenBytes(ask.ids);
          const chunks = Math.floor(Math.min(ask.end, ask.ids.length) / CHUNK);
          expect(range.endChunk).toBe(chunks);
          expect(Buffer.from(range.hashes)).toEqual(
            Buffer.from(chunkHashes(hasher, bytes).subarray(0, 32 * chunks)),
          );
          for (let chunk = 0; chunk < chunks; chunk++) {
            expect(Buffer.from(range.tokensOfChunk(chunk))).toEqual(
              bytes.subarray(16 * chunk, 16 * chunk + 16),
            );
          }
          expect(recent.bytes).toBeLessThanOrEqual(bytesMax);
        }
      }),
    );
  });

  test("are not hashed again for another request, but are for another tenant", async () => {
    const { read, sessions } = await reader(8 * 2 ** 20);
    const ids = Array.from({ length: 64 }, (_, i) => 1000 * i);
    const ask = { ids, end: 64, request: "first", salt: "a" };
    read(ask);
    expect(sessions.counters.hashedChunks).toBe(16);
    read({ ...ask, request: "second" });
    expect(sessions.counters).toMatchObject({ hashedChunks: 16, reusedChunks: 16 });
    read({ ...ask, request: "third", salt: "b" });
    expect(sessions.counters.hashedChunks).toBe(32);
    read({ ...ask, request: "fourth", salt: "b" });
    expect(sessions.counters.hashedChunks).toBe(32);
  });
});

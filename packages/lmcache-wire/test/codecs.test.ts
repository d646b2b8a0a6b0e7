import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { isCacheError } from "@cache/contracts";
import fc from "fast-check";
import { Packr } from "msgpackr";
import { describe, expect, test } from "vitest";
import { HashSessions } from "../src/hash-sessions.ts";
import { readCacheServerKey, TokenBuffer } from "../src/key-reader.ts";
import { operationOf, type ServedName } from "../src/operations.ts";
import { readTensorList } from "../src/pickle-read.ts";
import {
  encodePrepareRetrieveReply,
  encodePrepareStoreReply,
  encodeRegisterReply,
  pack,
} from "../src/replies.ts";
import { checkPayload, decodeCall } from "../src/requests.ts";
import { chunkHashes, TokenHasher } from "../src/token-hasher.ts";

const here = import.meta.dirname;
const packr = new Packr({ useRecords: false, variableMapSize: true });

function tokenBytes(ids: readonly number[]): Uint8Array {
  const out = Buffer.alloc(ids.length * 4);
  for (const [i, id] of ids.entries()) out.writeUInt32BE(id, i * 4);
  return out;
}

async function hex(chunk: number, ids: readonly number[]): Promise<string[]> {
  const hashes = Buffer.from(chunkHashes(await TokenHasher.load(chunk), tokenBytes(ids)));
  return Array.from({ length: hashes.length / 32 }, (_, i) =>
    hashes.subarray(32 * i, 32 * i + 32).toString("hex"),
  );
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

describe("token hashing", () => {
  test("LMCache's vectors", async () => {
    const none = (await TokenHasher.load(256)).noneHash;
    expect(Buffer.from(none).toString("hex")).toBe(
      "7e3eff9ef7613a50340eb12677ee03b83ac759fcba9bb32705f07248d56d473b",
    );
    expect(await hex(256, range(768))).toEqual([
      "084547b6c40ed5b05ba8cd0305db5bf74d5617673948d9ed193ab7d6cbc484d4",
      "e5ffee45c2b9db326814c9692dc594369887ba3b0df5761817820b60f864c8e0",
      "4d63c63139bfd6f32e22b9a3356d2aab5bcc52694fad77206308b1f5c0d58898",
    ]);
    expect(
      await hex(
        256,
        Array.from({ length: 512 }, () => 0),
      ),
    ).toEqual([
      "03edbe7e49c9198da23fa92679fd592f12679bb4ccc65b5c91f31dda79bf1fa9",
      "c6fb0a968b6988f66447463cc219471495aecbca85d124071977d4ad0ee1b1f5",
    ]);
    expect(await hex(256, [7, ...Array.from({ length: 512 }, () => 9906)])).toEqual([
      "b88afa1d1488b5722a1cd80b4ba3d022f8e8954c5191e5964d8090eb0d3211c9",
      "3fd634ffdc0cd8455f367e6e2e47ec9312571c59b13be9d54f814602cb09c574",
    ]);
    expect(
      await hex(
        256,
        range(600).map((i) => (i * i) % 151936),
      ),
    ).toEqual([
      "44e2771e7a99cd7a18c548072bb276b8d5e763692b73677a39a60c19c5b1a0db",
      "7c606f5f11b61e6e2bdeec19b6fb2e3e421981da0bb813ab214b81056414c685",
    ]);
    expect(
      await hex(
        4,
        range(16).map((i) => i + 1),
      ),
    ).toEqual([
      "6309ed506b8721905753f5c73c070bb21c3aafbd9b474b1e231f41368b71123c",
      "98efc76eafb06cfe774c31ff151f300b61a614c27982a211bb8cdbd83a8c0e19",
      "4ae8c365ba1a8b92e28e679ca161ac6ab151966072f016f1230fcac565cb712a",
      "eabdb9da7a2b66153fe0f7487f9aad3f5ab23a5332a1caebe181e951cad76c55",
    ]);
    expect(await hex(4, [4294967295, 0, 1, 2147483648])).toEqual([
      "28f278e979bf01da217523c5ac459a80f45adfe9573c6fe05d7bc153bed54703",
    ]);
    expect(await hex(256, range(255))).toEqual([]);
  });

  test("a session answers what hashing from scratch answers, however the tokens change", async () => {
    const hasher = await TokenHasher.load(2);
    const sessions = await HashSessions.load(hasher, { maxSessions: 2 });
    const ids = fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 24 });
    const calls = fc.array(fc.tuple(fc.constantFrom("a", "b", "c"), ids), { maxLength: 20 });
    const held: { hashes: Uint8Array; copy: string }[] = [];
    fc.assert(
      fc.property(calls, (list) => {
        for (const [id, tokens] of list) {
          const bytes = tokenBytes(tokens);
          const hashes = sessions.hashesFor(id, bytes, Math.floor(tokens.length / 2));
          const copy = Buffer.from(chunkHashes(hasher, bytes)).toString("hex");
          expect(Buffer.from(hashes).toString("hex")).toBe(copy);
          held.push({ hashes, copy });
          expect(sessions.size).toBeLessThanOrEqual(2);
        }
      }),
    );
    expect(sessions.counters.reusedChunks).toBeGreaterThan(0);
    for (const { hashes, copy } of held) expect(Buffer.from(hashes).toString("hex")).toBe(copy);
  });
});

const keyFields = fc.record({
  model_name: fc.stringMatching(/^[a-z/-]{1,20}$/),
  world_size: fc.constant(255),
  worker_id: fc.option(fc.integer({ min: 0, max: 254 })),
  token_ids: fc.array(fc.integer({ min: 0, max: 0xffffffff }), { maxLength: 40 }),
  start: fc.nat(),
  end: fc.nat(),
  request_id: fc.string({ unit: "grapheme", maxLength: 20 }),
  cache_salt: fc.stringMatching(/^[a-z]{0,20}$/),
  request_configs: fc.option(fc.dictionary(fc.string(), fc.oneof(fc.integer(), fc.string(), fc.double()))),
  num_kv_readers: fc.integer({ min: 0, max: 100 }),
  unknown: fc.anything({ withNullPrototype: false, maxDepth: 3 }).filter((v) => v !== undefined),
});

const wide = (id: number): number | bigint => (id > 0xffffffff ? BigInt(id) : id);

describe("the key reader", () => {
  const buffer = new TokenBuffer();

  test("agrees with the packer, in any order of fields", () => {
    fc.assert(
      fc.property(keyFields, fc.infiniteStream(fc.nat()), (fields, order) => {
        const { unknown: _, ...known } = fields;
        const entries = [...Object.entries(known), ["unknown", { a: [1, "x", null, 2.5] }] as const];
        const sorted = entries
          .map((entry) => [order.next().value ?? 0, entry] as const)
          .toSorted((a, b) => a[0] - b[0])
          .map(([, entry]) => entry);
        const key = readCacheServerKey(packr.pack(Object.fromEntries(sorted)), buffer);
        expect(Buffer.from(key.tokens.bytes())).toEqual(tokenBytes(fields.token_ids));
        expect(key).toMatchObject({
          modelName: fields.model_name,
          workerId: fields.worker_id,
          start: fields.start,
          end: fields.end,
          requestId: fields.request_id,
          cacheSalt: fields.cache_salt,
          numKvReaders: fields.num_kv_readers,
        });
      }),
    );
  });

  test("throws nothing but typed errors on mutated and random bytes", () => {
    const good = packr.pack({
      model_name: "m",
      world_size: 1,
      worker_id: 0,
      token_ids: [1, 300, 70_000, wide(0xffffffff)],
      start: 0,
      end: 4,
      request_id: "r",
    });
    const attempt = (frame: Buffer): void => {
      try {
        readCacheServerKey(frame, buffer);
      } catch (error) {
        expect(isCacheError(error)).toBe(true);
      }
    };
    const edits = fc.array(fc.tuple(fc.nat({ max: good.length - 1 }), fc.nat({ max: 255 })), {
      maxLength: 4,
    });
    fc.assert(
      fc.property(edits, fc.nat({ max: good.length }), (list, cut) => {
        const frame = Buffer.from(good);
        for (const [at, value] of list) frame[at] = value;
        attempt(frame);
        attempt(frame.subarray(0, cut));
      }),
      { numRuns: 3000 },
    );
    fc.assert(fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => attempt(Buffer.from(bytes))));
  });

  test("refuses a field twice, and an array", () => {
    const twice = Buffer.concat([
      Buffer.from([0x82]),
      packr.pack("start"),
      packr.pack(1),
      packr.pack("start"),
      packr.pack(1),
    ]);
    expect(() => readCacheServerKey(twice, buffer)).toThrow("given twice");
    expect(() => readCacheServerKey(packr.pack([1, 2]), buffer)).toThrow("must be a map");
  });
});

interface Fixture {
  readonly name: string;
  readonly tensors: readonly { readonly dtype: string; readonly shape: number[]; readonly sha256: string }[];
}

describe("pickles", () => {
  const folder = `${here}/fixtures/pickles`;
  const index = JSON.parse(readFileSync(`${folder}/index.json`, "utf8")) as Fixture[];

  test.each(index)("torch's own: $name", ({ name, tensors }) => {
    const read = readTensorList(readFileSync(`${folder}/${name}.pickle`));
    const seen = read.map(({ dtype, shape, bytes }) => ({
      dtype,
      shape,
      sha256: createHash("sha256").update(bytes).digest("hex"),
    }));
    expect(seen).toEqual(tensors);
  });

  test("what is not contiguous is refused; damage gives typed errors", () => {
    expect(() => readTensorList(readFileSync(`${folder}/not-contiguous.pickle`))).toThrow("contiguous");
    expect(readdirSync(folder)).toContain("bfloat16.pickle");
    const good = readFileSync(`${folder}/float8_e4m3fn.pickle`);
    const edits = fc.array(fc.tuple(fc.nat({ max: good.length - 1 }), fc.nat({ max: 255 })), {
      minLength: 1,
      maxLength: 4,
    });
    fc.assert(
      fc.property(edits, fc.nat({ max: good.length }), (list, cut) => {
        const frame = Buffer.from(good);
        for (const [at, value] of list) frame[at] = value;
        for (const bytes of [frame, frame.subarray(0, cut)]) {
          try {
            readTensorList(bytes, 4);
          } catch (error) {
            expect(isCacheError(error)).toBe(true);
          }
        }
      }),
      { numRuns: 3000 },
    );
  });
});

interface Recorded {
  readonly session: string;
  readonly dir: "c2s" | "s2c";
  readonly frames: readonly { readonly len: number; readonly hex: string }[];
  readonly decoded: { readonly op: string; readonly values: readonly unknown[] };
}

function reencode(op: string, value: unknown): Buffer | undefined {
  if (op === "register_kv_cache_engine_driven_context") {
    const reply = value as { shm_name: string; pool_size: number };
    return encodeRegisterReply({ shmName: reply.shm_name, poolSize: reply.pool_size });
  }
  if (op === "prepare_store") {
    const { context } = value as { context: { slots?: never[]; chunk_indices?: number[] } };
    if (context.slots === undefined) return encodePrepareStoreReply({ kind: "empty-context" });
    return encodePrepareStoreReply({
      kind: "slots",
      slots: context.slots,
      chunkIndices: context.chunk_indices ?? [],
    });
  }
  if (op === "prepare_retrieve") {
    const { success, context } = value as { success: boolean; context: { slots?: never[] } };
    if (!success) return encodePrepareRetrieveReply({ kind: "miss" });
    return context.slots === undefined
      ? undefined
      : encodePrepareRetrieveReply({ kind: "slots", slots: context.slots });
  }
  return ["store", "retrieve", "subscribe_kv_events"].includes(op) ? undefined : pack(value);
}

describe("messages recorded between LMCache 0.5.6 and its clients", async () => {
  const lines = gunzipSync(readFileSync(`${here}/vectors/mp-frames.jsonl.gz`))
    .toString("utf8")
    .trim()
    .split("\n");
  const recorded = lines.map((line) => JSON.parse(line) as Recorded);
  const whole = recorded.filter(({ frames }) => frames.every(({ len, hex }) => len === hex.length / 2));
  const hasher = await TokenHasher.load(256);
  const sessions = await HashSessions.load(hasher);

  test("every complete request of a served operation is read", () => {
    let read = 0;
    for (const { frames } of whole.filter(({ dir }) => dir === "c2s")) {
      const [, op, ...payload] = frames.map(({ hex }) => Buffer.from(hex, "hex"));
      if (op === undefined || op.length === 0) continue;
      const operation = operationOf(packr.unpack(op) as number | string);
      expect(operation).toBeDefined();
      if (operation?.kind !== "served") continue;
      const name = operation.name as ServedName;
      checkPayload(operation, payload);
      const bad = name === "ping" ? undefined : "num_kv_readers";
      try {
        decodeCall(name, payload, { chunkSize: 256, tokens: new TokenBuffer(), sessions });
        read += 1;
      } catch (error) {
        expect(String(error)).toContain(bad);
      }
    }
    expect(read).toBeGreaterThan(150);
  });

  test("our replies are the recorded bytes", () => {
    let same = 0;
    for (const { frames, decoded } of whole.filter(({ dir }) => dir === "s2c")) {
      const last = frames[2];
      if (last === undefined) continue;
      const encoded = reencode(decoded.op, decoded.values[0]);
      if (encoded === undefined) continue;
      expect(encoded.toString("hex")).toBe(last.hex);
      same += 1;
    }
    expect(same).toBeGreaterThan(80);
  });
});

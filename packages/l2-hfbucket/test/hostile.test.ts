import { isCacheError } from "@cache/contracts";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { type Hub, type HubFault, startHub } from "../../../tools/hub/server.mjs";
import { createHfBucketAdapter } from "../src/adapter.ts";
import { hfBucketConfigSchema } from "../src/config.ts";
import {
  after,
  BUCKET,
  HANDLE,
  key,
  loadNth,
  type LogLine,
  memory,
  never,
  newHub,
  noL1,
  openAdapter,
  openContext,
  pattern,
  sized,
  storePatterns,
  type TestAdapter,
  TOKEN,
} from "./support/fixtures.ts";

vi.setConfig({ testTimeout: 90_000 });

const SIZE = 100_000;
/** Of operations that a server lets wait. */
const DEADLINE_MS = 150;

/** Which requests a store and a load make. */
const STORE_KINDS = ["paths-info", "write-token", "xorb", "shard", "batch"];
const LOAD_KINDS = ["paths-info", "read-token", "reconstruction", "xorb-bytes"];
/** Of what the store answers to a xorb or a shard only the status is looked at. */
const UNREAD_ELSEWHERE = ["paths-info", "write-token", "batch", ...LOAD_KINDS];
/** Where statuses that differ in their code alone are tried. */
const SOME_KINDS = ["paths-info", "batch", "reconstruction"];

async function failureOf(
  work: Promise<unknown>,
  what = "a call",
): Promise<{ code: string; message: string }> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!isCacheError(error)) throw new Error(`${what}: no CacheError: ${String(error)}`);
  return error;
}

/** Makes all requests of a kind fail, until the fault is taken back. */
function breakKind(hub: Hub, kind: string, fault: HubFault): void {
  hub.fault = (request) => (request.kind === kind ? fault : null);
}

/** What replaces an answer, the code of the error, and kinds of requests where it does no harm. */
const answers: [string, HubFault, string, string[], string[]?][] = [
  ["401", { answer: { status: 401 } }, "BACKEND_REFUSED", []],
  ["403", { answer: { status: 403 } }, "BACKEND_REFUSED", [], SOME_KINDS],
  [
    "429",
    { answer: { status: 429, headers: { "retry-after": "3600" } } },
    "BACKEND_UNAVAILABLE",
    [],
    SOME_KINDS,
  ],
  ["500", { answer: { status: 500 } }, "BACKEND_UNAVAILABLE", []],
  ["507", { answer: { status: 507 } }, "BACKEND_FULL", [], SOME_KINDS],
  // After a batch whose answer says nothing the Hub is asked what is there.
  ["a web page", { rewrite: () => Buffer.from("<p>") }, "BACKEND_UNAVAILABLE", ["batch"], UNREAD_ELSEWHERE],
  ["{}", { rewrite: () => Buffer.from("{}") }, "BACKEND_UNAVAILABLE", ["batch"], UNREAD_ELSEWHERE],
  ["a reset", { ending: "reset" }, "BACKEND_UNAVAILABLE", []],
  ["a reset within the body", { sendBytes: 1, ending: "reset" }, "BACKEND_UNAVAILABLE", ["batch"]],
  ["a body that ends early", { sendBytes: 1, ending: "end" }, "BACKEND_UNAVAILABLE", ["batch"]],
];

/** One Hub whose Xet tokens are asked for anew each time, and one adapter that has to bear everything. */
describe("instead of an answer", () => {
  let hub: Hub;
  let adapter: TestAdapter;
  let n = 100;
  beforeAll(async () => {
    hub = await startHub({ token: TOKEN, tokenSeconds: 30 });
    hub.buckets.create(BUCKET);
    const options = { bucket_handle: HANDLE, token_env: "", token: TOKEN, endpoint: hub.url };
    const config = hfBucketConfigSchema.parse({ ...options, num_workers: 1, metadata_cache_ttl_secs: 0 });
    adapter = createHfBucketAdapter(config, noL1) as TestAdapter;
    await adapter.open(openContext());
    await storePatterns(adapter, [1], SIZE);
  }, 60_000);
  afterAll(async () => {
    await adapter.close();
    await hub.close();
  });

  test.each(answers)(
    "%s: an error of the object concerned, then all goes on",
    async (_, fault, code, harmless, only = [...STORE_KINDS, ...LOAD_KINDS]) => {
      for (const kind of STORE_KINDS.filter((each) => only.includes(each))) {
        breakKind(hub, kind, fault);
        const result = await adapter.store([key(++n)], [memory(pattern(n, SIZE))], never);
        const expected = harmless.includes(kind) ? undefined : code;
        expect([kind, result.failed.get(0)?.code]).toEqual([kind, expected]);
        hub.fault = null;
      }
      for (const kind of LOAD_KINDS.filter((each) => only.includes(each))) {
        breakKind(hub, kind, fault);
        const failure = await failureOf(loadNth(adapter, 1, SIZE), kind);
        expect([kind, failure.code]).toEqual([kind, code]);
        hub.fault = null;
        expect(await loadNth(adapter, 1, SIZE)).toEqual(pattern(1, SIZE));
      }
    },
  );

  test.each([
    ["no answer", { stall: true }],
    ["half a body and then nothing", { sendBytes: 1 }],
  ] as [string, HubFault][])(
    "%s: the deadline ends the operation, the next ones go well",
    async (_, fault) => {
      for (const kind of STORE_KINDS) {
        breakKind(hub, kind, fault);
        const result = await adapter.store(
          [key(++n)],
          [memory(pattern(n, SIZE))],
          AbortSignal.timeout(DEADLINE_MS),
        );
        expect([kind, result.failed.get(0)?.code]).toEqual([kind, "ABORTED"]);
        hub.fault = null;
        expect(await loadNth(adapter, 1, SIZE)).toEqual(pattern(1, SIZE));
      }
      for (const kind of LOAD_KINDS) {
        breakKind(hub, kind, fault);
        const failure = await failureOf(loadNth(adapter, 1, SIZE, AbortSignal.timeout(DEADLINE_MS)), kind);
        expect([kind, failure.code]).toEqual([kind, "ABORTED"]);
        hub.fault = null;
        expect(await loadNth(adapter, 1, SIZE)).toEqual(pattern(1, SIZE));
      }
      expect(adapter.status()).toMatchObject({ operations_in_flight: 0, calls_in_flight: 0 });
    },
  );

  test("after all that it stores and loads, with the thread that it began with", async () => {
    await storePatterns(adapter, [++n], SIZE);
    expect(await loadNth(adapter, n, SIZE)).toEqual(pattern(n, SIZE));
    expect(adapter.status()).toMatchObject({ threads_started: 1 });
  });
});

describe("a server that stops answering", () => {
  test("a listing ends at its deadline", async () => {
    const hub = await newHub();
    const adapter = await openAdapter(hub);
    breakKind(hub, "tree", { stall: true });
    const failure = await failureOf(adapter.listKeys({ pageSize: 10 }, AbortSignal.timeout(200)));
    expect(failure.code).toBe("ABORTED");
    hub.fault = null;
    expect((await adapter.listKeys({ pageSize: 10 }, never)).entries).toEqual([]);
  });
});

describe("a server that lies", () => {
  async function withTwo(): Promise<{ hub: Hub; adapter: TestAdapter; load: () => Promise<number[]> }> {
    const hub = await newHub();
    const adapter = await openAdapter(hub);
    await storePatterns(adapter, [1], SIZE);
    await storePatterns(adapter, [2], SIZE);
    const load = async (): Promise<number[]> => {
      const into = [memory(SIZE), memory(SIZE)];
      const loaded = await adapter.load([sized(1, SIZE), sized(2, SIZE)], into, never);
      for (const i of loaded.positions())
        expect(Buffer.from(into[i]?.bytes ?? []).equals(pattern(i + 1, SIZE))).toBe(true);
      return [...loaded.positions()];
    };
    return { hub, adapter, load };
  }
  const hashOf = (hub: Hub, n: number): string =>
    [...(hub.buckets.files(BUCKET)?.entries() ?? [])].find(([path]) =>
      path.includes(Buffer.from(key(n).chunkHash).toString("hex")),
    )?.[1].xetHash ?? "";

  test("one object's store fails: the other is loaded", async () => {
    const { hub, load } = await withTwo();
    hub.fault = ({ path }) => (path.includes(hashOf(hub, 1)) ? { answer: { status: 500 } } : null);
    expect(await load()).toEqual([1]);
    hub.fault = null;
    expect(await load()).toEqual([0, 1]);
  });

  test.each([-1, 1, 1e9])("a size that is %d off is a miss and fetches nothing", async (off) => {
    const { hub, load } = await withTwo();
    const hash = hashOf(hub, 2);
    hub.fault = ({ kind }) =>
      kind === "paths-info"
        ? {
            rewrite: (body) => {
              const items = JSON.parse(body.toString()) as { size: number; xetHash: string }[];
              for (const item of items) if (item.xetHash === hash) item.size += off;
              return Buffer.from(JSON.stringify(items));
            },
          }
        : null;
    hub.requests.length = 0;
    expect(await load()).toEqual([0]);
    expect(hub.count("reconstruction")).toBe(1);
  });

  test("a file without bytes, and without a hash, is a miss and no fault of its neighbours", async () => {
    const { hub, adapter } = await withTwo();
    const hash = hashOf(hub, 2);
    hub.fault = ({ kind }) =>
      kind === "paths-info"
        ? {
            rewrite: (body) => {
              const items = JSON.parse(body.toString()) as { size: number; xetHash?: string }[];
              for (const item of items) {
                if (item.xetHash !== hash) continue;
                item.size = 0;
                delete item.xetHash;
              }
              return Buffer.from(JSON.stringify(items));
            },
          }
        : null;
    const found = await adapter.lookupAndLock([sized(1, SIZE), sized(2, SIZE)], never);
    expect([...found.positions()]).toEqual([0]);
  });

  test("another object's content, of the same length, is not served", async () => {
    const { hub, adapter, load } = await withTwo();
    const [first, second] = [hashOf(hub, 1), hashOf(hub, 2)];
    hub.fault = ({ kind }) =>
      kind === "reconstruction"
        ? { rewrite: (body) => Buffer.from(body.toString().replaceAll(first, second)) }
        : null;
    // The reconstruction of 1 is swapped for that of 2, whole.
    const other = await startHub({ token: TOKEN });
    after(() => other.close());
    const answer = new Map<string, Buffer>();
    hub.fault = ({ kind, path }) =>
      kind === "reconstruction"
        ? {
            rewrite: (body) => {
              answer.set(path, Buffer.from(body));
              return path.includes(first) ? (answer.get(path.replace(first, second)) ?? body) : body;
            },
          }
        : null;
    expect(await load()).toContain(1); // learns the answer for 2
    expect(await load()).toEqual([1]);
    expect(adapter.status()["errors"]).toMatchObject({ DATA_CORRUPT: expect.any(Number) });
    hub.fault = null;
    expect(await load()).toEqual([0, 1]);
  });

  test("a flipped bit, a byte more, a byte less in the content are not served", async () => {
    const { hub, load } = await withTwo();
    const damages: ((body: Buffer) => Uint8Array)[] = [
      (body) => {
        const damaged = Buffer.from(body);
        damaged[5000] = (damaged[5000] ?? 0) ^ 1;
        return damaged;
      },
      (body) => body.subarray(0, -1),
      (body) => body.subarray(0, 20),
      () => new Uint8Array(0),
      () => Buffer.alloc(1000, 0xff),
    ];
    for (const rewrite of damages) {
      hub.fault = ({ kind }) => (kind === "xorb-bytes" ? { rewrite } : null);
      const loaded = await load().catch((error: unknown) =>
        isCacheError(error) ? [] : Promise.reject(error as Error),
      );
      expect(loaded).toEqual([]);
    }
    hub.fault = null;
    expect(await load()).toEqual([0, 1]);
  });

  test("a reconstruction of other terms is not served", async () => {
    const { hub, load } = await withTwo();
    const change = (edit: (plan: { terms: { unpacked_length: number }[] }) => void): void => {
      hub.fault = ({ kind }) =>
        kind === "reconstruction"
          ? {
              rewrite: (body) => {
                const plan = JSON.parse(body.toString()) as { terms: { unpacked_length: number }[] };
                edit(plan);
                return Buffer.from(JSON.stringify(plan));
              },
            }
          : null;
    };
    for (const edit of [
      (plan: { terms: unknown[] }) => plan.terms.pop(),
      (plan: { terms: unknown[] }) => plan.terms.push(...plan.terms),
      (plan: object) => Object.assign(plan, { offset_into_first_range: 5 }),
      (plan: object) => Object.assign(plan, { xorbs: {} }),
    ]) {
      change(edit);
      const loaded = await load().catch((error: unknown) =>
        isCacheError(error) ? [] : Promise.reject(error as Error),
      );
      // Terms twice over are cut at the size: then the content is the right one.
      if (loaded.length > 0) expect(edit.toString()).toContain("push");
    }
    hub.fault = null;
    expect(await load()).toEqual([0, 1]);
  });

  test("an upload of which one object was not taken: the others are stored", async () => {
    const hub = await newHub();
    const adapter = await openAdapter(hub);
    const numbers = [1, 2, 3];
    const refusedHash = Buffer.from(key(2).chunkHash).toString("hex");
    hub.fault = ({ kind }) =>
      kind === "batch"
        ? {
            rewrite: (body) => {
              const files = hub.buckets.files(BUCKET);
              const path = [...(files?.keys() ?? [])].find((each) => each.includes(refusedHash)) ?? "";
              files?.delete(path);
              const failed = [{ path, error: `no room for ${TOKEN}` }];
              return Buffer.from(JSON.stringify({ ...JSON.parse(body.toString()), success: false, failed }));
            },
          }
        : null;
    const result = await adapter.store(
      numbers.map((n) => key(n)),
      numbers.map((n) => memory(pattern(n, 1000))),
      never,
    );
    expect([...result.stored.positions()]).toEqual([0, 2]);
    expect(result.failed.get(1)).toMatchObject({
      code: "BACKEND_REFUSED",
      message: expect.stringContaining("no room"),
    });
    expect(result.failed.get(1)?.message).not.toContain(TOKEN);
    hub.fault = null;
    expect(await loadNth(adapter, 3, 1000)).toEqual(pattern(3, 1000));
    expect(await loadNth(adapter, 2, 1000)).toBeNull();
  });

  test("an upload whose answer was lost counts what is there", async () => {
    const hub = await newHub();
    const adapter = await openAdapter(hub);
    breakKind(hub, "batch", { sendBytes: 5, ending: "reset" });
    await storePatterns(adapter, [1, 2], 1000);
    hub.fault = null;
    expect(await loadNth(adapter, 2, 1000)).toEqual(pattern(2, 1000));
    expect(adapter.usage().totalBytesUsed).toBe(2000);
  });
});

test("Xet tokens that were revoked are renewed, also those that the library holds on to", async () => {
  const hub = await newHub();
  const adapter = await openAdapter(hub);
  for (const n of [1, 2, 3]) {
    await storePatterns(adapter, [n], SIZE);
    expect(await loadNth(adapter, n, SIZE)).toEqual(pattern(n, SIZE));
    hub.cas.revokeTokens();
  }
  expect(adapter.status()).toMatchObject({ errors: {} });
});

/** Holds requests of a kind back until `hub.release()`; settles when the first has come. */
function holdBack(hub: Hub, kind: string): Promise<void> {
  return new Promise((resolve) => {
    hub.hold = (request) => {
      if (request.kind !== kind) return false;
      resolve();
      return true;
    };
  });
}

test("what ends early while it waits for a token or for the bucket ends the wait for nobody else", async () => {
  const hub = await newHub();
  const adapter = await openAdapter(hub);
  await storePatterns(adapter, [1], SIZE);
  let coming = holdBack(hub, "read-token");
  const loading = new AbortController();
  const first = loadNth(adapter, 1, SIZE, loading.signal).catch((error: unknown) => error);
  await coming;
  const second = loadNth(adapter, 1, SIZE);
  hub.requests.length = 0;
  while (hub.count("paths-info") === 0) await new Promise((resolve) => setImmediate(resolve));
  loading.abort();
  expect(await first).toMatchObject({ code: "ABORTED" });
  hub.release();
  expect(await second).toEqual(pattern(1, SIZE));

  hub.clear();
  const maker = await openAdapter(hub, { create_bucket_if_missing: true });
  coming = holdBack(hub, "create");
  const storing = new AbortController();
  const third = maker.store([key(1)], [memory(SIZE)], storing.signal);
  await coming;
  const fourth = storePatterns(maker, [2], SIZE);
  storing.abort();
  expect((await third).failed.get(0)?.code).toBe("ABORTED");
  hub.release();
  expect(await fourth).toBe(SIZE);
});

test("a Hub that goes away and comes back on its port", async () => {
  const hub = await newHub();
  const adapter = await openAdapter(hub);
  await storePatterns(adapter, [1], SIZE);
  await hub.close();
  for (const work of [() => storePatterns(adapter, [2], SIZE), () => loadNth(adapter, 1, SIZE)]) {
    expect(await failureOf(work())).toMatchObject({
      code: "BACKEND_UNAVAILABLE",
      message: expect.stringMatching(/cannot be reached.*check the way to it/),
    });
  }
  const again = await startHub({ port: hub.port, token: TOKEN });
  after(() => again.close());
  again.buckets.create(BUCKET);
  await storePatterns(adapter, [1], SIZE);
  expect(await loadNth(adapter, 1, SIZE)).toEqual(pattern(1, SIZE));
});

test("a server that repeats the tokens it was sent: they are in no error, log or status", async () => {
  const hub = await newHub();
  const lines: LogLine[] = [];
  const seen: string[] = [];
  const adapter = await openAdapter(hub, {}, lines);
  await storePatterns(adapter, [1], SIZE);
  const secrets = (): string[] =>
    hub.requests.flatMap(({ headers }) => (headers["authorization"] ?? "").replace("Bearer ", "") || []);
  for (const kind of [...STORE_KINDS, ...LOAD_KINDS]) {
    for (const status of [401, 500]) {
      hub.fault = (request) => {
        if (request.kind !== kind) return null;
        const text = `you sent ${request.headers["authorization"]} to ${request.path}, token=${TOKEN}`;
        const headers = { "content-type": "application/json" };
        return { answer: { status, headers, body: Buffer.from(JSON.stringify({ error: text })) } };
      };
      const work = STORE_KINDS.includes(kind) ? storePatterns(adapter, [2], SIZE) : loadNth(adapter, 1, SIZE);
      const error = await work.then(
        () => null,
        (reason: unknown) => reason as Error,
      );
      seen.push(String(error), JSON.stringify(error), String(error?.stack));
    }
  }
  seen.push(JSON.stringify(lines), JSON.stringify(adapter.status()), adapter.location);
  const everything = seen.join("\n");
  expect(everything).toMatch(/you sent/);
  for (const secret of new Set([...secrets(), TOKEN])) expect(everything).not.toContain(secret);
  expect(everything).not.toMatch(/sig=/);
});

import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { allRoutes } from "../src/http/routes/more-routes.ts";
import { type HttpEngine, startHttpEngine } from "./http-engine.ts";

interface Recorded {
  readonly name: string;
  readonly method: string;
  readonly path: string;
  /** JSON, text as it is, or null for none. */
  readonly body: unknown;
  readonly status: number;
  readonly type: string;
  readonly reply?: unknown;
}

/** What a stock `lmcache server` 0.5.6 answered: `tools/peers/http_replies.py --write`. */
const RECORDED = JSON.parse(
  readFileSync(new URL("./fixtures/http-replies.json", import.meta.url), "utf8"),
) as { model: string; withFs: Recorded[]; withoutL2: Recorded[] };

/** Where we answer otherwise, and why. `shape` is held as the recorded one is otherwise. */
const DIFFERENCES: Readonly<
  Record<string, { why: string; status: number; type?: string; example: unknown }>
> = {
  ...Object.fromEntries(
    ["objects", "objects, a page", "objects, the adapter named"].map((name) => [
      name,
      {
        why: "LMCache's fs cannot list, ours can; the shape is what the reference answers for adapters that can",
        status: 200,
        example: {
          adapter: "fs",
          shared: false,
          entries: [
            {
              key: { chunk_hash_hex: "", model_name: "", kv_rank: 0, object_group_id: 0, cache_salt: "" },
              size_bytes: 0,
            },
          ],
          next_page_token: name === "objects, a page" ? "" : null,
        },
      },
    ]),
  ),
  "objects, a model": {
    why: "as `objects`",
    status: 200,
    example: { adapter: "fs", shared: false, entries: [], next_page_token: null },
  },
  "objects, a bad page token": { why: "as `objects`", status: 400, example: { detail: "", code: "" } },
  "quota set, a bad salt": {
    why: "no key can have this salt: a limit for it would never count",
    status: 400,
    example: { error: "" },
  },
  "checksums, unknown instance": {
    why: "501 is the answer of `--supported-transfer-mode engine_driven`; with `auto` the reference answers 404",
    status: 404,
    example: { detail: "" },
  },
  "checksums, defaults": { why: "as above", status: 404, example: { detail: "" } },
  run_script: {
    why: "the route is not offered: it runs a caller's code",
    status: 404,
    type: "application/json",
    example: { detail: "" },
  },
};

/** Replies of large objects whose common part alone is held. */
const HELD_APART = ["status", "config"];

let withFs: HttpEngine;
let withoutL2: HttpEngine;
let requestId = "none";
beforeAll(async () => {
  [withFs, withoutL2] = await Promise.all([
    startHttpEngine({ withFs: true }),
    startHttpEngine({ withFs: false }),
  ]);
  await withFs.store(RECORDED.model);
});
afterAll(() => Promise.all([withFs.stop(), withoutL2.stop()]));

async function send(engine: HttpEngine, { name, method, path, body }: Recorded) {
  const filled =
    typeof body === "object" && body !== null && "token_ids" in body && body.token_ids === "TOKENS"
      ? { ...body, token_ids: engine.tokens }
      : body;
  const text = filled === null || typeof filled === "string" ? filled : JSON.stringify(filled);
  for (;;) {
    const answer = await engine.ask(method, path.replace("REQUEST_ID", requestId), text);
    if (name === "prefetch status, done" && answer.text.includes('"pending"')) continue;
    if (name === "prefetch") requestId = (answer.json as { request_id: string }).request_id;
    return answer;
  }
}

/** Paths at which two values differ in keys or JSON types. Arrays are held by their first element. */
function differences(wanted: unknown, given: unknown, at = "$"): string[] {
  const [a, b] = [kindOf(wanted), kindOf(given)];
  if (a !== b) return [`${at}: ${a} there, ${b} here`];
  if (Array.isArray(wanted) && Array.isArray(given)) {
    return wanted.length === 0 || given.length === 0 ? [] : differences(wanted[0], given[0], `${at}[]`);
  }
  if (a !== "object") return [];
  const [there, here] = [wanted as Record<string, unknown>, given as Record<string, unknown>];
  const missing = Object.keys(there).filter((key) => !(key in here) && !NOT_SENT.has(key));
  const extra = Object.keys(here).filter((key) => !(key in there) && !ADDED.has(`${at}.${key}`));
  const common = Object.keys(there).filter((key) => key in here && at !== "$.detail[].input");
  return [
    ...missing.map((key) => `${at}.${key}: missing`),
    ...extra.map((key) => `${at}.${key}: not there`),
    ...common.flatMap((key) => differences(there[key], here[key], `${at}.${key}`)),
  ];
}

/** Of validation errors: parameters of pydantic's rule and a link to its manual. Clients read type, loc and msg. */
const NOT_SENT = new Set(["ctx", "url"]);
/** Fields of ours beside the reference's. */
const ADDED = new Set(["$.adapters[].id"]);

function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "array" : typeof value;
}

/** Type and place of each fault of a 422. */
function faults(reply: unknown): unknown {
  const { detail } = reply as { detail: { type: string; loc: (string | number)[] }[] };
  return detail.map(({ type, loc }) => ({ type, loc: type === "json_invalid" ? loc.slice(0, 1) : loc }));
}

describe.each([
  ["with fs", () => withFs, RECORDED.withFs],
  ["without L2", () => withoutL2, RECORDED.withoutL2],
] as const)("%s", (_label, engine, recorded) => {
  test.each(recorded.map((one) => [one.name, one] as const))("%s", async (name, wanted) => {
    const given = await send(engine(), wanted);
    const difference = engine() === withFs ? DIFFERENCES[name] : undefined;
    if (difference !== undefined) {
      expect({ status: given.status, type: given.type }).toEqual({
        status: difference.status,
        type: difference.type ?? wanted.type,
      });
      expect(differences(difference.example, given.json)).toEqual([]);
      return;
    }
    expect({ status: given.status, type: given.type }, given.text).toEqual({
      status: wanted.status,
      type: wanted.type,
    });
    if (HELD_APART.includes(name)) return;
    if (wanted.type !== "application/json") {
      if (wanted.reply !== undefined) expect(given.text.length).toBeGreaterThan(0);
      return;
    }
    expect(differences(wanted.reply, given.json)).toEqual([]);
    if (wanted.status === 422) expect(faults(given.json)).toEqual(faults(wanted.reply));
  });
});

test("texts that people read are the reference's, where they are short", async () => {
  const text = (name: string) => RECORDED.withFs.find((one) => one.name === name)?.reply;
  const asked = async (path: string) => (await withFs.ask("GET", path)).text;
  expect(await asked("/threads?name=nothing")).toBe(text("threads, by name"));
  expect(await asked("/loglevel?logger_name=lmcache")).toBe("lmcache: INFO");
  expect(await asked("/loglevel?logger_name=lmcache&level=info")).toBe(text("loglevel, set"));
  expect(await asked("/loglevel?logger_name=lmcache&level=loud")).toBe(text("loglevel, a bad level"));
  expect((await withFs.ask("POST", "/metrics/reset")).text).toBe(text("metrics reset"));
});

/** Keys of a large reply that we do not send, by the path of their object. */
const NOT_IN_STATUS = {
  why:
    "threads and several L1 tags, which this engine has not; figures of them are under l1_manager, store_controller, " +
    "prefetch_controller, eviction_controller",
  keys: [
    "$.storage_manager.l1_managers",
    "$.storage_manager.store_controllers",
    "$.storage_manager.l1_eviction_controllers",
    "$.storage_manager.l2_eviction_controller",
    "$.storage_manager.num_l2_adapters",
    "$.storage_manager.l1_usage",
    "$.storage_manager.l1_capacity_bytes_by_backend",
    "$.storage_manager.l1_eviction_controller",
    "$.storage_manager.l1_manager.temporary_count",
    "$.storage_manager.prefetch_controller.is_healthy",
    "$.storage_manager.prefetch_controller.thread_alive",
    "$.storage_manager.prefetch_controller.max_in_flight",
    "$.storage_manager.prefetch_controller.submission_queue_size",
    "$.storage_manager.prefetch_controller.pending_queue_size",
    "$.storage_manager.prefetch_controller.in_flight_request_count",
    "$.storage_manager.prefetch_controller.lookup_phase_count",
    "$.storage_manager.prefetch_controller.load_phase_count",
    "$.storage_manager.prefetch_controller.completed_results_count",
    "$.storage_manager.prefetch_controller.num_l2_adapters",
    "$.storage_manager.prefetch_controller.num_active_adapters",
    "$.storage_manager.prefetch_controller.num_draining_adapters",
    "$.storage_manager.l2_adapters[].event_loop_alive",
    "$.storage_manager.store_controller.is_healthy",
    "$.storage_manager.store_controller.thread_alive",
    "$.storage_manager.store_controller.pending_keys_count",
    "$.storage_manager.store_controller.in_flight_task_count",
    "$.storage_manager.store_controller.num_l2_adapters",
    "$.storage_manager.store_controller.num_active_adapters",
    "$.storage_manager.store_controller.num_draining_adapters",
  ],
};

test("/status has the reference's fields with their types, but for those that it cannot have", async () => {
  const wanted = RECORDED.withFs.find(({ name }) => name === "status")?.reply;
  const given = (await withFs.ask("GET", "/status")).json;
  const found = differences(wanted, given).filter((text) => !text.endsWith(": not there"));
  const missing = found.filter((text) => text.endsWith(": missing")).map((text) => text.slice(0, -9));
  // KV events are shown once an engine offers them; instances are keyed by their number.
  const known = (path: string) =>
    path.startsWith("$.kv_events") || path.startsWith("$.non_cuda_context_meta");
  expect(missing.filter((path) => !known(path)).toSorted()).toEqual(NOT_IN_STATUS.keys.toSorted());
  expect(found.filter((text) => !text.endsWith(": missing") && !known(text))).toEqual([
    // A number beyond 2^53 is another number in many a reader: the instances are texts here.
    "$.registered_non_cuda_instance_ids[]: number there, string here",
  ]);
});

test("/config has the reference's sections, and no field of another type", async () => {
  const wanted = RECORDED.withFs.find(({ name }) => name === "config")?.reply as Record<string, unknown>;
  const given = (await withFs.ask("GET", "/config")).json as Record<string, unknown>;
  expect(Object.keys(given)).toEqual([...Object.keys(wanted), "engine"]);
  const types = differences(wanted, given).filter((text) => text.includes(" there, "));
  expect(types).toEqual([]);
});

test("every difference is of a request that was recorded", () => {
  const names = new Set(RECORDED.withFs.map(({ name }) => name));
  for (const name of Object.keys(DIFFERENCES)) expect(names.has(name), name).toBe(true);
});

test("every route was recorded, but for ours", () => {
  const recorded = RECORDED.withFs.map(({ method, path }) => `${method} ${path.split("?")[0]}`);
  const matches = (route: (typeof allRoutes)[number]) => {
    const pattern = new RegExp(`^${route.method} ${route.path.replaceAll(/\{\w+\}/g, "[^/]+")}$`);
    return recorded.some((one) => pattern.test(one));
  };
  const ours = allRoutes.filter((route) => !matches(route)).map(({ method, path }) => `${method} ${path}`);
  expect(ours).toEqual([
    "GET /adapters",
    "POST /adapters",
    "POST /adapters/{adapter_id}/drain",
    "DELETE /adapters/{adapter_id}",
    "GET /openapi.json",
  ]);
});

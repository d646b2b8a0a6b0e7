import { isCacheError } from "@cache/contracts";
import { afterEach, expect, test, vi } from "vitest";
import { HubThreads } from "../src/hub-threads.ts";
import type { ThreadSettings } from "../src/protocol.ts";
import { never } from "./support/fixtures.ts";

/** A thread that answers pings, hangs at a listing, ends at a removal, and goes on with parts for ever. */
const SCRIPT = `
import { parentPort } from "node:worker_threads";
parentPort.on("message", ({ id, name, taken }) => {
  if (name === "put") setTimeout(() => parentPort.postMessage({ id, answer: [] }), 20);
  if (name === "ping") parentPort.postMessage({ id, answer: null });
  if (name === "remove") process.exit(1);
  if (name === "get" || taken) parentPort.postMessage({ id, part: new Uint8Array(3) });
});`;
const settings: ThreadSettings = { endpoint: "", bucketId: "", token: null, verifyContent: false };

let threads: HubThreads;
afterEach(() => threads.close());

function start(most: number, idleMs = 60_000): void {
  const entry = new URL(`data:text/javascript,${encodeURIComponent(SCRIPT)}`);
  threads = new HubThreads(settings, most, { entry, abortGraceMs: 50, idleMs });
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  return isCacheError(error) ? error.code : String(error);
}

const ping = () => threads.call({ name: "ping", given: null }, never);
const hang = (signal: AbortSignal) => threads.call({ name: "list", given: { folder: "" } }, signal);

test("a call that does not end after its abort costs its thread, and nobody else's", async () => {
  start(1);
  const controller = new AbortController();
  const hanging = hang(controller.signal);
  const longer = new AbortController();
  const other = hang(longer.signal);
  expect(await ping()).toBeNull();
  controller.abort();
  expect(await codeOf(hanging)).toBe("ABORTED");
  expect(await ping()).toBeNull(); // on another thread, while `other` is still under way on the first
  expect(threads.started).toBe(2);
  longer.abort();
  expect(await codeOf(other)).toBe("ABORTED");
  expect(await ping()).toBeNull();
  expect(threads.started).toBe(2);
});

test("a thread that ends fails its calls, and the next call starts another", async () => {
  start(1);
  const hanging = hang(never);
  expect(await codeOf(threads.call({ name: "remove", given: { paths: [] } }, never))).toBe(
    "BACKEND_UNAVAILABLE",
  );
  expect(await codeOf(hanging)).toBe("BACKEND_UNAVAILABLE");
  expect(await ping()).toBeNull();
  expect([threads.started, threads.running]).toEqual([2, 1]);
});

test("parts are taken one at a time, none after the abort, and an error of the taker ends the call", async () => {
  start(1);
  const controller = new AbortController();
  let [taking, parts] = [0, 0];
  const facts = { path: "", size: 0, hash: "" };
  const onPart = async (part: unknown): Promise<void> => {
    expect(part).toEqual(new Uint8Array(3));
    expect(controller.signal.aborted).toBe(false);
    expect(++taking).toBe(1);
    await new Promise((resolve) => setImmediate(resolve));
    taking--;
    if (++parts === 5) controller.abort();
  };
  expect(await codeOf(threads.call({ name: "get", given: facts, onPart }, controller.signal))).toBe(
    "ABORTED",
  );
  expect(parts).toBe(5);
  const failing = threads.call(
    {
      name: "get",
      given: facts,
      onPart: () => {
        throw new Error("no room");
      },
    },
    never,
  );
  expect(await codeOf(failing)).toBe("Error: no room");
});

test("threads without calls end, but for one; calls meanwhile go well", async () => {
  start(3, 5);
  const controllers = [1, 2, 3].map(() => new AbortController());
  const gets = controllers.map(({ signal }) =>
    codeOf(threads.call({ name: "get", given: { path: "", size: 0, hash: "" } }, signal)),
  );
  expect(threads.running).toBe(3);
  for (const controller of controllers) controller.abort();
  expect(await Promise.all(gets)).toEqual(["ABORTED", "ABORTED", "ABORTED"]);
  await Promise.all(Array.from({ length: 5 }, ping));
  while (threads.running > 1) expect(await ping()).toBeNull();
  expect(await ping()).toBeNull();
});

test("nothing runs after close, and calls under way end with it", async () => {
  start(2);
  const hanging = hang(never);
  const ended = codeOf(hanging);
  await threads.close();
  expect(await ended).toBe("BACKEND_UNAVAILABLE");
  expect(await codeOf(ping())).toBe("ADAPTER_CLOSED");
  expect(threads.running).toBe(0);
});

test("no call goes to a thread that was idle and is being ended", async () => {
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
  try {
    start(2);
    const put = () => threads.call({ name: "put", given: { files: [] } }, never);
    await Promise.all([put(), put()]);
    expect(threads.started).toBe(2);
    vi.advanceTimersByTime(120_000);
    expect(await Promise.all([put(), put()])).toEqual([[], []]);
    expect(threads.started).toBe(3);
  } finally {
    vi.useRealTimers();
  }
});

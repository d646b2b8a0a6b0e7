import { EventEmitter } from "node:events";
import type { AdapterLog } from "@cache/contracts";
import { expect, test, vi } from "vitest";
import { watchConnections } from "../src/connections.ts";
import type { Answered, InlineObject, PrepareRetrieveAnswer } from "../src/handlers.ts";
import { Client, key, log, packr, registration, start } from "./support.ts";

/** A call that waits until it is told to go on. */
function gate(): { readonly pass: Promise<void>; open(): void } {
  let open = (): void => undefined;
  const pass = new Promise<void>((resolve) => (open = resolve));
  return { pass, open: () => open() };
}

test("the frames of a message are bounded together, not only each", async () => {
  const server = await start({}, { limits: { maxMessageSize: 1000 } });
  const client = new Client(server);
  const part = packr.pack("x".repeat(400));
  await client.socket.send([packr.pack(1), packr.pack(24), part, part, part]);
  const refused = await client.receive();
  expect(refused.op).toContain("1209 bytes in 3 frames; at most 1000");
  expect(server.status()).toMatchObject({ oversized: 1, refusals: { LIMIT_REACHED: 1 } });
  expect((await client.call(24)).value).toBe("OK");
});

test("calls that wait are bounded in number; the next is refused with its value for no", async () => {
  const held = gate();
  const prepareStore = async () => {
    await held.pass;
    return { kind: "empty-context" } as const;
  };
  const server = await start({ prepareStore }, { limits: { inFlightCallsMax: 2 } });
  const client = new Client(server);
  const [first, second] = [await client.send(16, key(), 7), await client.send(16, key(), 7)];
  const third = await client.send(18, key(), 7);
  const refused = await client.receive();
  expect([refused.uid, refused.value]).toEqual([
    third,
    { success: false, data: Buffer.alloc(0), context: {} },
  ]);
  expect(server.status()).toMatchObject({ callsInFlight: 2, refusals: { LIMIT_REACHED: 1 } });
  held.open();
  const answered = [await client.receive(), await client.receive()];
  expect(new Set(answered.map(({ uid }) => uid))).toEqual(new Set([first, second]));
  expect((await client.call(16, key(), 7)).value).toEqual({ context: {} });
  expect(server.status()).toMatchObject({ callsInFlight: 0, bytesInFlight: 0 });
});

test("calls that wait are bounded in bytes, but one alone may be larger", async () => {
  const held = gate();
  const prepareStore = async () => {
    await held.pass;
    return { kind: "empty-context" } as const;
  };
  const server = await start({ prepareStore }, { limits: { inFlightBytesMax: 100 } });
  const client = new Client(server);
  const first = await client.send(16, key(), 7);
  await client.send(16, key(), 7);
  expect((await client.receive()).value).toEqual({ context: {} });
  expect(server.status()).toMatchObject({ callsInFlight: 1, refusals: { LIMIT_REACHED: 1 } });
  held.open();
  expect((await client.receive()).uid).toBe(first);
});

test("closing answers what still waits, and says what it could not answer in time", async () => {
  const held = gate();
  const waitPrefetchStatus = async () => {
    await held.pass;
    return 5;
  };
  const server = await start({ waitPrefetchStatus });
  const client = new Client(server);
  const uid = await client.send(10, "r", 30.5);
  await vi.waitFor(() => expect(server.status().callsInFlight).toBe(1));
  const closed = server.close(30_000);
  held.open();
  expect(await client.receive()).toMatchObject({ uid, value: 5 });
  await closed;

  const warnings: string[] = [];
  const warning: AdapterLog = { ...log, warn: (text) => void warnings.push(text) };
  const never = gate();
  const other = await start({ waitPrefetchStatus: async () => (await never.pass, null) }, { log: warning });
  const waiting = new Client(other);
  await waiting.send(10, "r", 30.5);
  await vi.waitFor(() => expect(other.status().callsInFlight).toBe(1));
  await other.close(0);
  expect(warnings).toEqual(["closed with calls that were not answered"]);
});

/** An inline answer of two objects, one of them large, that notes its release. */
function inlineAnswer(released: string[]): Answered<PrepareRetrieveAnswer> {
  const objects: InlineObject[] = [4, 4096].map((elements, i) => ({
    bytes: Buffer.alloc(elements * 2, i + 1),
    shape: [elements],
    dtype: "float16",
  }));
  return { kind: "inline", objects, release: () => void released.push("released") };
}

test("objects of an inline reply are released when the last copy has ended, also if one fails", async () => {
  const held = gate();
  const released: string[] = [];
  let failing = false;
  const copy = async (to: Uint8Array, from: Uint8Array): Promise<void> => {
    await held.pass;
    if (failing) throw new Error("no copy");
    to.set(from);
  };
  const server = await start({ prepareRetrieve: () => inlineAnswer(released) }, { copy });
  const client = new Client(server);
  await client.call(14, registration);
  await client.send(18, key(), 7);
  await vi.waitFor(() => expect(server.status().callsInFlight).toBe(1));
  expect(released).toEqual([]);
  held.open();
  const { value } = await client.receive();
  expect(value).toMatchObject({ success: true, context: {} });
  const data = (value as { data: Buffer }).data;
  expect(data.includes(Buffer.alloc(8, 1))).toBe(true);
  expect(data.includes(Buffer.alloc(8192, 2))).toBe(true);
  expect(released).toEqual(["released"]);
  failing = true;
  expect((await client.call(18, key(), 7)).value).toMatchObject({ success: false });
  expect(released).toEqual(["released", "released"]);
});

test("a connection that comes back by itself counts as cut off; other clients that come and go do not", () => {
  let ms = 0;
  const events = new EventEmitter();
  const warnings: string[] = [];
  const counts = watchConnections(
    { events },
    1000,
    { ...log, warn: (text) => void warnings.push(text) },
    () => ms,
  );
  const at = (time: number, event: "accept" | "disconnect"): void => {
    ms = time;
    events.emit(event);
  };
  at(0, "accept");
  at(1000, "disconnect");
  at(1001, "accept"); // another client, that was about to connect
  expect(counts.cutOff).toBe(0);
  at(5000, "disconnect");
  at(9000, "accept"); // its next process
  expect(counts.cutOff).toBe(0);
  at(20_000, "disconnect");
  at(20_150, "accept"); // libzmq, after its interval
  at(20_160, "accept");
  expect([counts.cutOff, counts.accepted, counts.closed, warnings.length]).toEqual([1, 5, 3, 1]);
});

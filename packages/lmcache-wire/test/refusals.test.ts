import { connect } from "node:net";
import type { AdapterLog } from "@cache/contracts";
import { expect, test, vi } from "vitest";
import type { RpcLimits, RpcServer } from "../src/server.ts";
import { Client, closers, log, start } from "./support.ts";

// What the server refuses, cuts off and holds back on a real socket, and the figures that say so.

const warnings: string[] = [];
const warning: AdapterLog = { ...log, warn: (text) => void warnings.push(text) };

/** A server whose `wait_prefetch_status` answers when it is let go. */
async function limited(limits: RpcLimits): Promise<{ server: RpcServer; letGo: () => void }> {
  warnings.length = 0;
  const waiting: ((hits: number) => void)[] = [];
  const waitPrefetchStatus = () => new Promise<number>((resolve) => waiting.push(resolve));
  const server = await start({ waitPrefetchStatus }, { limits, log: warning });
  return { server, letGo: () => waiting.splice(0).forEach((settle) => settle(7)) };
}

test.each([
  ["calls", { inFlightCallsMax: 2 }],
  ["their bytes", { inFlightBytesMax: 2_500 }],
])("%s that wait for an answer are bounded; one more is refused at once and counted", async (_, limits) => {
  const { server, letGo } = await limited(limits);
  const client = new Client(server);
  for (const request of ["a", "b", "c"]) await client.send("wait_prefetch_status", request, 60);
  const refused = await client.receive();
  expect(refused.uid).toBe(2);
  expect(refused.op).toMatch(/^wait_prefetch_status: .*wait for their answers already; try again/);
  expect(server.status()).toMatchObject({ callsInFlight: 2, refusals: { LIMIT_REACHED: 1 } });
  expect(server.status().bytesInFlight).toBeGreaterThan(0);
  // What is answered at once does not wait for room.
  expect((await client.call("ping", null)).value).toBe(true);
  letGo();
  const answered = [await client.receive(), await client.receive()].map(({ uid }) => uid);
  expect(new Set(answered)).toEqual(new Set([0, 1]));
  await vi.waitFor(() => expect(server.status()).toMatchObject({ callsInFlight: 0, bytesInFlight: 0 }));
  await client.send("wait_prefetch_status", "d", 60);
  await vi.waitFor(() => expect(server.status().callsInFlight).toBe(1));
  letGo();
});

test("a part beyond maxMessageSize cuts its client off, which is counted and logged; others go on", async () => {
  const { server } = await limited({ maxMessageSize: 64 * 1024 });
  const [large, healthy] = [new Client(server), new Client(server)];
  expect((await healthy.call("ping", null)).value).toBe(true);
  await large.send("commit_store", Buffer.alloc(65 * 1024));
  await vi.waitFor(() => expect(server.status().connections).toMatchObject({ cutOff: 1 }), 4_000);
  expect(server.status().maxMessageSize).toBe(64 * 1024);
  expect(warnings).toEqual([expect.stringContaining("beyond the limit")]);
  expect((await healthy.call("ping", null)).value).toBe(true);
  // The client is back, with a connection of its own making.
  expect((await large.call("ping", null)).value).toBe(true);
});

test("a payload beyond its operation's bound, and too many of them, are refused and counted", async () => {
  const { server } = await limited({});
  const client = new Client(server);
  expect((await client.call("ping", Buffer.alloc(9 * 2 ** 20))).op).toContain("at most");
  expect((await client.call("ping", ...Array.from({ length: 20 }, () => 1))).op).toContain("arguments");
  expect(server.status()).toMatchObject({ oversized: 2, requests: { ping: 2 } });
});

test("a peer that speaks another protocol is counted", async () => {
  const { server } = await limited({});
  // A greeting of ZMTP 3.0 with a security mechanism that there is not.
  const greeting = Buffer.alloc(64);
  greeting.set([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0]);
  greeting.write("BOGUS", 12, "latin1");
  const socket = connect(server.port, "127.0.0.1", () => socket.write(greeting));
  socket.on("error", () => undefined);
  closers.push(() => void socket.destroy());
  await vi.waitFor(() => expect(server.status().connections.handshakeFailed).toBe(1), 4_000);
});

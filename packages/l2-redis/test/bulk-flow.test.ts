import type { Socket } from "node:net";
import { expect, test } from "vitest";
import { fakeServer } from "./support/fake-server.ts";
import { memory, never, openRedis, pattern, sized } from "./support/fixtures.ts";

const KIB = 1024;

/** Loads objects from a server that answers all it was asked for at once; most requests that a connection had open. */
async function mostOpen(objects: number, bytes: number, workers: number): Promise<number> {
  const open = new Map<Socket, number>();
  let most = 0;
  const value = pattern(1, bytes);
  const reply = Buffer.concat([Buffer.from(`$${bytes}\r\n`), value, Buffer.from("\r\n")]);
  const server = await fakeServer((words, socket) => {
    if (words[0] !== "GET") return null;
    const waiting = (open.get(socket) ?? 0) + 1;
    open.set(socket, waiting);
    most = Math.max(most, waiting);
    if (waiting === 1) {
      setImmediate(() => {
        socket.write(Buffer.concat(Array.from({ length: open.get(socket) ?? 0 }, () => reply)));
        open.delete(socket);
      });
    }
    return "";
  });
  const adapter = await openRedis({ host: "127.0.0.1", port: server.port, num_workers: workers });
  const into = Array.from({ length: objects }, () => memory(new Uint8Array(bytes)));
  const requests = into.map((_, n) => sized(n, bytes));
  expect((await adapter.load(requests, into, never)).count()).toBe(objects);
  for (const { bytes: loaded } of into) expect(Buffer.compare(loaded, value)).toBe(0);
  expect(server.commands.map(([, name]) => name)).toHaveLength(objects);
  return most;
}

test.each([
  ["64 KiB over 8 connections: 256 KiB each", 200, 64 * KIB, 8, 4],
  ["64 KiB over one connection: 2 MiB", 200, 64 * KIB, 1, 32],
  ["1 MiB: one at a time on each connection", 12, 1024 * KIB, 4, 1],
  ["1 KiB: 32 at a time", 400, KIB, 2, 32],
])(
  "the server never owes more than it can keep in its caches: %s",
  async (_, objects, bytes, workers, open) => {
    expect(await mostOpen(objects, bytes, workers)).toBe(open);
  },
);

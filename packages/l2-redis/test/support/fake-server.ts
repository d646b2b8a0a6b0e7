import { createServer, type Server, type Socket } from "node:net";
import type { AddressInfo } from "node:net";
import { after } from "./fixtures.ts";

/** One command of a client, its words as text; a SET's value is left out as `<bytes>`. */
export type Words = readonly string[];
/** Answers a command by writing to the socket, or not at all. Null: as an empty, honest server would. */
export type Answer = (words: Words, socket: Socket, connection: number) => Buffer | string | null;

/** A server that answers as the test says. */
export interface FakeServer {
  readonly port: number;
  /** Commands seen, without those of the handshake and of INFO. */
  readonly commands: Words[];
  /** Connections made so far. */
  connections(): number;
}

const HONEST: Readonly<Record<string, string>> = {
  ping: "+PONG\r\n",
  auth: "+OK\r\n",
  select: "+OK\r\n",
  client: "+OK\r\n",
  info: "$20\r\nredis_version:7.0.15\r\n",
  scan: "*2\r\n$1\r\n0\r\n*0\r\n",
  strlen: ":0\r\n",
  del: ":0\r\n",
  get: "$-1\r\n",
  set: "+OK\r\n",
};

/** Starts one on a free port; ended after the test. */
export async function fakeServer(answer: Answer): Promise<FakeServer> {
  const commands: Words[] = [];
  const sockets = new Set<Socket>();
  let connections = 0;
  const server: Server = createServer((socket) => {
    const connection = ++connections;
    sockets.add(socket);
    let received = Buffer.alloc(0);
    socket.on("error", () => undefined);
    socket.on("close", () => sockets.delete(socket));
    socket.on("data", (data) => {
      received = Buffer.concat([received, data]);
      for (let next = parse(received); next !== null; next = parse(received)) {
        received = received.subarray(next.end);
        const name = next.words[0]?.toLowerCase() ?? "";
        if (["get", "set", "strlen", "del"].includes(name)) commands.push(next.words);
        const reply = answer(next.words, socket, connection) ?? HONEST[name] ?? "-ERR unknown command\r\n";
        if (!socket.destroyed && reply.length > 0) socket.write(reply);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return { port: (server.address() as AddressInfo).port, commands, connections: () => connections };
}

function parse(data: Buffer): { words: string[]; end: number } | null {
  const words: string[] = [];
  let at = 0;
  const readLine = (): string | null => {
    const end = data.indexOf("\r\n", at);
    if (end < 0) return null;
    const text = data.toString("latin1", at, end);
    at = end + 2;
    return text;
  };
  const head = readLine();
  if (head === null) return null;
  for (let n = Number(head.slice(1)); n > 0; n--) {
    const length = readLine();
    if (length === null) return null;
    const size = Number(length.slice(1));
    if (data.length < at + size + 2) return null;
    words.push(size > 1000 ? "<bytes>" : data.toString("utf8", at, at + size));
    at += size + 2;
  }
  return { words, end: at };
}

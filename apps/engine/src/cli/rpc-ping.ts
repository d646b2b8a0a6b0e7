// A ZMTP 3.0 DEALER for one message, by hand: the ZMQ library is native code that a ping need not load.
import { connect, type Socket } from "node:net";
import { CacheError } from "@cache/contracts";

/** Longest frame of an answer, in bytes. */
const FRAME_BYTES_MAX = 64 * 1024;
const GREETING_BYTES = 64;

/**
 * Sends LMCache's `ping` without an instance id and gives its answer.
 *
 * @throws CacheError `BACKEND_UNAVAILABLE` if nobody answers in time or what answers is no engine.
 */
export async function rpcPing(url: string, timeoutMs: number): Promise<boolean> {
  const { hostname, port } = parseTcpUrl(url);
  const socket = connect({ host: hostname, port });
  const reader = new FrameReader(socket);
  const timer = setTimeout(() => socket.destroy(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
  try {
    socket.write(greeting());
    await reader.bytes(GREETING_BYTES);
    socket.write(frame(0x04, readyCommand()));
    // uid 0; the operation by name; nil for the instance id: each a msgpack document in a frame of its own.
    const name = Buffer.from("ping");
    const operation = Buffer.concat([Buffer.from([0xa0 | name.length]), name]);
    socket.write(
      Buffer.concat([
        frame(0x01, Buffer.from([0])),
        frame(0x01, operation),
        frame(0x00, Buffer.from([0xc0])),
      ]),
    );
    const [, , payload] = await reader.message();
    return payload?.[0] === 0xc3;
  } catch (error) {
    throw new CacheError("BACKEND_UNAVAILABLE", (error as Error).message, { cause: error });
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

function parseTcpUrl(url: string): { hostname: string; port: number } {
  const match = /^(?:tcp:\/\/)?\[?([^\]/]+?)\]?:(\d{1,5})$/.exec(url);
  if (match === null)
    throw new CacheError("INVALID_ARGUMENT", `'${url}' is no address like tcp://127.0.0.1:5555`);
  return { hostname: match[1]!, port: Number(match[2]) };
}

function greeting(): Buffer {
  const bytes = Buffer.alloc(GREETING_BYTES);
  bytes[0] = 0xff;
  bytes[9] = 0x7f;
  bytes[10] = 3;
  bytes.write("NULL", 12, "latin1");
  return bytes;
}

function readyCommand(): Buffer {
  const property = Buffer.from("\x0bSocket-Type", "latin1");
  const value = Buffer.from("DEALER", "latin1");
  const length = Buffer.alloc(4);
  length.writeUInt32BE(value.length);
  return Buffer.concat([Buffer.from("\x05READY", "latin1"), property, length, value]);
}

function frame(flags: number, body: Buffer): Buffer {
  return Buffer.concat([Buffer.from([flags, body.length]), body]);
}

class FrameReader {
  private readonly chunks: AsyncIterator<Buffer>;
  private buffered: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  async bytes(count: number): Promise<Buffer> {
    while (this.buffered.length < count) {
      const next = await this.chunks.next();
      if (next.done === true)
        throw new Error("the connection was closed: is this the RPC port of an engine?");
      this.buffered = Buffer.concat([this.buffered, next.value]);
    }
    const taken = this.buffered.subarray(0, count);
    this.buffered = this.buffered.subarray(count);
    return taken;
  }

  /** The frames of the next message; commands are skipped. */
  async message(): Promise<Buffer[]> {
    const frames: Buffer[] = [];
    for (;;) {
      const flags = (await this.bytes(1))[0]!;
      const long = (flags & 0x02) !== 0;
      const length = long ? Number((await this.bytes(8)).readBigUInt64BE()) : (await this.bytes(1))[0]!;
      if (length > FRAME_BYTES_MAX) throw new Error("the answer is no answer of an engine");
      const body = await this.bytes(length);
      if ((flags & 0x04) !== 0) continue;
      frames.push(Buffer.from(body));
      if ((flags & 0x01) === 0) return frames;
    }
  }
}

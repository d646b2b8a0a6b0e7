import type { IncomingMessage } from "node:http";

/** Bytes of all bodies that are held at a time. */
const BODIES_BYTES_MAX = 32 * 1024 * 1024;

let heldBytes = 0;

/**
 * Reads a body of at most `bytesMax` bytes. Null: it is longer, or all bodies together would be too long.
 */
export async function readBody(request: IncomingMessage, bytesMax: number): Promise<string | null> {
  if (Number(request.headers["content-length"] ?? 0) > bytesMax) return null;
  const parts: Buffer[] = [];
  let length = 0;
  try {
    for await (const part of request as AsyncIterable<Buffer>) {
      if (length + part.length > bytesMax || heldBytes + part.length > BODIES_BYTES_MAX) return null;
      length += part.length;
      heldBytes += part.length;
      parts.push(part);
    }
    return Buffer.concat(parts).toString("utf8");
  } finally {
    heldBytes -= length;
  }
}

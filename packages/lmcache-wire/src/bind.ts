import { lookup } from "node:dns/promises";
import { createServer, isIP } from "node:net";
import { CacheError, messageOf } from "@cache/contracts";
import type { Router } from "zeromq";

async function numericHost(host: string): Promise<string> {
  const bare = host.replace(/^\[(.*)\]$/, "$1");
  if (isIP(bare) !== 0) return bare;
  try {
    const found = await lookup(bare, { all: true });
    // LMCache's clients connect to "localhost" over IPv4 unless told otherwise.
    return (found.find((one) => one.family === 4) ?? found[0])?.address ?? bare;
  } catch (error) {
    throw new CacheError("INVALID_CONFIG", `--host ${host} has no address: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** Asks the kernel: the binding's error names now and then another errno than the one that it met. */
async function isTaken(host: string, port: number): Promise<boolean> {
  if (port === 0) return false;
  const probe = createServer();
  return new Promise((resolve) => {
    probe.once("error", (error: NodeJS.ErrnoException) => resolve(error.code === "EADDRINUSE"));
    probe.listen({ host, port, exclusive: true }, () => probe.close(() => resolve(false)));
  });
}

/**
 * Binds the socket and returns its address as libzmq tells it, with the real port.
 *
 * @throws CacheError `ADDRESS_IN_USE` naming `--port`, `INVALID_CONFIG` for a host that is not ours.
 */
export async function bindTo(socket: Router, host: string, port: number): Promise<string> {
  const numeric = await numericHost(host);
  if (isIP(numeric) === 6) socket.ipv6 = true;
  const url = `tcp://${isIP(numeric) === 6 ? `[${numeric}]` : numeric}:${port === 0 ? "*" : port}`;
  try {
    await socket.bind(url);
  } catch (error) {
    if ((error as { code?: unknown }).code === "EADDRINUSE" || (await isTaken(numeric, port))) {
      throw new CacheError(
        "ADDRESS_IN_USE",
        `${url} is in use by another process; stop it or choose another --port`,
        { cause: error, details: { host, port } },
      );
    }
    throw new CacheError(
      "INVALID_CONFIG",
      `cannot listen on ${url}: ${messageOf(error)}; check --host and --port`,
      {
        cause: error,
        details: { host, port },
      },
    );
  }
  return socket.lastEndpoint ?? url;
}

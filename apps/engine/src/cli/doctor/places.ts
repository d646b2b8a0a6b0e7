import { messageOf } from "@cache/contracts";
import { accessSync, constants, existsSync, type Stats, statfsSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { dirname } from "node:path";
import type { EngineConfig } from "../../config/engine-config.ts";
import { sizeText } from "../output.ts";
import { poolPath } from "../purge.ts";
import { rpcPing } from "../rpc-ping.ts";
import { fail, type Finding, ok, warn } from "./finding.ts";

/** `f_type` of file systems whose locks and syncs cross a network, from Linux' magic.h. */
const NETWORK_FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0x6969, "NFS"],
  [0x0bd00bd0, "Lustre"],
  [0x00c36400, "Ceph"],
  [0xff534d42, "CIFS"],
  [0xfe534d42, "SMB2"],
]);
const STATE_FREE_MIN_BYTES = 256 * 2 ** 20;
const PROBE_TIMEOUT_MS = 2000;

/** The nearest directory that exists, from the given one upwards; null if there is none. */
export function existingParent(directory: string | null): string | null {
  let path = directory;
  while (path !== null && !existsSync(path)) {
    const parent = dirname(path);
    path = parent === path ? null : parent;
  }
  return path;
}

/** Whether the state directory can be made and written, and who else may look into it. */
export function stateDirectory(directory: string | null): Finding {
  const name = "state";
  if (directory === null)
    return warn(name, "in memory: nothing survives a restart", "give a --state-dir that is not none");
  const place = existingParent(directory) ?? "/";
  const made = place === directory;
  try {
    accessSync(place, constants.W_OK | constants.X_OK);
  } catch {
    return fail(
      name,
      `${made ? directory : `${directory} cannot be made: ${place}`} is not writable for this user`,
      "another --state-dir, or change its owner",
    );
  }
  const stat = statSync(place);
  if (!stat.isDirectory()) return fail(name, `${place} is no directory`, "another --state-dir");
  const { type, bavail, bsize } = statfsSync(place);
  const network = NETWORK_FILE_SYSTEMS.get(type);
  const free = bavail * bsize;
  const text = `${directory}${made ? "" : " (will be made)"}, ${sizeText(free)} free`;
  if (network !== undefined)
    return warn(name, `${text}, on ${network}`, "a local disk: the journal is locked and synced there");
  if (free < STATE_FREE_MIN_BYTES) return warn(name, text, "free space on that disk: the journal lies there");
  if (made && (stat.mode & 0o077) !== 0)
    return warn(name, `${text}, ${modeText(stat)}`, `chmod 0700 ${directory}`);
  return ok(name, text);
}

/** A pool file that is already there: whose it is and who may map it. */
export function pool(config: EngineConfig): Finding {
  const name = "pool";
  const path = poolPath(config.l1.shmName);
  if (path === null) return ok(name, "none: shared memory is off");
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return ok(name, `${path} (will be made)`);
  const text = `${path}, ${sizeText(stat.size)}, ${modeText(stat)}`;
  const uid = process.getuid?.();
  if (uid !== undefined && uid !== 0 && stat.uid !== uid)
    return fail(name, `${text}, of user ${stat.uid}`, "another --shm-name, or run as that user");
  if ((stat.mode & 0o007) !== 0)
    return warn(
      name,
      `${text}: every user may read or change cached objects`,
      `chmod ${config.l1.shmMode.toString(8)} ${path}`,
    );
  return ok(name, text);
}

function modeText(stat: Stats): string {
  return `mode 0${(stat.mode & 0o777).toString(8)}`;
}

/** Whether the RPC address is free, or held by an engine that answers. */
export async function rpcAddress({ host, port }: EngineConfig["rpc"]): Promise<Finding> {
  const url = `tcp://${loopbackOf(host)}:${port}`;
  return await address("rpc", { host, port }, async () => await rpcPing(url, PROBE_TIMEOUT_MS));
}

/** The same for HTTP. */
export async function httpAddress({ host, port }: EngineConfig["http"]): Promise<Finding> {
  const at = loopbackOf(host);
  const url = `http://${at.includes(":") ? `[${at}]` : at}:${port}/healthcheck`;
  return await address("http", { host, port }, async () => {
    const response = await fetch(url, { signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) });
    const body = (await response.json()) as { status?: unknown };
    return body.status === "healthy";
  });
}

async function address(
  name: "rpc" | "http",
  at: { readonly host: string; readonly port: number },
  answers: () => Promise<boolean>,
): Promise<Finding> {
  const flag = name === "rpc" ? "--port" : "--http-port";
  const text = `${at.host}:${at.port}`;
  const error = await bindError(at);
  if (error === null) return ok(name, `${text} is free`);
  if (error.code !== "EADDRINUSE") {
    const fix = error.code === "EACCES" ? `a ${flag} above 1023` : `an address of this machine`;
    return fail(name, `${text} cannot be bound: ${error.message}`, fix);
  }
  try {
    if (await answers()) return ok(name, `${text}: a running engine answers, and is well`);
    return warn(name, `${text}: a running engine answers, and is not well`, "npx @cache/engine status");
  } catch (cause) {
    return fail(
      name,
      `${text} is taken by something that is no engine (${messageOf(cause)})`,
      `another ${flag}, or stop what listens there (ss -ltnp)`,
    );
  }
}

function bindError(at: {
  readonly host: string;
  readonly port: number;
}): Promise<NodeJS.ErrnoException | null> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", (error) => resolve(error));
    server.listen({ ...at, exclusive: true }, () => server.close(() => resolve(null)));
  });
}

function loopbackOf(host: string): string {
  if (host === "0.0.0.0") return "127.0.0.1";
  return host === "::" ? "::1" : host;
}

import { messageOf } from "@cache/contracts";
import { mapperProof } from "@cache/l1-memory";
import { readFileSync, statfsSync, statSync } from "node:fs";
import type { EngineConfig } from "../../config/engine-config.ts";
import { memoryFacts } from "../../config/default-l1-size.ts";
import { sizeText } from "../output.ts";
import { fail, type Finding, ok, warn } from "./finding.ts";

const NODE_MIN: readonly [number, number] = [20, 19];
/** `f_type` of tmpfs and of file systems on other machines, from Linux' magic.h. */
const TMPFS = 0x01021994;
/** A start opens about 60 files; each client and each file being read takes one more. */
const OPEN_FILES_MIN = 1024;

/** The Node version that runs this. */
export function nodeVersion(version = process.versions.node): Finding {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const good = major > NODE_MIN[0] || (major === NODE_MIN[0] && minor >= NODE_MIN[1]);
  if (good) return ok("node", `Node ${version}`);
  return fail("node", `Node ${version} is too old`, `install Node ${NODE_MIN.join(".")} or newer`);
}

/** Shared memory is a Linux matter. */
export function platform(name: NodeJS.Platform = process.platform): Finding {
  if (name === "linux") return ok("platform", `${name} ${process.arch}`);
  return warn(
    "platform",
    `${name} has no shared memory for clients`,
    "run on Linux, or let clients go inline",
  );
}

/** Whether /dev/shm is there, a tmpfs, open to this user and large enough for the configured pool. */
export function sharedMemory(l1: EngineConfig["l1"], directory = "/dev/shm"): Finding {
  const name = "shm";
  if (l1.shmName === "") return warn(name, 'turned off by --shm-name ""', "leave the flag out for speed");
  let facts: ReturnType<typeof statfsSync>;
  let mode: number;
  try {
    facts = statfsSync(directory);
    mode = statSync(directory).mode & 0o7777;
  } catch (error) {
    return fail(name, `${directory}: ${messageOf(error)}`, `mount a tmpfs on ${directory}`);
  }
  const [size, free] = [facts.blocks * facts.bsize, facts.bavail * facts.bsize];
  const text = `${directory} has ${sizeText(free)} free of ${sizeText(size)}, mode 0${mode.toString(8)}`;
  if (facts.type !== TMPFS)
    return fail(
      name,
      `${directory} is no tmpfs`,
      `mount -t tmpfs tmpfs ${directory}; in a container: --shm-size`,
    );
  if ((mode & 0o002) === 0 && process.getuid?.() !== 0)
    return fail(name, `${text}: this user may not write`, `chmod 1777 ${directory}`);
  if (size < l1.sizeBytes) {
    return fail(
      name,
      `${text}; the pool needs ${sizeText(l1.sizeBytes)}`,
      "a smaller --l1-size-gb, or a larger /dev/shm (mount -o remount,size=N; docker run --shm-size; an emptyDir of medium Memory)",
    );
  }
  if (free < l1.sizeBytes && !exists(`${directory}/${poolName(l1.shmName)}`)) {
    return warn(
      name,
      `${text}; the pool of ${sizeText(l1.sizeBytes)} will be smaller`,
      `remove what is not used in ${directory} (npx @cache/engine purge for an old pool), or a smaller --l1-size-gb`,
    );
  }
  if ((mode & 0o1777) !== 0o1777)
    return warn(name, `${text}: others may remove or not make files`, `chmod 1777 ${directory}`);
  return ok(name, `${text}; pool ${sizeText(l1.sizeBytes)}`);
}

function poolName(shmName: string): string {
  return shmName.startsWith("lmcache_l1_pool_") ? shmName : `lmcache_l1_pool_${shmName}`;
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** Memory of the machine and of the memory cgroup against the configured L1. */
export function memory(l1: EngineConfig["l1"]): Finding {
  const { totalBytes, cgroupLimitBytes } = memoryFacts();
  const limited = cgroupLimitBytes !== null && cgroupLimitBytes < totalBytes;
  const bound = limited ? cgroupLimitBytes : totalBytes;
  const text = limited
    ? `${sizeText(totalBytes)}, of which the memory cgroup allows ${sizeText(bound)}`
    : `${sizeText(totalBytes)}, no memory cgroup below that`;
  const fix = `a smaller --l1-size-gb${limited ? ", or a larger limit (docker run --memory; resources.limits.memory)" : ""}`;
  const wanted = `L1 wants ${sizeText(l1.sizeBytes)}`;
  if (l1.sizeBytes > bound) return fail("memory", `${text}; ${wanted}`, fix);
  if (l1.sizeBytes > bound * 0.8) return warn("memory", `${text}; ${wanted} and leaves little`, fix);
  return ok("memory", `${text}; ${wanted}`);
}

/** Soft limits of this process that a start or a busy engine runs into. */
export function userLimits(l1: EngineConfig["l1"], limits = readLimits()): Finding {
  const name = "limits";
  if (limits === null) return warn(name, "/proc/self/limits cannot be read", "mount /proc");
  const below = (limit: string, needed: number) => (limits.get(limit) ?? Number.POSITIVE_INFINITY) < needed;
  if (l1.shmName !== "" && below("Max file size", l1.sizeBytes + 4096))
    return fail(
      name,
      `ulimit -f is ${sizeText(limits.get("Max file size") ?? 0)}: the pool is a file`,
      "ulimit -f unlimited",
    );
  if (below("Max address space", l1.sizeBytes + 2 * 2 ** 30))
    return fail(
      name,
      `ulimit -v is ${sizeText(limits.get("Max address space") ?? 0)}: the pool is mapped`,
      "ulimit -v unlimited",
    );
  const files = limits.get("Max open files") ?? Number.POSITIVE_INFINITY;
  if (files < OPEN_FILES_MIN)
    return warn(name, `ulimit -n is ${files}`, "ulimit -n 65536 (systemd: LimitNOFILE=65536)");
  return ok(name, `open files ${String(files)}, file size and address space suffice`);
}

function readLimits(): Map<string, number> | null {
  let text: string;
  try {
    text = readFileSync("/proc/self/limits", "utf8");
  } catch {
    return null;
  }
  const limits = new Map<string, number>();
  for (const line of text.split("\n").slice(1)) {
    const match = /^(Max .*?)\s{2,}(\d+|unlimited)\s/.exec(line);
    if (match === null) continue;
    limits.set(match[1]!, match[2] === "unlimited" ? Number.POSITIVE_INFINITY : Number(match[2]));
  }
  return limits;
}

/** Whether "nobody maps the pool any more" can be proven, or silent clients have to be waited for. */
export function clientProof(config: EngineConfig): Finding {
  if (config.l1.shmName === "") return ok("client-proof", "not needed: no client maps a pool");
  const proof = mapperProof({ mode: config.l1.shmMode });
  if (proof.kind === "possible")
    return ok("client-proof", "it can be seen who maps the pool: slots of dead workers are reused at once");
  const seconds = config.rpc.clientGraceMs / 1000;
  return warn(
    "client-proof",
    `${proof.reason}: slots of a worker that died are reused after ${seconds} s`,
    "run in the host's pid namespace (docker run --pid host; hostPID: true) with --shm-mode 0600, or accept the wait (--client-grace-seconds)",
  );
}

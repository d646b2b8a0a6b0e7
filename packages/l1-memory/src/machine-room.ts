import { readFile, statfs } from "node:fs/promises";
import { totalmem } from "node:os";
import { join } from "node:path";
import { CacheError, messageOf } from "@cache/contracts";

/** Where to look; tests put their own directories here. */
export interface MachineRoomOptions {
  /** Default `/sys/fs/cgroup`. */
  readonly cgroupDirectory?: string;
  /** Default `/proc`. */
  readonly procDirectory?: string;
}

/** One thing that limits memory. */
export interface MemoryBound {
  /** For messages. */
  readonly what: string;
  /** Bytes that it leaves. */
  readonly freeBytes: number;
}

/** cgroup v1 writes a number near 2^63 for "no limit". */
const CGROUP_NO_LIMIT = 2 ** 60;

async function readNumber(path: string): Promise<number | null> {
  const text = await readFile(path, "utf8").catch(() => "");
  return /^\d+\s*$/.test(text) ? Number(text) : null;
}

/** Bytes of page cache that the kernel gives back before it refuses memory. */
async function reclaimable(directory: string, key: string): Promise<number> {
  const text = await readFile(join(directory, "memory.stat"), "utf8").catch(() => "");
  return Number(new RegExp(`^${key} (\\d+)$`, "m").exec(text)?.[1] ?? 0);
}

interface CgroupFiles {
  readonly limit: string;
  readonly usage: string;
  readonly inactiveFile: string;
}

const V1: CgroupFiles = {
  limit: "memory.limit_in_bytes",
  usage: "memory.usage_in_bytes",
  inactiveFile: "total_inactive_file",
};
const V2: CgroupFiles = { limit: "memory.max", usage: "memory.current", inactiveFile: "inactive_file" };

/** What one group leaves; null if it has no limit or is not there. */
async function groupBound(directory: string, files: CgroupFiles): Promise<MemoryBound | null> {
  const limit = await readNumber(join(directory, files.limit));
  if (limit === null || limit >= CGROUP_NO_LIMIT) return null;
  const usage = (await readNumber(join(directory, files.usage))) ?? 0;
  const cache = await reclaimable(directory, files.inactiveFile);
  const freeBytes = Math.max(0, limit - Math.max(0, usage - cache));
  return { what: `memory cgroup (limit ${limit} bytes in ${join(directory, files.limit)})`, freeBytes };
}

/** A group's directory and those of all its parents up to the mount. */
function withParents(mount: string, path: string): string[] {
  const parts = path.split("/").filter((part) => part !== "" && part !== "..");
  return Array.from({ length: parts.length + 1 }, (_, n) => join(mount, ...parts.slice(0, n)));
}

/**
 * What the memory cgroups of this process leave (v1 and v2, every level): limit minus use, where page cache that
 * can be dropped is not use. Groups without a limit are left out.
 */
export async function cgroupBounds(options: MachineRoomOptions = {}): Promise<MemoryBound[]> {
  const { cgroupDirectory = "/sys/fs/cgroup", procDirectory = "/proc" } = options;
  const table = await readFile(join(procDirectory, "self/cgroup"), "utf8").catch(() => "");
  const candidates: [string, CgroupFiles][] = [];
  for (const line of table.split("\n")) {
    const match = /^\d+:([^:]*):(.*)$/.exec(line);
    if (match === null) continue;
    const [, controllers = "", path = ""] = match;
    if (controllers === "") {
      for (const mount of [cgroupDirectory, join(cgroupDirectory, "unified")]) {
        for (const directory of withParents(mount, path)) candidates.push([directory, V2]);
      }
    } else if (controllers.split(",").includes("memory")) {
      for (const directory of withParents(join(cgroupDirectory, "memory"), path)) {
        candidates.push([directory, V1]);
      }
    }
  }
  const bounds = await Promise.all(candidates.map(([directory, files]) => groupBound(directory, files)));
  return bounds.filter((bound) => bound !== null);
}

/** Free bytes of the filesystem; null where it has no limit of its own (tmpfs with size=0). */
async function filesystemBound(directory: string): Promise<MemoryBound | null> {
  try {
    const { bsize, bavail, blocks } = await statfs(directory);
    return blocks === 0 ? null : { what: directory, freeBytes: bsize * bavail };
  } catch (error) {
    throw new CacheError(
      "POOL_UNAVAILABLE",
      `shared memory at ${directory} cannot be used: ${messageOf(error)}; ` +
        'mount a tmpfs there, or turn shared memory off with --shm-name ""',
      { cause: error },
    );
  }
}

/** The bound that leaves least for L1. */
async function tightestBound(directory: string | null, options: MachineRoomOptions): Promise<MemoryBound> {
  const bounds: MemoryBound[] = [{ what: "the machine's RAM", freeBytes: totalmem() }];
  const filesystem = directory === null ? null : await filesystemBound(directory);
  if (filesystem !== null) bounds.push(filesystem);
  bounds.push(...(await cgroupBounds(options)));
  return bounds.reduce((least, bound) => (bound.freeBytes < least.freeBytes ? bound : least));
}

function gib(bytes: number): string {
  return `${(Math.floor((bytes / 2 ** 30) * 100) / 100).toFixed(2)} GiB`;
}

/**
 * Refuses an L1 that does not fit the machine.
 *
 * @param directory of the pool file, null for anonymous memory.
 * @param neededBytes bytes that are not there yet: a re-attached file's pages are.
 * @throws CacheError `POOL_TOO_LARGE`; `POOL_UNAVAILABLE` if the directory is not there.
 */
export async function assertRoom(
  directory: string | null,
  neededBytes: number,
  options: MachineRoomOptions = {},
): Promise<void> {
  const bound = await tightestBound(directory, options);
  if (neededBytes <= bound.freeBytes) return;
  const advice =
    directory === null
      ? "set a smaller --l1-size-gb"
      : `set a smaller --l1-size-gb, make ${directory} larger, or turn shared memory off with --shm-name ""`;
  throw new CacheError(
    "POOL_TOO_LARGE",
    `L1 needs ${gib(neededBytes)} (${neededBytes} bytes) more, and ${bound.what} leaves ` +
      `${gib(bound.freeBytes)} (${bound.freeBytes} bytes): ${advice}`,
    { details: { neededBytes, freeBytes: bound.freeBytes, what: bound.what } },
  );
}

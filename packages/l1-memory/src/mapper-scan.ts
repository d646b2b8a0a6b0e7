import { type FileHandle, open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { mapperProof } from "./mapper-proof.ts";
import type { MapperScan } from "./types.ts";

/** The pool file to look for. */
export interface MapperScanTarget {
  readonly device: bigint;
  readonly inode: bigint;
  readonly ownerUid: number;
  /** Mode of the pool file. */
  readonly mode: number;
  /** False if the filesystem may show another device in `maps` than in stat(2): not on tmpfs. */
  readonly deviceIsCertain: boolean;
}

/** Where and as whom to look; tests put their own here. */
export interface MapperScanOptions {
  /** Default `/proc`. */
  readonly procDirectory?: string;
  /** Process left out; default this one. */
  readonly ownPid?: number;
}

/** Processes read at the same time: libuv has four threads, and loads need them too. */
const CONCURRENT_READS = 2;
const READ_BYTES = 64 * 1024;
/** Listings before giving up: a fork between two of them may hide a mapper. */
const ROUNDS_MAX = 8;

/** Mappings of the pool in a process, or why there is no number. */
type Found = number | "unreadable" | "stranger" | "gone";

/** Device as `/proc/PID/maps` prints it; the encoding of st_dev is that of <sys/sysmacros.h>. */
function deviceText(device: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffffff00n);
  return `${major.toString(16).padStart(2, "0")}:${minor.toString(16).padStart(2, "0")}`;
}

function isGone(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === "ENOENT" || code === "ESRCH";
}

function occurrences(text: Buffer, needle: Buffer): number {
  let count = 0;
  for (let at = text.indexOf(needle); at >= 0; at = text.indexOf(needle, at + needle.length)) count++;
  return count;
}

/** Counts in one `maps` file, in pieces. `empty`: no mapping at all was listed. */
async function searchMaps(path: string, needle: Buffer): Promise<number | "empty"> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, "r");
    // What is kept of one piece for the next is too short to be counted twice.
    const overlap = needle.length - 1;
    const buffer = Buffer.allocUnsafe(READ_BYTES + overlap);
    let kept = 0;
    let total = 0;
    let found = 0;
    for (;;) {
      const { bytesRead } = await file.read(buffer, kept, READ_BYTES, null);
      if (bytesRead === 0) return total === 0 ? "empty" : found;
      total += bytesRead;
      const filled = kept + bytesRead;
      found += occurrences(buffer.subarray(0, filled), needle);
      kept = Math.min(filled, overlap);
      buffer.copyWithin(0, filled - kept, filled);
    }
  } finally {
    await file?.close();
  }
}

class MapperSearch {
  readonly #target: MapperScanTarget;
  readonly #proc: string;
  readonly #needle: Buffer;

  constructor(target: MapperScanTarget, proc: string) {
    this.#target = target;
    this.#proc = proc;
    this.#needle = Buffer.from(` ${deviceText(target.device)} ${target.inode} `);
  }

  async look(pid: number): Promise<Found> {
    const directory = join(this.#proc, String(pid));
    try {
      const found = await searchMaps(join(directory, "maps"), this.#needle);
      return found === "empty" ? await this.#lookAtThreads(directory) : found;
    } catch (error) {
      if (isGone(error)) return "gone";
      return this.#unreadable(directory);
    }
  }

  /** A process whose first thread has ended lists nothing of its own; its other threads do. */
  async #lookAtThreads(directory: string): Promise<Found> {
    for (const thread of await readdir(join(directory, "task"))) {
      const maps = join(directory, "task", thread, "maps");
      const found = await searchMaps(maps, this.#needle).catch((error: unknown) => {
        if (isGone(error)) return "empty" as const;
        throw error;
      });
      if (found !== "empty") return found;
    }
    return 0;
  }

  /** Only a process that never ran as the owner or as root cannot have opened the pool. */
  async #unreadable(directory: string): Promise<Found> {
    try {
      const status = await readFile(join(directory, "status"), "latin1");
      const uids = /^Uid:\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)$/m.exec(status)?.slice(1).map(Number);
      if (uids === undefined) return "unreadable";
      return uids.some((uid) => uid === 0 || uid === this.#target.ownerUid) ? "unreadable" : "stranger";
    } catch (error) {
      return isGone(error) ? "gone" : "unreadable";
    }
  }
}

async function listPids(procDirectory: string): Promise<number[]> {
  const names = await readdir(procDirectory);
  return names.filter((name) => /^\d+$/.test(name)).map(Number);
}

interface RoundResult {
  readonly mapped: number[];
  mappings: number;
  unreadable: number;
  gone: number;
}

async function scanRound(search: MapperSearch, pids: readonly number[]): Promise<RoundResult> {
  const result: RoundResult = { mapped: [], mappings: 0, unreadable: 0, gone: 0 };
  let next = 0;
  const reader = async (): Promise<void> => {
    for (let pid = pids[next++]; pid !== undefined; pid = pids[next++]) {
      const found = await search.look(pid);
      if (found === "unreadable") result.unreadable++;
      else if (found === "gone") result.gone++;
      else if (typeof found === "number" && found > 0) {
        result.mapped.push(pid);
        result.mappings += found;
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT_READS }, reader));
  return result;
}

/**
 * Looks which other processes map the pool file, asynchronously, two at a time. `none` is a proof: it is only
 * given where every process that could map the file can be seen (see `mapperProof`).
 *
 * Listed again until no process is new and none vanished unread: a mapper may fork and end between two reads.
 */
export async function scanMappers(
  target: MapperScanTarget,
  options: MapperScanOptions = {},
): Promise<MapperScan> {
  const { procDirectory = "/proc", ownPid = process.pid } = options;
  const proof = mapperProof({ mode: target.mode, procDirectory });
  if (proof.kind === "cannot-be-seen") return proof;
  if (!target.deviceIsCertain) {
    return {
      kind: "cannot-be-seen",
      reason: "the pool is not on a tmpfs: its device cannot be told in maps",
    };
  }
  const search = new MapperSearch(target, procDirectory);
  const seen = new Set([ownPid]);
  const mapped: number[] = [];
  let mappings = 0;
  let unreadable = 0;
  for (let round = 1; round <= ROUNDS_MAX; round++) {
    const fresh = (await listPids(procDirectory)).filter((pid) => !seen.has(pid));
    for (const pid of fresh) seen.add(pid);
    const result = await scanRound(search, fresh);
    mapped.push(...result.mapped);
    mappings += result.mappings;
    unreadable += result.unreadable;
    if (round > 1 && result.gone === 0) {
      if (mapped.length === 0 && unreadable === 0) return { kind: "none" };
      return { kind: "mapped", pids: mapped.toSorted((a, b) => a - b), mappings, unreadable };
    }
  }
  return { kind: "cannot-be-seen", reason: "processes come and go faster than they can be looked at" };
}

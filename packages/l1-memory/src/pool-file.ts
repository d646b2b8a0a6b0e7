import { randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readFileSync,
  readSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { CacheError, hasCode, messageOf } from "@cache/contracts";
import { type FileLock, type FileLockOptions, lockDescriptor } from "@cache/libc";
import { assertRoom, type MachineRoomOptions } from "./machine-room.ts";
import { scanMappers } from "./mapper-scan.ts";
import { decideReattach } from "./reattach.ts";
import { encodeTrailer, hasTrailerMagic, TRAILER_BYTES, type Trailer } from "./trailer.ts";
import type { L1PoolOptions, PoolIdentity, PoolRefusal } from "./types.ts";

/** A pool file that we hold. */
export interface PoolFile {
  readonly path: string;
  /** Its descriptor is open for reading and writing. */
  readonly lock: FileLock;
  readonly identity: PoolIdentity;
  readonly refusal: PoolRefusal | null;
  /** What the pool that was taken over says; null if the file is new. */
  readonly attached: { readonly trailer: Trailer; readonly reservedBytes: number } | null;
}

/** Another process may create or remove the file between two of our steps; each try starts anew. */
const TRIES_MAX = 16;
/** Node adds O_CLOEXEC: no child keeps the lock. */
const OPEN_FLAGS = constants.O_RDWR | constants.O_NOFOLLOW;

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}

function unavailable(path: string, error: unknown): CacheError {
  return new CacheError(
    "POOL_UNAVAILABLE",
    `the pool file ${path} cannot be used: ${messageOf(error)}; ` +
      'remove it, set another --shm-name, or turn shared memory off with --shm-name ""',
    { cause: error },
  );
}

/** The boot id as 32 hex digits: pools do not outlive the machine. */
function readBootId(procDirectory = "/proc"): string {
  const path = join(procDirectory, "sys/kernel/random/boot_id");
  try {
    const id = readFileSync(path, "latin1").trim().replaceAll("-", "");
    if (/^[0-9a-f]{32}$/.test(id)) return id;
    throw new Error("it holds no boot id");
  } catch (error) {
    throw unavailable(path, error);
  }
}

/** True if the path leads to the file of this descriptor. */
export function leadsTo(path: string, fd: number): boolean {
  const held = fstatSync(fd, { bigint: true });
  const named = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return named?.dev === held.dev && named.ino === held.ino;
}

/** The last 4,096 bytes, fewer if the file is shorter. */
export function readTrailerBytes(fd: number): Buffer {
  const bytes = Buffer.alloc(TRAILER_BYTES);
  const at = Math.max(0, fstatSync(fd).size - TRAILER_BYTES);
  return bytes.subarray(0, readSync(fd, bytes, 0, TRAILER_BYTES, at));
}

/** Opens without following a link; null if there is no such file. */
export function openExisting(path: string): number | null {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return null;
  if (!stat.isFile()) throw unavailable(path, new Error("it is not a regular file"));
  try {
    return openSync(path, OPEN_FLAGS);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw unavailable(path, error);
  }
}

/** Takes the lock of a pool file; says which option to change if a live process holds it. */
export async function lockPoolFile(fd: number, path: string, options: FileLockOptions): Promise<FileLock> {
  try {
    return await lockDescriptor(fd, path, options);
  } catch (error) {
    if (!hasCode(error, "LOCKED_BY_OTHER_PROCESS")) throw error;
    const holder = error.details["holder"];
    throw new CacheError(
      "LOCKED_BY_OTHER_PROCESS",
      `the pool ${path} is in use by ${typeof holder === "string" ? holder : "another live process"}; ` +
        "stop that engine, or start this one with another --shm-name (or --instance-id)",
      { cause: error, details: error.details },
    );
  }
}

/**
 * A file under a pool's name that is none of ours may be the live pool of another server, which takes no lock.
 *
 * @throws CacheError `LOCKED_BY_OTHER_PROCESS` if a process is seen to map it.
 */
export async function assertNotForeignAndMapped(lock: FileLock, procDirectory?: string): Promise<void> {
  if (hasTrailerMagic(readTrailerBytes(lock.fd))) return;
  const { dev: device, ino: inode, uid } = fstatSync(lock.fd, { bigint: true });
  const target = { device, inode, ownerUid: Number(uid), mode: 0o600, deviceIsCertain: true };
  const scan = await scanMappers(target, procDirectory === undefined ? {} : { procDirectory });
  if (scan.kind !== "mapped" || scan.pids.length === 0) return;
  throw new CacheError(
    "LOCKED_BY_OTHER_PROCESS",
    `${lock.path} was not made by this engine and process ${scan.pids.join(", ")} maps it; ` +
      "stop that process, or set another --shm-name",
    { details: { path: lock.path, pids: scan.pids } },
  );
}

/** Opens and locks what is there; null if nothing is. */
async function lockExisting(path: string, options: L1PoolOptions): Promise<FileLock | null> {
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    const fd = openExisting(path);
    if (fd === null) return null;
    const lock = await lockPoolFile(fd, path, options);
    if (leadsTo(path, fd)) return lock;
    lock.release();
  }
  throw unavailable(path, new Error("another process keeps replacing it"));
}

/** Creates the file and takes its lock; null if another process was first. */
async function createLocked(path: string, options: L1PoolOptions): Promise<FileLock | null> {
  let fd: number;
  try {
    fd = openSync(path, OPEN_FLAGS | constants.O_CREAT | constants.O_EXCL, 0o600);
  } catch (error) {
    if (codeOf(error) === "EEXIST") return null;
    throw unavailable(path, error);
  }
  const lock = await lockPoolFile(fd, path, options);
  if (leadsTo(path, fd)) return lock;
  lock.release();
  return null;
}

/** Gives a new file its size, rights and trailer. */
function layOut(lock: FileLock, options: L1PoolOptions, bootId: string): PoolIdentity {
  const { sizeBytes, alignBytes, journalId, group, mode = 0o600 } = options;
  const { fd, path } = lock;
  const poolId = randomBytes(16).toString("hex");
  try {
    ftruncateSync(fd, sizeBytes + TRAILER_BYTES);
    // Written, not mapped: a full filesystem is an error here and not a SIGBUS later.
    const trailer = encodeTrailer({ poolId, journalId, bootId, sizeBytes, alignBytes });
    if (writeSync(fd, trailer, 0, TRAILER_BYTES, sizeBytes) !== TRAILER_BYTES) {
      throw new Error("no room for its last 4,096 bytes");
    }
    if (group !== undefined) fchownSync(fd, fstatSync(fd).uid, group);
    // The umask does not count; rights are given last.
    fchmodSync(fd, mode);
  } catch (error) {
    if (leadsTo(path, fd)) unlinkSync(path);
    lock.release();
    throw unavailable(path, error);
  }
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return { poolId, bootId, device: String(dev), inode: String(ino), sizeBytes, alignBytes };
}

/** Takes over the file that is there, or unlinks it and says why. */
async function takeOver(
  lock: FileLock,
  options: L1PoolOptions,
  bootId: string,
  machine: MachineRoomOptions,
): Promise<PoolFile | PoolRefusal> {
  const { path, fd } = lock;
  const stat = fstatSync(fd, { bigint: true });
  const facts = {
    device: String(stat.dev),
    inode: String(stat.ino),
    fileBytes: Number(stat.size),
    mode: Number(stat.mode) & 0o7777,
    group: Number(stat.gid),
  };
  try {
    const decision = decideReattach(options, facts, readTrailerBytes(fd), bootId);
    const { expected } = options;
    if (decision.refusal === null && expected !== null) {
      const there = Number(stat.blocks) * 512;
      await assertRoom(dirname(path), Math.max(0, facts.fileBytes - there), machine);
      return { path, lock, identity: expected, refusal: null, attached: decision };
    }
    const ours = expected?.inode === facts.inode && expected.device === facts.device;
    if (!ours) await assertNotForeignAndMapped(lock, machine.procDirectory);
    // Unlinked and not truncated: a client may still map it.
    if (leadsTo(path, fd)) unlinkSync(path);
    lock.release();
    return decision.refusal ?? { check: "identity", detail: "the journal knows of no pool" };
  } catch (error) {
    lock.release();
    throw error;
  }
}

/** Re-attaches the pool file, or replaces it by a new one. Holds its lock from before it is looked at. */
export async function openPoolFile(
  path: string,
  options: L1PoolOptions,
  machine: MachineRoomOptions,
): Promise<PoolFile> {
  const bootId = readBootId(machine.procDirectory);
  let refusal: PoolRefusal = { check: "absent", detail: `there was no pool file ${path}` };
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    const existing = await lockExisting(path, options);
    if (existing !== null) {
      const taken = await takeOver(existing, options, bootId, machine);
      if ("lock" in taken) return taken;
      refusal = taken;
    }
    await assertRoom(dirname(path), options.sizeBytes + TRAILER_BYTES, machine);
    const lock = await createLocked(path, options);
    if (lock === null) continue;
    return { path, lock, identity: layOut(lock, options, bootId), refusal, attached: null };
  }
  throw unavailable(path, new Error("another process keeps replacing it"));
}

/** A second open file of the pool, for its mapping: a mapping would keep the lock of the first. */
export function openForMapping(path: string, lock: FileLock): number {
  const fd = openSync(path, OPEN_FLAGS);
  const mine = fstatSync(lock.fd, { bigint: true });
  const other = fstatSync(fd, { bigint: true });
  if (mine.dev === other.dev && mine.ino === other.ino) return fd;
  closeSync(fd);
  throw unavailable(path, new Error("another process replaced it"));
}

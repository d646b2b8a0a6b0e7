import { createHash, randomBytes } from "node:crypto";
import { readFile, readlink } from "node:fs/promises";

/** Who writes a temporary file; stands in its name, so that others know whether it will ever be finished. */
export interface TemporaryOwner {
  /** Hash of boot and pid namespace, 8 hex digits: process ids can be compared only where it is equal. */
  readonly hostToken: string;
  readonly pid: number;
  /** Random, of one open adapter; 8 hex digits. */
  readonly openToken: string;
}

/** The owner of what an adapter of this process writes; the host's token is random where the kernel tells none. */
export async function newTemporaryOwner(): Promise<TemporaryOwner> {
  const parts = await Promise.all([
    readFile("/proc/sys/kernel/random/boot_id", "utf8"),
    readlink("/proc/self/ns/pid"),
  ]).catch(() => [String(Math.random()), String(process.hrtime.bigint())]);
  const hostToken = createHash("sha256").update(parts.join("\0")).digest("hex").slice(0, 8);
  return { hostToken, pid: process.pid, openToken: randomBytes(4).toString("hex") };
}

/** An owner as part of a file name: `HOST.PID.TOKEN`. */
export function ownerText({ hostToken, pid, openToken }: TemporaryOwner): string {
  return `${hostToken}.${pid}.${openToken}`;
}

/** What {@link ownerText} gives, as part of a regular expression: three groups for {@link ownerOf}. */
export const OWNER_PATTERN = String.raw`([0-9a-f]{8})\.([0-9]{1,10})\.([0-9a-f]{8})`;

/** The owner in a name that has {@link OWNER_PATTERN} as its first groups; null for no match. */
export function ownerOf(match: RegExpExecArray | null): TemporaryOwner | null {
  const [, hostToken, pid, openToken] = match ?? [];
  if (hostToken === undefined || pid === undefined || openToken === undefined) return null;
  return { hostToken, pid: Number(pid), openToken };
}

/** The adapters that are open in this process, whichever copies of their packages they came from. */
export class OpenOwners {
  readonly #tokens: Set<string>;

  /** @param type the adapter's: each has a list of its own. */
  constructor(type: string) {
    const key = Symbol.for(`@cache/l2-${type}/open-tokens@1`);
    const holder = globalThis as { [key]?: Set<string> };
    holder[key] ??= new Set();
    this.#tokens = holder[key];
  }

  /** From now on its temporaries are alive. */
  add(owner: TemporaryOwner): void {
    this.#tokens.add(owner.openToken);
  }

  /** It is closed. */
  remove(owner: TemporaryOwner): void {
    this.#tokens.delete(owner.openToken);
  }

  /** True if an open adapter of this process writes it. */
  has(owner: TemporaryOwner): boolean {
    return this.#tokens.has(owner.openToken);
  }

  /** True if the owner's process is known to be gone, or is this one and the adapter is not open. */
  isGone(owner: TemporaryOwner, here: TemporaryOwner): boolean {
    if (this.has(owner) || owner.hostToken !== here.hostToken) return false;
    if (owner.pid === process.pid) return true; // an earlier process with this id
    try {
      process.kill(owner.pid, 0);
      return false;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === "ESRCH";
    }
  }
}

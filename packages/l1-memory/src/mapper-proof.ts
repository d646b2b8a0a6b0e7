import { readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "@cache/contracts";

/** Inode of the initial pid namespace: PROC_PID_INIT_INO of Linux. */
const INITIAL_PID_NAMESPACE = "pid:[4026531836]";
/** Values of `hidepid` that hide nothing. */
const HIDEPID_OFF = new Set(["0", "off"]);

/** Whether "nobody maps the pool" can be proven here. */
export type MapperProof =
  | { readonly kind: "possible" }
  | { readonly kind: "cannot-be-seen"; readonly reason: string };

/** Options of {@link mapperProof}. */
export interface MapperProofOptions {
  /** Mode of the pool file; default 0o600. */
  readonly mode?: number;
  /** Default `/proc`. */
  readonly procDirectory?: string;
}

/** The value of `hidepid` with which `/proc` is mounted, null if it is not set. */
function hidepidOf(mounts: string): string | null {
  let found: string | null = null;
  for (const line of mounts.split("\n")) {
    const [, place, type, options = ""] = line.split(" ");
    // The last mount on a place is the one that is seen.
    if (place === "/proc" && type === "proc") found = /(?:^|,)hidepid=([^,]*)/.exec(options)?.[1] ?? null;
  }
  return found;
}

/**
 * Says which case of the proof is in force: it can only be given in the initial pid namespace, without `hidepid`
 * on `/proc`, and with a pool mode that lets in nobody but its owner and root. Three small reads.
 */
export function mapperProof(options: MapperProofOptions = {}): MapperProof {
  const { mode = 0o600, procDirectory = "/proc" } = options;
  const unseen = (reason: string): MapperProof => ({ kind: "cannot-be-seen", reason });
  if ((mode & 0o077) !== 0) {
    return unseen(`the pool's mode ${mode.toString(8).padStart(4, "0")} lets in other users`);
  }
  try {
    const namespace = readlinkSync(join(procDirectory, "self/ns/pid"));
    if (namespace !== INITIAL_PID_NAMESPACE) {
      return unseen("this process runs in a pid namespace of its own (a container)");
    }
    const hidepid = hidepidOf(readFileSync(join(procDirectory, "self/mounts"), "utf8"));
    if (hidepid !== null && !HIDEPID_OFF.has(hidepid))
      return unseen(`/proc is mounted with hidepid=${hidepid}`);
  } catch (error) {
    return unseen(`${procDirectory} cannot be read: ${messageOf(error)}`);
  }
  return { kind: "possible" };
}

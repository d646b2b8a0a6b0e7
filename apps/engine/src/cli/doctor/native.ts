import { messageOf } from "@cache/contracts";
import { acquireFileLock, kernelCalls } from "@cache/libc";
import { accessSync, constants, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fail, type Finding, ok, warn } from "./finding.ts";

/** koffi maps the pool; without it bytes are copied through a file descriptor. */
export function koffi(): Finding {
  if (kernelCalls() !== null) return ok("koffi", "loaded: the pool is mapped");
  const hidden = process.env["CACHE_ENGINE_NO_KOFFI"] === "1";
  return warn(
    "koffi",
    `${hidden ? "hidden by CACHE_ENGINE_NO_KOFFI=1" : "not installed, or no binary for this machine"}: bytes of L2 are copied once more`,
    hidden ? "unset CACHE_ENGINE_NO_KOFFI" : "npm install koffi (do not omit optional dependencies)",
  );
}

/** The ZMQ library, native code too. */
export async function zeromq(): Promise<Finding> {
  try {
    await import("@cache/lmcache-wire");
    return ok("zeromq", "loaded");
  } catch (error) {
    return fail("zeromq", `cannot be loaded: ${messageOf(error)}`, "reinstall @cache/engine on this machine");
  }
}

function writable(directory: string): boolean {
  try {
    accessSync(directory, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Takes a lock as the engine does, on a file of its own in `directory` (where the state directory is or will be). */
export async function flock(directory: string | null): Promise<Finding> {
  const place = directory !== null && writable(directory) ? directory : tmpdir();
  let probe: string | null = null;
  try {
    probe = mkdtempSync(join(place, ".doctor-"));
    const file = join(probe, "lock");
    writeFileSync(file, "");
    const lock = await acquireFileLock(file);
    lock.release();
    const by = lock.mechanism === "koffi" ? "the system call" : "the command flock";
    return ok("flock", `locks by ${by} in ${place}`);
  } catch (error) {
    return fail(
      "flock",
      `no lock can be taken in ${place}: ${messageOf(error)}`,
      "npm install koffi, or install util-linux; keep the state directory on a local file system",
    );
  } finally {
    if (probe !== null) rmSync(probe, { recursive: true, force: true });
  }
}

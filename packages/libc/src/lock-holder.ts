import { readdir, readFile, stat } from "node:fs/promises";

/** The search is a courtesy to whoever reads the message: it stops after this time. */
const SEARCH_MS_MAX = 500;

async function holdsLock(pid: string, fd: string, device: bigint, inode: bigint): Promise<boolean> {
  const file = await stat(`/proc/${pid}/fd/${fd}`, { bigint: true });
  if (file.dev !== device || file.ino !== inode) return false;
  // fdinfo has a line "lock:" for each lock of that open file description, whoever took it.
  return (await readFile(`/proc/${pid}/fdinfo/${fd}`, "latin1")).includes("FLOCK");
}

/**
 * Who holds an `flock` on this file, as far as this process may see. `/proc/locks` would name the process that
 * called flock(2): after the command `flock` that one has ended. For messages only, never for decisions.
 *
 * @returns for example `process 4711 (node)`, or null.
 */
export async function findLockHolder(device: bigint, inode: bigint): Promise<string | null> {
  const end = performance.now() + SEARCH_MS_MAX;
  const pids = await readdir("/proc").catch(() => []);
  for (const pid of pids) {
    if (!/^\d+$/.test(pid)) continue;
    const fds = await readdir(`/proc/${pid}/fd`).catch(() => []);
    for (const fd of fds) {
      if (performance.now() > end) return null;
      if (await holdsLock(pid, fd, device, inode).catch(() => false)) {
        const name = await readFile(`/proc/${pid}/comm`, "utf8").catch(() => "");
        return `process ${pid}${name.trim() ? ` (${name.trim()})` : ""}`;
      }
    }
  }
  return null;
}

import { getSystemErrorMap } from "node:util";
import { CacheError } from "@cache/contracts";
import { systemError } from "./kernel-calls.ts";
import { runApplet } from "./run-command.ts";

/** A step of 256 MiB takes a tenth of a second; a command that hangs is ended after this time. */
const FALLOCATE_TIMEOUT_MS = 120_000;

/** The error number that a C program printed the text of, EIO if the text is none that we know. */
function errnoFromText(text: string): number {
  const lower = text.toLowerCase();
  for (const [errno, [, message]] of getSystemErrorMap()) {
    if (lower.endsWith(message)) return -errno;
  }
  return 5;
}

/**
 * Reserves the pages of a file by the command `fallocate` (util-linux or busybox), which opens the inherited
 * descriptor again through `/proc/self/fd/3`; also an unlinked file is reached so. Does not change bytes that
 * are there. For use without koffi.
 *
 * @param fd descriptor of a file that we may open for writing.
 * @param offset first byte.
 * @param length bytes.
 * @throws CacheError `UNSUPPORTED` if the command is not on the path; an `Error` with `code` (e.g. `ENOSPC`) and
 *   `syscall` if it failed.
 */
export async function fallocateByCommand(fd: number, offset: number, length: number): Promise<void> {
  const args = ["-o", String(offset), "-l", String(length), "/proc/self/fd/3"];
  const result = await runApplet("fallocate", args, fd, FALLOCATE_TIMEOUT_MS);
  if (result === null) {
    throw new CacheError(
      "UNSUPPORTED",
      "cannot reserve pages: koffi is not in use and there is no command fallocate; " +
        "install the npm package koffi, or util-linux (or busybox with the applet fallocate)",
    );
  }
  if (result.status === 0) return;
  const cause = result.stderr || `ended by ${result.signal ?? `status ${result.status}`}`;
  throw systemError(errnoFromText(cause), "fallocate", `${length} bytes at ${offset}: ${cause}`);
}

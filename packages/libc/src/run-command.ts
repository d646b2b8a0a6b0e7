import { spawn } from "node:child_process";

/** How a command ended. */
export interface CommandResult {
  /** Exit status; null if a signal ended it. */
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The first 4 KiB of its error output. */
  readonly stderr: string;
}

const STDERR_CHARS_MAX = 4096;

/** True if the error says that there is no such command, or none that we may run. */
function isAbsent(error: NodeJS.ErrnoException): boolean {
  return error.code === "ENOENT" || error.code === "EACCES";
}

/**
 * Runs a command that finds `fd` as its descriptor 3, the same open file description. Ends it after `timeoutMs`.
 *
 * @returns null if the command is not on the path.
 */
function runWithDescriptor(
  command: string,
  args: readonly string[],
  fd: number,
  timeoutMs: number,
): Promise<CommandResult | null> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: ["ignore", "ignore", "pipe", fd],
      env: { ...process.env, LC_ALL: "C" },
      timeout: timeoutMs,
      killSignal: "SIGKILL",
    });
    let stderr = "";
    child.stderr?.setEncoding("utf8");
    child.stderr?.on("data", (text: string) => {
      stderr = (stderr + text).slice(0, STDERR_CHARS_MAX);
    });
    child.once("error", (error: NodeJS.ErrnoException) => {
      if (isAbsent(error)) resolve(null);
      else reject(error);
    });
    child.once("close", (status, signal) => resolve({ status, signal, stderr: stderr.trim() }));
  });
}

/** Runs the applet of this name, by itself or through busybox. Null if neither is on the path. */
export async function runApplet(
  applet: string,
  args: readonly string[],
  fd: number,
  timeoutMs: number,
): Promise<CommandResult | null> {
  const direct = await runWithDescriptor(applet, args, fd, timeoutMs);
  if (direct !== null) return direct;
  const busybox = await runWithDescriptor("busybox", [applet, ...args], fd, timeoutMs);
  // 127: this busybox was built without the applet.
  return busybox === null || busybox.status === 127 ? null : busybox;
}

import * as fs from "node:fs";
import { Turns } from "./turns.ts";

type Callback<T> = (error: NodeJS.ErrnoException | null, value: T) => void;

/** Callbacks and not `fs.promises`: descriptors are numbers here, and fewer objects are made. */
function call<T>(start: (done: Callback<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => (error === null || error === undefined ? resolve(value) : reject(error)));
  });
}

/** The system calls on files that are not the library's business. Errors as Node gives them. */
export const files = {
  open: (path: string, flags: number, mode = 0o600): Promise<number> =>
    call((done) => fs.open(path, flags, mode, done)),
  close: (fd: number): Promise<void> => call<void>((done) => fs.close(fd, done)),
  /** Writes all of it. */
  writeAt: async (fd: number, bytes: Uint8Array, position: number): Promise<void> => {
    for (let done = 0; done < bytes.length; ) {
      const from = done;
      done += await call<number>((end) =>
        fs.write(fd, bytes, from, bytes.length - from, position + from, (error, count) => end(error, count)),
      );
    }
  },
  fstat: (fd: number): Promise<fs.Stats> => call<fs.Stats>((done) => fs.fstat(fd, done)),
  fchmod: (fd: number, mode: number): Promise<void> => call<void>((done) => fs.fchmod(fd, mode, done)),
  ftruncate: (fd: number, length: number): Promise<void> =>
    call<void>((done) => fs.ftruncate(fd, length, done)),
  fdatasync: (fd: number): Promise<void> => call<void>((done) => fs.fdatasync(fd, done)),
  fsync: (fd: number): Promise<void> => call<void>((done) => fs.fsync(fd, done)),
  rename: (from: string, to: string): Promise<void> => call<void>((done) => fs.rename(from, to, done)),
  unlink: (path: string): Promise<void> => call<void>((done) => fs.unlink(path, done)),
  lstat: (path: string): Promise<fs.Stats> => call<fs.Stats>((done) => fs.lstat(path, done)),
  statfs: (path: string): Promise<fs.StatsFs> => call<fs.StatsFs>((done) => fs.statfs(path, done)),
  mkdir: async (path: string, mode: number): Promise<void> => {
    await fs.promises.mkdir(path, { recursive: true, mode });
  },
};

/** Closes a descriptor whose data are safe, or of no use; nothing happens for -1. */
export async function closeQuietly(fd: number): Promise<void> {
  if (fd >= 0) await files.close(fd).catch(() => undefined);
}

/** The `code` of a failed call, e.g. `ENOENT`; `""` for anything else that was thrown. */
export function errnoOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" ? code : "";
}

/** Calls at a time: as many as libuv has threads. */
const CALLS_AT_A_TIME = 4;

/** Does `work(i)` for 0 ≤ i < count, some at a time. Settles when all that began have, also when one throws. */
export async function forEachFile(count: number, work: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) await work(next++);
  };
  const lanes = Array.from({ length: Math.min(CALLS_AT_A_TIME, count) }, lane);
  for (const settled of await Promise.allSettled(lanes)) {
    if (settled.status === "rejected") throw settled.reason;
  }
}

/** How many bytes are free on a filesystem, asked for again when the figure is some seconds old. */
export class FreeBytes {
  readonly #path: string;
  readonly #turns = new Turns(1);
  #bytes: number | null = null;
  #askedMs = Number.NEGATIVE_INFINITY;

  constructor(path: string) {
    this.#path = path;
  }

  /** The last figure; null if the filesystem did not answer, or was not asked yet. Does not wait for a new one. */
  get(): number | null {
    const AGE_MS = 5000;
    const now = performance.now();
    if (now - this.#askedMs > AGE_MS) {
      this.#askedMs = now;
      void this.#turns.take("later", () =>
        files.statfs(this.#path).then(
          ({ bavail, bsize }) => void (this.#bytes = bavail * bsize),
          () => void (this.#bytes = null),
        ),
      );
    }
    return this.#bytes;
  }
}

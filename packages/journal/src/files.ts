import {
  closeSync,
  copyFileSync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  readdirSync,
  renameSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { unlink } from "node:fs/promises";
import { join } from "node:path";

/** The only way from the journal to its files, so that tests can make any call fail. Names are relative to the directory. */
export interface JournalFiles {
  /** Directory, null for memory. */
  readonly directory: string | null;
  list(): string[];
  /** `create` fails if the name is taken; all handles can be read. */
  open(name: string, mode: "read" | "write" | "create"): number;
  read(handle: number, buffer: Uint8Array, offset: number, length: number, position: number): number;
  /** May write less than asked, as `write(2)` does. */
  write(handle: number, buffer: Uint8Array, offset: number, length: number, position: number): number;
  size(handle: number): number;
  truncate(handle: number, length: number): void;
  sync(handle: number): void;
  /** Handle of the directory itself, to be synced after files were made; null for memory. */
  readonly directoryHandle: number | null;
  close(handle: number): void;
  rename(from: string, to: string): void;
  copy(from: string, to: string): void;
  remove(name: string): void;
  /** The same off the main thread: what a large file's pages take to free is no caller's turn. */
  removeLater(name: string): Promise<void>;
  /** Closes the directory. */
  dispose(): void;
}

const FLAGS = { read: "r", write: "r+", create: "wx+" } as const;

/** Files of a directory, made 0700 if absent; files are 0600. */
export function nodeFiles(directory: string): JournalFiles {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const directoryHandle = openSync(directory, "r");
  let open = true;
  return {
    directory,
    directoryHandle,
    list: () => readdirSync(directory),
    open: (name, mode) => openSync(join(directory, name), FLAGS[mode], 0o600),
    read: (handle, buffer, offset, length, position) => readSync(handle, buffer, offset, length, position),
    write: (handle, buffer, offset, length, position) => writeSync(handle, buffer, offset, length, position),
    size: (handle) => fstatSync(handle).size,
    truncate: (handle, length) => ftruncateSync(handle, length),
    sync: (handle) => (handle === directoryHandle ? fsyncSync(handle) : fdatasyncSync(handle)),
    close: (handle) => closeSync(handle),
    rename: (from, to) => renameSync(join(directory, from), join(directory, to)),
    copy: (from, to) => copyFileSync(join(directory, from), join(directory, to)),
    remove: (name) => unlinkSync(join(directory, name)),
    removeLater: (name) => unlink(join(directory, name)),
    dispose() {
      if (open) closeSync(directoryHandle);
      open = false;
    },
  };
}

/** Reads until `length` bytes are there or the file ends. Returns how many came. */
export function readFully(
  files: JournalFiles,
  handle: number,
  buffer: Uint8Array,
  span: { length: number; position: number },
): number {
  let done = 0;
  while (done < span.length) {
    const read = files.read(handle, buffer, done, span.length - done, span.position + done);
    if (read <= 0) break;
    done += read;
  }
  return done;
}

/** Writes everything, however short the single writes are. */
export function writeFully(
  files: JournalFiles,
  handle: number,
  bytes: Uint8Array,
  span: { length: number; position: number },
): void {
  let done = 0;
  while (done < span.length) {
    const wrote = files.write(handle, bytes, done, span.length - done, span.position + done);
    if (wrote <= 0) throw Object.assign(new Error("write took no bytes"), { code: "ENOSPC" });
    done += wrote;
  }
}

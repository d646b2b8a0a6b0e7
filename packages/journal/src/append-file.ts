import { encodeHeader, type FileHeader, type FileKind, HEADER_BYTES } from "./format.ts";
import { errnoOf } from "./io-error.ts";
import { type JournalFiles, writeFully } from "./files.ts";

/** A file that grows at its end. */
export interface AppendFile {
  readonly kind: FileKind;
  readonly name: string;
  readonly handle: number;
  /** Good bytes: the next write goes here. */
  length: number;
  /** Bytes known to be on the medium. */
  synced: number;
  /** Nothing more is written: close the handle once it is synced. */
  retired: boolean;
}

/** Makes a file and writes its header. What an earlier failed attempt left under the name is replaced. */
export function createAppendFile(
  files: JournalFiles,
  name: string,
  file: { kind: FileKind; header: FileHeader },
): AppendFile {
  let handle: number;
  try {
    handle = files.open(name, "create");
  } catch (error) {
    if (errnoOf(error) !== "EEXIST") throw error;
    files.remove(name);
    handle = files.open(name, "create");
  }
  try {
    writeFully(files, handle, encodeHeader(file.kind, file.header), { length: HEADER_BYTES, position: 0 });
  } catch (error) {
    files.close(handle);
    // The next attempt replaces the file, so a failure here costs nothing.
    try {
      files.remove(name);
    } catch {}
    throw error;
  }
  return { kind: file.kind, name, handle, length: HEADER_BYTES, synced: 0, retired: false };
}

/** Opens a recovered file to go on at its end. */
export function reopenAppendFile(
  files: JournalFiles,
  file: { kind: FileKind; name: string; length: number },
): AppendFile {
  return { ...file, handle: files.open(file.name, "write"), synced: file.length, retired: false };
}

/** Writes at the file's end. On failure the file is cut back, if that works, and the length stays. */
export function appendBytes(files: JournalFiles, file: AppendFile, bytes: Uint8Array): void {
  try {
    writeFully(files, file.handle, bytes, { length: bytes.length, position: file.length });
  } catch (error) {
    // If it cannot be cut, the retry writes the same bytes to the same place.
    try {
      files.truncate(file.handle, file.length);
    } catch {}
    throw error;
  }
  file.length += bytes.length;
}

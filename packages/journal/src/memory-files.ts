import type { JournalFiles } from "./files.ts";

interface MemoryFile {
  bytes: Buffer;
  length: number;
}

function missing(name: string): Error {
  return Object.assign(new Error(`ENOENT: ${name}`), { code: "ENOENT" });
}

function grow(file: MemoryFile, needed: number): void {
  if (file.bytes.length >= needed) return;
  const bytes = Buffer.alloc(Math.max(needed, file.bytes.length * 2, 4096));
  file.bytes.copy(bytes, 0, 0, file.length);
  file.bytes = bytes;
}

/** The files of a journal that lives in memory only: the same rules, and nothing survives. */
export function memoryFiles(): JournalFiles {
  const files = new Map<string, MemoryFile>();
  const handles = new Map<number, MemoryFile>();
  let lastHandle = 0;
  const fileOf = (handle: number): MemoryFile => {
    const file = handles.get(handle);
    if (file === undefined) throw Object.assign(new Error("EBADF"), { code: "EBADF" });
    return file;
  };
  const named = (name: string): MemoryFile => {
    const file = files.get(name);
    if (file === undefined) throw missing(name);
    return file;
  };
  return {
    directory: null,
    directoryHandle: null,
    list: () => [...files.keys()],
    open(name, mode) {
      if (mode === "create" && files.has(name)) throw Object.assign(new Error(name), { code: "EEXIST" });
      if (mode === "create") files.set(name, { bytes: Buffer.alloc(0), length: 0 });
      handles.set(++lastHandle, named(name));
      return lastHandle;
    },
    read(handle, buffer, offset, length, position) {
      const file = fileOf(handle);
      const end = Math.min(file.length, position + length);
      if (end <= position) return 0;
      buffer.set(file.bytes.subarray(position, end), offset);
      return end - position;
    },
    write(handle, buffer, offset, length, position) {
      const file = fileOf(handle);
      grow(file, position + length);
      file.bytes.set(buffer.subarray(offset, offset + length), position);
      file.length = Math.max(file.length, position + length);
      return length;
    },
    size: (handle) => fileOf(handle).length,
    truncate(handle, length) {
      const file = fileOf(handle);
      grow(file, length);
      if (length < file.length) file.bytes.fill(0, length, file.length);
      file.length = length;
    },
    sync() {},
    close: (handle) => void handles.delete(handle),
    rename(from, to) {
      files.set(to, named(from));
      files.delete(from);
    },
    copy(from, to) {
      const file = named(from);
      files.set(to, { bytes: Buffer.from(file.bytes), length: file.length });
    },
    remove(name) {
      if (!files.delete(name)) throw missing(name);
    },
    removeLater: (name) => (files.delete(name) ? Promise.resolve() : Promise.reject(missing(name))),
    dispose() {},
  };
}

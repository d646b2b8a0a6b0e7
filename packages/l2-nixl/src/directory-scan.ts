import { promises as fs } from "node:fs";
import { join } from "node:path";
import { DirectoryScan, type DirectoryScanOptions, OpenOwners, type ScannedFile } from "@cache/adapter-kit";
import { errnoOf, files } from "./files.ts";
import { decodeFileName, parseTemporaryName, SHARD } from "./names.ts";

/** Most files that are looked at in a second. */
const FILES_PER_SECOND = 5000;

const openOwners = new OpenOwners("nixl");

/** The directories that hold files of objects: the one, or its shards. */
async function* foldersOf(directory: string, isSharded: boolean): AsyncGenerator<string> {
  yield directory;
  if (!isSharded) return;
  for await (const first of await fs.opendir(directory)) {
    if (!first.isDirectory() || !SHARD.test(first.name)) continue;
    const shard = join(directory, first.name);
    yield shard; // of a chunk hash of one byte
    for await (const second of await fs.opendir(shard)) {
      if (second.isDirectory() && SHARD.test(second.name)) yield join(shard, second.name);
    }
  }
}

async function* filesOf(directory: string, isSharded: boolean): AsyncGenerator<ScannedFile> {
  for await (const folder of foldersOf(directory, isSharded)) {
    for await (const entry of await fs.opendir(folder, { bufferSize: 256 })) {
      if (!entry.isDirectory()) yield { folder, name: entry.name };
    }
  }
}

/** The names of all files that may be objects. @param checkStopped throws to end it. */
export async function* objectNames(
  directory: string,
  isSharded: boolean,
  checkStopped: () => void,
): AsyncGenerator<string> {
  for await (const { name } of filesOf(directory, isSharded)) {
    checkStopped();
    if (decodeFileName(name) !== null) yield name;
  }
}

/** The background scan of a directory and its shards. */
export function directoryScan(
  isSharded: boolean,
  rest: Pick<DirectoryScanOptions, "directory" | "owner" | "log" | "account" | "lengthOf" | "intervalMs">,
): DirectoryScan {
  return new DirectoryScan({
    ...rest,
    files: () => filesOf(rest.directory, isSharded),
    temporaryOwner: parseTemporaryName,
    isObject: (name) => decodeFileName(name) !== null,
    lstat: (path) =>
      files.lstat(path).catch((error: unknown) => {
        if (errnoOf(error) === "ENOENT") return null;
        throw error;
      }),
    unlink: (path) => files.unlink(path),
    openOwners,
    filesPerSecond: FILES_PER_SECOND,
  });
}

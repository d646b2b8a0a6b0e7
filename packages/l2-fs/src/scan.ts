import {
  DirectoryScan,
  type DirectoryScanOptions,
  type FileFacts,
  OpenOwners,
  type ScannedFile,
} from "@cache/adapter-kit";
import { type FsPort, lookAt } from "./fs-port.ts";
import { decodeFileName, parseTemporaryName } from "./names.ts";

/** Where a scan goes. */
export interface ScanPlaces {
  readonly port: FsPort;
  readonly basePath: string;
  readonly temporaryPath: string;
}

/** The adapters of this type that are open in this process. */
const openOwners = new OpenOwners("fs");

async function* filesOf({ port, basePath, temporaryPath }: ScanPlaces): AsyncGenerator<ScannedFile> {
  for (const folder of new Set([basePath, temporaryPath])) {
    for await (const entry of await port.opendir(folder)) {
      if (entry.isDirectory()) continue;
      if (folder === basePath || parseTemporaryName(entry.name) !== null) yield { folder, name: entry.name };
    }
  }
}

/** The background scan of a directory and of the one below it for temporaries. */
export function directoryScan(
  places: ScanPlaces,
  rest: Pick<DirectoryScanOptions, "owner" | "log" | "account" | "filesPerSecond" | "intervalMs">,
): DirectoryScan {
  const { port, basePath } = places;
  return new DirectoryScan({
    ...rest,
    directory: basePath,
    files: () => filesOf(places),
    temporaryOwner: parseTemporaryName,
    isObject: (name) => decodeFileName(name) !== null,
    lstat: (path): Promise<FileFacts | null> => lookAt(port.lstat(path), path),
    async unlink(path) {
      await port.unlink(path);
    },
    lengthOf: ({ size }) => size,
    openOwners,
  });
}

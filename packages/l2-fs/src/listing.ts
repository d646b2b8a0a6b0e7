import { join } from "node:path";
import { KeyListing } from "@cache/adapter-kit";
import { encodeObjectKey } from "@cache/contracts";
import { type FsPort, lookAt } from "./fs-port.ts";
import { decodeFileName, encodeModelName, OBJECT_SUFFIX } from "./names.ts";

async function* objectNames(
  port: FsPort,
  basePath: string,
  checkStopped: () => void,
): AsyncGenerator<string> {
  for await (const entry of await port.opendir(basePath)) {
    checkStopped();
    if (entry.name.endsWith(OBJECT_SUFFIX) && !entry.isDirectory()) yield entry.name;
  }
}

/** Lists the objects of a directory. Its pages throw the error of a failed call, as Node gives it. */
export function directoryListing(port: FsPort, basePath: string): KeyListing {
  return new KeyListing({
    names: (checkStopped) => objectNames(port, basePath, checkStopped),
    decode: decodeFileName,
    modelPrefix: (modelName) => `${encodeModelName(modelName)}@`,
    async entry(name, key) {
      const path = join(basePath, name);
      const found = await lookAt(port.lstat(path), path); // null: removed since the pass
      if (found === null || !found.isFile()) return null;
      return { key: encodeObjectKey(key), size_bytes: found.size, modified_ms: Math.floor(found.mtimeMs) };
    },
  });
}

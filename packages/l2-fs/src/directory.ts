import { constants, type Stats } from "node:fs";
import { join } from "node:path";
import { type AdapterLog, CacheError } from "@cache/contracts";
import { type FsConfig, permissionBits } from "./config.ts";
import { backendError, type FsPort, lookAt } from "./fs-port.ts";

/** What `open` found out about the directory. */
export interface PreparedDirectory {
  /** Where temporaries are written: the base path, or the directory below it. */
  readonly temporaryPath: string;
  /** Device of the filesystem: another one later means that something was mounted or unmounted there. */
  readonly device: number;
  /** Block of the filesystem in bytes, for O_DIRECT. */
  readonly blockBytes: number;
}

function invalidConfig(message: string): CacheError {
  return new CacheError("INVALID_CONFIG", message);
}

async function make(port: FsPort, path: string, mode: number): Promise<void> {
  try {
    await port.makeDirectory(path, mode);
    if ((mode & 0o077) !== 0) await port.chmod(path, mode); // the umask took away what was asked for
  } catch (error) {
    throw backendError(error, "make the directory", path);
  }
}

/**
 * A directory directly below one of ours, made if absent.
 *
 * @throws CacheError `INVALID_CONFIG` if it is a symbolic link or no directory, or the codes of a failed call.
 */
export async function ensureSubdirectory(port: FsPort, path: string, mode: number): Promise<Stats> {
  let found = await lookAt(port.lstat(path), path);
  if (found === null) {
    await make(port, path, mode);
    found = await lookAt(port.lstat(path), path);
  }
  if (found === null || !found.isDirectory()) {
    throw invalidConfig(
      `${path} is not a directory (a symbolic link does not count); move it away or choose another name`,
    );
  }
  return found;
}

/**
 * Makes what is absent and checks what is there.
 *
 * @throws CacheError `INVALID_CONFIG` for a path that cannot be right, `BACKEND_REFUSED` for one without permission,
 *   `BACKEND_UNAVAILABLE` for a filesystem that fails.
 */
export async function prepareDirectory(
  port: FsPort,
  basePath: string,
  config: FsConfig,
  log: AdapterLog,
): Promise<PreparedDirectory> {
  const mode = permissionBits(config.directory_mode);
  let base = await lookAt(port.stat(basePath), basePath);
  if (base === null) {
    await make(port, basePath, mode);
    base = await lookAt(port.stat(basePath), basePath);
  } else if (base.isDirectory() && (base.mode & 0o777 & ~mode) !== 0) {
    log.warn(
      "the cache's directory was there and gives others more than directory_mode: file names tell models and tenants",
      {
        base_path: basePath,
        mode: (base.mode & 0o777).toString(8),
        directory_mode: mode.toString(8),
      },
    );
  }
  if (base === null || !base.isDirectory()) {
    throw invalidConfig(`base_path ${basePath} is not a directory; choose another one`);
  }
  try {
    await port.access(basePath, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    throw backendError(error, "write to", basePath);
  }
  let temporaryPath = basePath;
  for (const part of config.relative_tmp_dir?.replace(/\/$/, "").split("/") ?? []) {
    temporaryPath = join(temporaryPath, part);
    const found = await ensureSubdirectory(port, temporaryPath, mode);
    if (found.dev !== base.dev) {
      throw invalidConfig(
        `relative_tmp_dir ${temporaryPath} is on another filesystem than base_path ${basePath}, so files cannot be renamed; choose a directory on the same one`,
      );
    }
  }
  try {
    return { temporaryPath, device: base.dev, blockBytes: (await port.statfs(basePath)).bsize };
  } catch (error) {
    throw backendError(error, "look at the filesystem of", basePath);
  }
}

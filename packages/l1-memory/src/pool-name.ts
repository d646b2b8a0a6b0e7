import { CacheError } from "@cache/contracts";

/** LMCache's prefix of pool names (`lmcache/v1/distributed`, 0.5.6): added where it is missing. */
export const POOL_NAME_PREFIX = "lmcache_l1_pool_";
/** NAME_MAX of Linux, in bytes of UTF-8. */
const POOL_NAME_BYTES_MAX = 255;

function invalid(name: string, why: string): CacheError {
  return new CacheError("INVALID_CONFIG", `--shm-name ${JSON.stringify(name.slice(0, 300))} ${why}`);
}

/**
 * The file name of a pool as LMCache clients ask for it: without a leading slash, with the prefix.
 *
 * @param name as configured; `""` (no shared memory) is returned as it is.
 * @throws CacheError `INVALID_CONFIG` if it holds a slash or a control character, or is too long.
 */
export function poolFileName(name: string): string {
  if (name === "") return "";
  const bare = name.startsWith("/") ? name.slice(1) : name;
  if (bare === "") throw invalid(name, 'names no file; give a name, or "" to turn shared memory off');
  if (bare.includes("/")) throw invalid(name, "must not hold a slash: it is one file in /dev/shm");
  // Also NUL, which ends a name for the kernel.
  if (/\p{Cc}/u.test(bare)) throw invalid(name, "must not hold control characters");
  if (Buffer.from(bare).toString() !== bare) throw invalid(name, "is not valid Unicode");
  const full = bare.startsWith(POOL_NAME_PREFIX) ? bare : POOL_NAME_PREFIX + bare;
  if (Buffer.byteLength(full) > POOL_NAME_BYTES_MAX) {
    throw invalid(name, `is too long: with its prefix at most ${POOL_NAME_BYTES_MAX} bytes`);
  }
  return full;
}

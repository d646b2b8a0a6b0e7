import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const PACKAGES = ["redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libatomic1"];
const HINT = "install redis-server (Debian: apt-get install redis-server), or put one into the PATH";

/** How to run `redis-server`. */
export interface RedisProgram {
  readonly path: string;
  readonly environment: NodeJS.ProcessEnv;
}

function onPath(): RedisProgram | null {
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  const path = folders.map((folder) => join(folder, "redis-server")).find((file) => existsSync(file));
  return path === undefined ? null : { path, environment: process.env };
}

function unpackedIn(root: string): RedisProgram | null {
  const path = join(root, "usr", "bin", "redis-server");
  if (!existsSync(path)) return null;
  const libraries = ["x86_64", "aarch64"].map((machine) => join(root, "usr", "lib", `${machine}-linux-gnu`));
  return { path, environment: { ...process.env, LD_LIBRARY_PATH: libraries.join(delimiter) } };
}

/** Debian's package, unpacked into a cache folder of ours: needs no root, changes nothing of the system. */
async function fromDebian(): Promise<RedisProgram | null> {
  const cache = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "cache-l2-redis-tests");
  const root = join(cache, "redis-server");
  const known = unpackedIn(root);
  if (known !== null) return known;
  await mkdir(cache, { recursive: true });
  const work = await mkdtemp(join(cache, "unpack-"));
  try {
    const options = { cwd: work, timeout: 60_000 };
    await run("apt-get", ["download", ...PACKAGES], options).catch(async () => {
      await run("apt-get", ["update"], options); // the lists may be missing or old
      await run("apt-get", ["download", ...PACKAGES], options);
    });
    for (const file of (await readdir(work)).filter((name) => name.endsWith(".deb"))) {
      await run("dpkg", ["-x", file, join(work, "root")], options);
    }
    // Another test file may have been first.
    await rename(join(work, "root"), root).catch(() => undefined);
    return unpackedIn(root);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

let finding: Promise<RedisProgram | null> | null = null;

/** `redis-server` of the PATH, else Debian's where it can be had; null, and a line that says why, if there is none. */
export function findRedis(): Promise<RedisProgram | null> {
  finding ??= (async () => {
    const installed = onPath();
    if (installed !== null) return installed;
    let reason = "the package holds no redis-server";
    const fetched = await fromDebian().catch((error: unknown) => {
      reason = String(error).split("\n", 1)[0] ?? "";
      return null;
    });
    if (fetched === null) process.stdout.write(`  skipped: there is no redis-server (${reason}); ${HINT}\n`);
    return fetched;
  })();
  return finding;
}

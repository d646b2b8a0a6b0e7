import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { createWriteStream, existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { messageOf } from "@cache/contracts";
import yauzl from "yauzl";
import { loadNixl } from "../../src/library.ts";

const run = promisify(execFile);
const PACKAGE = "nixl-cu12";
const VERSION = "1.5.1";
const HINT = "pip install nixl, or name libnixl_capi.so in CACHE_NIXL_LIBRARY";
const FETCH_TIMEOUT_MS = 55_000;

function works(place: string): string | null {
  try {
    return loadNixl(place).path;
  } catch {
    return null;
  }
}

/** What of the wheel is needed: the library, what it links to, and the plugins. */
const WANTED = /^(\.nixl_cu12\.mesonpy\.libs|nixl_cu12\.libs)\//;

async function unpack(wheel: string, into: string): Promise<void> {
  const zip = await yauzl.openPromise(wheel);
  try {
    for await (const entry of zip.eachEntry()) {
      if (!WANTED.test(entry.fileName) || entry.fileName.endsWith("/") || entry.fileName.includes(".."))
        continue;
      const path = join(into, entry.fileName);
      await mkdir(dirname(path), { recursive: true });
      await pipeline(await zip.openReadStreamPromise(entry), createWriteStream(path));
    }
  } finally {
    zip.close();
  }
}

/** With pip, which knows the machine's index. */
async function byPip(work: string): Promise<string> {
  const words = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", work];
  await run("python3", [...words, `${PACKAGE}==${VERSION}`], { timeout: FETCH_TIMEOUT_MS });
  const [name] = (await readdir(work)).filter((file) => file.endsWith(".whl"));
  if (name === undefined) throw new Error("pip downloaded no wheel");
  return join(work, name);
}

/** From the index itself, without Python; the digest that the index tells must be right. */
async function byIndex(work: string): Promise<string> {
  const index = (process.env["PIP_INDEX_URL"] ?? "https://pypi.org/simple").replace(/\/$/, "");
  const page = `${index}/${PACKAGE}/`;
  const signal = AbortSignal.timeout(FETCH_TIMEOUT_MS);
  const answer = await fetch(page, { headers: { accept: "text/html" }, signal });
  if (!answer.ok) throw new Error(`the index answered ${answer.status}`);
  const machine = process.arch === "arm64" ? "aarch64" : "x86_64";
  const links = [...(await answer.text()).matchAll(/href="([^"#]+)#sha256=([0-9a-f]{64})"/g)];
  const link = links.find(([, url = ""]) => {
    const name = decodeURIComponent(url.split("/").at(-1) ?? "");
    return name.startsWith(`nixl_cu12-${VERSION}-cp3`) && name.endsWith(`_${machine}.whl`);
  });
  if (link?.[1] === undefined) throw new Error(`the index has no wheel ${VERSION} for ${machine}`);
  const wheel = await fetch(new URL(link[1].replaceAll("&amp;", "&"), page), { signal });
  const bytes = Buffer.from(await wheel.arrayBuffer());
  if (createHash("sha256").update(bytes).digest("hex") !== link[2])
    throw new Error("the wheel's digest is wrong");
  const path = join(work, "nixl.whl");
  await writeFile(path, bytes);
  return path;
}

/** The wheel's library, unpacked into a cache folder of ours. Installs nothing. */
async function fetchLibrary(): Promise<string> {
  const cache = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "cache-l2-nixl-tests");
  const root = join(cache, `${PACKAGE}-${VERSION}`);
  if (existsSync(root)) return root;
  await mkdir(cache, { recursive: true });
  const work = await mkdtemp(join(cache, "unpack-"));
  try {
    const wheel = await byPip(work).catch(() => byIndex(work));
    const unpacked = join(work, "root");
    await unpack(wheel, unpacked);
    // Another test file may have been first.
    await rename(unpacked, root).catch(() => undefined);
    return root;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Why the wheel cannot work on this machine; null if it may. */
async function obstacle(): Promise<string | null> {
  if (process.platform !== "linux") return `there is no wheel for ${process.platform}`;
  const maps = await readFile("/proc/self/maps", "utf8").catch(() => "");
  return /\/ld-musl|libc\.musl/.test(maps) ? "the wheel needs glibc" : null;
}

let finding: Promise<string | null> | null = null;

/**
 * The path of the library: as the environment says, of an installed wheel, or of one that is fetched; null, and a line
 * that says why, if there is none.
 */
export function findNixl(): Promise<string | null> {
  finding ??= (async () => {
    let reason = await obstacle();
    if (reason === null) {
      try {
        const path = works("") ?? works(await fetchLibrary());
        if (path !== null) return path;
        reason = "the fetched library does not load";
      } catch (error) {
        reason = messageOf(error).split("\n", 1)[0] ?? "";
      }
    }
    process.stdout.write(`  skipped: there is no NIXL (${reason}); ${HINT}\n`);
    return null;
  })();
  return finding;
}

// Packs every public package with the pinned pnpm, and reads what is in the tarballs.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { packageFolders, ROOT } from "../dev/lib.mjs";

/** Bytes of one block of a tar file. */
const BLOCK = 512;

/** The pnpm that the repository pins, as `npx` takes it. */
export function pinnedPnpm(root = ROOT) {
  return JSON.parse(readFileSync(join(root, "package.json"), "utf8")).packageManager;
}

/** The packages that are published: name, version, folder below the root, manifest as it stands in the repository. */
export function publicPackages(root = ROOT) {
  return packageFolders()
    .map((folder) => ({
      folder,
      source: JSON.parse(readFileSync(join(root, folder, "package.json"), "utf8")),
    }))
    .filter(({ source }) => source.private !== true)
    .map(({ folder, source }) => ({ name: source.name, version: source.version, folder, source }));
}

/**
 * Packs every public package into a directory. Each result has the tarball's path, its bytes (`size`), its files and
 * its manifest as it is published. `dist` is packed as it is: build first.
 */
export function packAll(directory) {
  const packages = publicPackages();
  const filters = packages.flatMap(({ folder }) => ["--filter", `./${folder}`]);
  const args = ["-y", pinnedPnpm(), "-r", ...filters, "pack", "--pack-destination", directory];
  const done = spawnSync("npx", args, { cwd: ROOT, encoding: "utf8", maxBuffer: 2 ** 26 });
  if (done.status !== 0) {
    throw new Error(
      `pnpm pack failed: ${done.error?.message ?? `${done.stdout}${done.stderr}`.slice(-2000)}`,
    );
  }
  return packages.map((found) => {
    const tarball = join(directory, tarballName(found.name, found.version));
    const bytes = readFileSync(tarball);
    const files = readTarball(bytes);
    return {
      ...found,
      tarball,
      size: bytes.length,
      files,
      manifest: JSON.parse(files.get("package.json").text()),
    };
  });
}

/** What npm and pnpm call a package's tarball. */
export function tarballName(name, version) {
  return `${name.replace("@", "").replace("/", "-")}-${version}.tgz`;
}

/** The regular files of a package's tarball by their path in the package, each with `mode` and `text()`. */
export function readTarball(bytes) {
  const tar = gunzipSync(bytes);
  const files = new Map();
  let longName = null;
  for (let at = 0; at + BLOCK <= tar.length && tar[at] !== 0; ) {
    const text = (from, length) => tar.toString("utf8", at + from, at + from + length).replace(/\0.*$/s, "");
    const size = Number.parseInt(text(124, 12), 8);
    const type = text(156, 1);
    const body = tar.subarray(at + BLOCK, at + BLOCK + size);
    const prefix = text(345, 155);
    const name = longName ?? (prefix === "" ? text(0, 100) : `${prefix}/${text(0, 100)}`);
    longName = type === "x" ? (/^\d+ path=(.*)$/m.exec(body.toString("utf8"))?.[1] ?? null) : null;
    if (type === "0" || type === "") {
      const mode = Number.parseInt(text(100, 8), 8);
      files.set(name.replace(/^package\//, ""), { mode, size, text: () => body.toString("utf8") });
    }
    at += BLOCK * (1 + Math.ceil(size / BLOCK));
  }
  return files;
}

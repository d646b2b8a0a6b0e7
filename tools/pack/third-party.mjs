// Somebody else's adapter: our fs adapter under another name and type, with copies of zod and the contract in its own
// tarball, as an author gets it who bundles what should be a peer.
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { ROOT } from "../dev/lib.mjs";
import { tarballName } from "./pack.mjs";

export const THIRD_PARTY = { name: "cache-l2-bundled", type: "bundled" };

/** Makes {@link THIRD_PARTY} with its copies in the place's folder and packs it with npm there. Returns its path. */
export async function packThirdParty(place, packed) {
  const { name, type } = THIRD_PARTY;
  const fs = packed.find((found) => found.name === "@cache/l2-fs");
  const folder = join(place.directory, name);
  unpack(fs, folder, (path) => path === "LICENSE" || /^dist\/.*\.js$/.test(path));
  const index = join(folder, "dist", "index.js");
  const text = readFileSync(index, "utf8");
  const own = text.replace('"@cache/l2-fs"', `"${name}"`).replace('["fs"]', `["${type}"]`);
  if (!own.includes(`"${name}"`) || !own.includes(`["${type}"]`)) {
    throw new Error("the fs adapter registers itself in other words now: see packThirdParty");
  }
  writeFileSync(index, own);
  const { cacheL2, dependencies, optionalDependencies, peerDependencies, version } = fs.manifest;
  const manifest = {
    name,
    version: "1.2.3",
    type: "module",
    license: "Apache-2.0",
    exports: { ".": "./dist/index.js", "./package.json": "./package.json" },
    files: ["dist"],
    cacheL2: { ...cacheL2, types: [type] },
    dependencies: { ...dependencies, ...peerDependencies, "@cache/contracts": version },
    optionalDependencies,
    bundleDependencies: Object.keys(peerDependencies),
  };
  writeFileSync(join(folder, "package.json"), JSON.stringify(manifest, null, 2));
  addCopies(folder, packed, fs);
  const done = await place.run("npm", [
    "pack",
    "--ignore-scripts",
    "--pack-destination",
    place.directory,
    folder,
  ]);
  if (done.code !== 0) throw new Error(`npm pack of ${name} failed: ${done.stderr}`);
  return join(place.directory, tarballName(name, manifest.version));
}

function addCopies(folder, packed, fs) {
  const contracts = packed.find((found) => found.name === "@cache/contracts");
  unpack(contracts, join(folder, "node_modules", "@cache", "contracts"), () => true);
  const zod = dirname(createRequire(join(ROOT, fs.folder, "package.json")).resolve("zod/package.json"));
  cpSync(zod, join(folder, "node_modules", "zod"), { recursive: true, dereference: true });
}

function unpack({ files }, folder, wanted) {
  for (const [path, file] of files) {
    if (!wanted(path)) continue;
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), file.text());
  }
}

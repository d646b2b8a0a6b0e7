// What a packed package may hold, and what its manifest must say.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { ROOT } from "../dev/lib.mjs";

const ALLOWED = [
  /^(package\.json|README\.md|LICENSE|CHANGELOG\.md)$/,
  /^bin\/[\w-]+\.js$/,
  /^src\/[\w/-]+\.ts$/,
  /^dist\/[\w/-]+\.(js|js\.map|d\.ts|d\.ts\.map)$/,
];
/** Of a package whose `files` has `template`: held equal to the repository's folder. */
const TEMPLATE = /^template\//;
const REQUIRED = ["package.json", "README.md", "LICENSE", "dist/index.js", "dist/index.d.ts"];
const DEPENDENCIES = ["dependencies", "optionalDependencies", "peerDependencies", "devDependencies"];
/** Versions that only mean something inside a workspace or on one machine. */
const LOCAL_VERSION = /^(workspace|catalog|link|file|portal):/;
const root = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
const licence = readFileSync(join(ROOT, "LICENSE"), "utf8");

/** Everything that is wrong with one packed package, in words; `all` are the packed packages. */
export function findings(packed, all) {
  return [...fileFindings(packed), ...manifestFindings(packed), ...dependencyFindings(packed, all)].map(
    (text) => `${packed.name}: ${text}`,
  );
}

function fileFindings({ files, folder, manifest }) {
  const wrong = [];
  const hasTemplate = manifest.files.includes("template");
  if (hasTemplate) wrong.push(...templateFindings(files, folder));
  for (const path of REQUIRED) if (!files.has(path)) wrong.push(`lacks ${path}`);
  if (existsSync(join(ROOT, folder, "CHANGELOG.md")) && !files.has("CHANGELOG.md")) {
    wrong.push("lacks CHANGELOG.md: name it in `files`");
  }
  for (const [path, file] of files) {
    const allowed = hasTemplate ? [...ALLOWED, TEMPLATE] : ALLOWED;
    if (!allowed.some((pattern) => pattern.test(path))) wrong.push(`holds ${path}`);
    const text = file.text();
    if (text.includes(ROOT)) wrong.push(`${path} names the folder in which it was built`);
    if (path.endsWith(".map")) wrong.push(...mapFindings(path, JSON.parse(text), files));
  }
  if (files.get("LICENSE")?.text() !== licence) wrong.push("LICENSE is not the repository's");
  return wrong;
}

/** Package managers leave some files out by their names alone: .gitignore, a nested package.json's exclusions. */
function templateFindings(files, folder) {
  const wrong = [];
  const there = new Set([...files.keys()].filter((path) => TEMPLATE.test(path)));
  const names = readdirSync(join(ROOT, folder, "template"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(join(ROOT, folder), join(entry.parentPath ?? entry.path, entry.name)));
  for (const path of names) {
    if (!there.delete(path)) wrong.push(`lacks ${path}`);
    else if (files.get(path).text() !== readFileSync(join(ROOT, folder, path), "utf8"))
      wrong.push(`${path} differs`);
  }
  return [...wrong, ...[...there].map((path) => `holds ${path}, which the repository lacks`)];
}

/** A source map leads to sources that are in the package. */
function mapFindings(path, map, files) {
  const sources = map.sources.map((source) => normalize(join(dirname(path), map.sourceRoot ?? "", source)));
  return sources.filter((source) => !files.has(source)).map((source) => `${path} leads to ${source}`);
}

/** Outputs whose source is gone: `tsc -b` leaves them. Not wrong in a working copy, wrong in a release. */
export function staleOutputs({ name, files }) {
  return [...files.keys()]
    .filter((path) => /^dist\/.*\.js$/.test(path))
    .filter((path) => !files.has(path.replace(/^dist/, "src").replace(/js$/, "ts")))
    .map((path) => `${name}: ${path} has no source any more: remove dist and build`);
}

function manifestFindings({ name, manifest, files }) {
  const wrong = [];
  const equal = (label, got, want) => {
    if (JSON.stringify(got) !== JSON.stringify(want)) {
      wrong.push(`${label} is ${JSON.stringify(got)}, not ${JSON.stringify(want)}`);
    }
  };
  equal("license", manifest.license, root.license);
  equal("type", manifest.type, "module");
  equal("engines", manifest.engines, root.engines);
  equal("publishConfig", manifest.publishConfig, { access: "public", provenance: true });
  equal("exports of package.json", manifest.exports["./package.json"], "./package.json");
  equal("conditions of exports", Object.keys(manifest.exports["."]), ["cache-source", "types", "default"]);
  if (!/^\S.{10,120}\.$/.test(manifest.description ?? "")) wrong.push("description is no sentence");
  if (manifest.sideEffects === undefined) wrong.push("sideEffects is not said");
  for (const entry of ["dist", "src", "CHANGELOG.md", "!dist/.tsbuildinfo"]) {
    if (!manifest.files.includes(entry)) wrong.push(`files lacks ${entry}`);
  }
  for (const script of ["preinstall", "install", "postinstall", "prepare"]) {
    if (manifest.scripts?.[script] !== undefined) wrong.push(`runs a script on ${script}`);
  }
  for (const target of targets(manifest.exports)) {
    if (!files.has(normalize(target))) wrong.push(`exports ${target}, which is not there`);
  }
  for (const target of Object.values(manifest.bin ?? {})) {
    const file = files.get(normalize(target));
    if (!file?.text().startsWith("#!/usr/bin/env node\n"))
      wrong.push(`bin ${target} is not there or no script`);
    else if ((file.mode & 0o111) === 0) wrong.push(`bin ${target} cannot be executed`);
  }
  if (name.startsWith("@cache/l2-") !== (manifest.cacheL2 !== undefined)) {
    wrong.push("an adapter, and nothing else, has the field cacheL2");
  }
  return wrong;
}

function targets(exports) {
  return typeof exports === "string" ? [exports] : Object.values(exports).flatMap(targets);
}

function dependencyFindings({ name, manifest }, all) {
  const wrong = [];
  const known = new Map(all.map((packed) => [packed.name, packed.version]));
  for (const field of DEPENDENCIES) {
    for (const [dependency, version] of Object.entries(manifest[field] ?? {})) {
      if (LOCAL_VERSION.test(version)) wrong.push(`${field} has ${dependency} ${version}`);
      if (dependency.startsWith("@cache/") && !known.has(dependency)) {
        wrong.push(`${field} has ${dependency}, which is not published`);
      }
    }
  }
  if (/^@cache\/(l2-|conformance$)/.test(name)) {
    // Two copies of the contract are survived, not wanted: the engine's is used.
    for (const peer of ["@cache/contracts", "zod"]) {
      if (manifest.peerDependencies?.[peer] === undefined) wrong.push(`${peer} is no peer dependency`);
      if (manifest.dependencies?.[peer] !== undefined) wrong.push(`${peer} is a dependency, not a peer`);
    }
  }
  return wrong;
}

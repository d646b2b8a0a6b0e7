import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

const folders = ["packages", "apps"].flatMap((group) =>
  readdirSync(join(ROOT, group)).map((name) => join(ROOT, group, name)),
);

function newestSource(directory: string): number {
  const entries = readdirSync(directory, { recursive: true, withFileTypes: true });
  const sources = entries.filter((entry) => entry.isFile() && entry.name.endsWith(".ts"));
  return Math.max(0, ...sources.map((entry) => statSync(join(entry.parentPath, entry.name)).mtimeMs));
}

// Worker threads and spawned engines run the build: a test against an old one proves nothing.
test("no dist is older than its sources", () => {
  const stale = folders.filter((folder) => {
    if (statSync(join(folder, "tsconfig.json"), { throwIfNoEntry: false }) === undefined) return false;
    const built = statSync(join(folder, "dist", ".tsbuildinfo"), { throwIfNoEntry: false })?.mtimeMs ?? 0;
    return newestSource(join(folder, "src")) > built;
  });
  expect(stale, "run `npm run build`").toEqual([]);
});

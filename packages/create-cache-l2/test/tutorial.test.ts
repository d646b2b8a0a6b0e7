import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { createPackage } from "../src/index.ts";
import { linkDependencies, loadTutorial, ROOT, sh, shortened } from "./workplace.ts";

const directory = mkdtempSync(join(tmpdir(), "cache-l2-tutorial-"));
const children: ReturnType<typeof spawn>[] = [];
afterAll(() => {
  for (const child of children) child.kill();
  rmSync(directory, { recursive: true, force: true });
});

async function expectGreen(target: string): Promise<void> {
  const { code, out } = await sh(target, "npm test");
  expect(code, shortened(out)).toBe(0);
  expect(out).toMatch(/l2AdapterSuite: \d+ laws held, \d skipped, 0 failed/);
  expect(out).toMatch(/^. fail 0$/m);
}

test("a new package is green at once", { timeout: 120_000 }, async () => {
  const { directory: target } = createPackage("@you/foo-bar", join(directory, "new", "cache-l2-foo-bar"));
  linkDependencies(target);
  await expectGreen(target);
});

/** The test server, as the tutorial starts it. */
async function startDepot(target: string): Promise<string> {
  const child = spawn(process.execPath, ["dist/test/depot-server.js"], {
    cwd: target,
    env: { ...process.env, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(child);
  return new Promise((resolve, reject) => {
    child.stdout.once("data", (text) => resolve(String(text).trim()));
    child.once("exit", (code) => reject(new Error(`the server of the tutorial ended with ${code}`)));
  });
}

test("the tutorial's code makes an adapter that passes, is found, and packs", {
  timeout: 120_000,
}, async () => {
  const { tutorialBlocks, followTutorial, reportTo } = await loadTutorial();
  for (const { language, file, text } of tutorialBlocks()) {
    if (file === null) expect(language, `a block that is neither a file nor commands: ${text}`).toBe("sh");
  }
  const { directory: target } = createPackage("depot", join(directory, "tutorial", "cache-l2-depot"));
  linkDependencies(target);
  expect(followTutorial(target)).toEqual(["npm test", "npm run report", "npm pack --dry-run"]);
  await expectGreen(target);

  const url = await startDepot(target);
  reportTo(target, url);
  const [report, listing, packed] = await Promise.all([
    // All laws have been tried above: here it counts that the command reaches the server.
    sh(target, `npm run report -- --law list.exact --law reopen.keeps --law shared.visible --no-benchmark`),
    sh(
      target,
      `${process.execPath} ${join(ROOT, "apps/engine/bin/cache-engine.js")} adapters --adapter-root ..`,
    ),
    // The list of files is a notice: printed also below `npm --silent test`.
    sh(target, "npm pack --dry-run --loglevel notice"),
  ]);
  expect(report.code, shortened(report.out)).toBe(0);
  expect(report.out).toContain("## Conformance: cache-l2-depot 0.1.0, type `depot`");
  expect(report.out).toMatch(/\*\*3 laws held, 0 skipped, 0 failed; /);
  expect(report.out).not.toContain("could not be emptied");
  const objects = await fetch(new URL("objects?prefix=", url));
  expect(await objects.text(), "objects that the report left behind").toBe("");
  expect(listing.code, shortened(listing.out)).toBe(0);
  expect(listing.out).toMatch(/cache-l2-depot/);
  expect(packed.code, shortened(packed.out)).toBe(0);
  const files = [...packed.out.matchAll(/notice\s+[\d.]+\s?k?B\s+(\S+)/g)].map(([, file]) => file);
  expect(files).toEqual(
    expect.arrayContaining(["LICENSE", "README.md", "dist/src/index.js", "src/store.ts", "package.json"]),
  );
  expect(files.filter((file) => file?.includes("test"))).toEqual([]);
});

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { l2AdapterSuite } from "../src/index.ts";
import { LAWS } from "../src/laws/index.ts";
import { createMapAdapter } from "./map-adapter.ts";

interface SuiteFile {
  readonly name: string;
  readonly seed: number;
  readonly laws: { readonly id: string; readonly outcome: string; readonly excuse?: string }[] | null;
}

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "cache-suite-record-"));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(directory, { recursive: true, force: true });
});

const files = (): SuiteFile[] =>
  readdirSync(directory).map((name) => JSON.parse(readFileSync(join(directory, name), "utf8")) as SuiteFile);

/** The suite's tests, not run yet. */
function declare(name?: string): (() => Promise<void>)[] {
  const tests: (() => Promise<void>)[] = [];
  l2AdapterSuite({
    test: (_, run) => tests.push(run),
    factory: async () => ({ create: () => createMapAdapter(), dispose: async () => {} }),
    seed: 7,
    lateWriteGraceMs: 1,
    report: () => {},
    ...(name !== undefined && { name }),
  });
  return tests;
}

test("a suite says at once that it is there, and what became of each law when it is over", async () => {
  vi.stubEnv("CACHE_CONFORMANCE_RESULTS", directory);
  const tests = declare("a map");
  expect(files()).toMatchObject([{ name: "a map", seed: 7, laws: null }]);
  for (const run of tests) await run().catch(() => undefined);
  const [file] = files();
  expect(file?.laws?.map(({ id }) => id)).toEqual(LAWS.map(({ id }) => id));
  const skipped = file?.laws?.filter(({ outcome }) => outcome === "skipped") ?? [];
  expect(skipped.length).toBeGreaterThan(0);
  for (const { excuse } of skipped) expect(excuse).toMatch(/^\w+: /);
});

test("a law that fails is in the file with its reason", async () => {
  vi.stubEnv("CACHE_CONFORMANCE_RESULTS", directory);
  const tests: (() => Promise<void>)[] = [];
  const broken = { ...createMapAdapter(), location: "" };
  l2AdapterSuite({
    test: (_, run) => tests.push(run),
    factory: async () => ({ create: () => broken, dispose: async () => {} }),
    lateWriteGraceMs: 1,
    lawDeadlineMs: 200,
    report: () => {},
  });
  await tests[LAWS.findIndex(({ id }) => id === "location.constant")]?.().catch(() => undefined);
  await tests
    .at(-1)?.()
    .catch(() => undefined);
  expect(files()).toMatchObject([
    { name: "unnamed", laws: [{ id: "location.constant", outcome: "failed", message: expect.any(String) }] },
  ]);
});

test("no file is written where nobody asked for one", async () => {
  vi.stubEnv("CACHE_CONFORMANCE_RESULTS", "");
  for (const run of declare()) await run().catch(() => undefined);
  expect(files()).toEqual([]);
});

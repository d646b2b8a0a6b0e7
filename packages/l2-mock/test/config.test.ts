import { readFileSync } from "node:fs";
import { renderOptionsTable } from "@cache/conformance";
import { getRegisteredL2Adapter } from "@cache/contracts";
import { expect, test } from "vitest";
import { mockConfigSchema } from "../src/index.ts";

const least = { max_size_gb: 1, mock_bandwidth_gb: 2 };

test("LMCache's two keys are enough; ours default to no latency and no failures", () => {
  expect(mockConfigSchema.parse(least)).toEqual({
    ...least,
    latency_ms: 0,
    store_failure_rate: 0,
    load_failure_rate: 0,
    lookup_failure_rate: 0,
  });
});

test.each([
  {},
  { max_size_gb: 1 },
  { mock_bandwidth_gb: 1 },
  { ...least, max_size_gb: 0 },
  { ...least, max_size_gb: -1 },
  { ...least, max_size_gb: "1" },
  { ...least, mock_bandwidth_gb: 0 },
  { ...least, mock_bandwidth_gb: Number.POSITIVE_INFINITY },
  { ...least, latency_ms: -1 },
  { ...least, store_failure_rate: 1.1 },
  { ...least, load_failure_rate: -0.1 },
  { ...least, lookup_failure_rate: Number.NaN },
  { ...least, max_size: 1 },
])("%j is refused", (config) => {
  expect(mockConfigSchema.safeParse(config).success).toBe(false);
});

test("the package registers its type, as its manifest claims", () => {
  const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
    name: string;
    cacheL2: { types: string[]; apiVersion: number };
  };
  for (const type of manifest.cacheL2.types) {
    expect(getRegisteredL2Adapter(type)).toMatchObject({
      packageName: manifest.name,
      apiVersion: manifest.cacheL2.apiVersion,
      types: manifest.cacheL2.types,
    });
  }
});

test("the README's options table is the schema's, and the page stays short", () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  expect(readme).toContain(renderOptionsTable(mockConfigSchema));
  expect(readme.split("\n").length).toBeLessThanOrEqual(80);
});

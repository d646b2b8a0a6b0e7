import { readFileSync } from "node:fs";
import { configCases, renderOptionsTable } from "@cache/conformance";
import { getRegisteredL2Adapter } from "@cache/contracts";
import { describe, expect, test } from "vitest";
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

const RATE = /must be a share of .*, 0 to 1/;

describe("an invalid configuration", () => {
  configCases({
    test,
    schema: mockConfigSchema,
    valid: least,
    invalid: [
      [{}, "max_size_gb", /must be a number of GiB above 0/],
      [{ max_size_gb: 1 }, "mock_bandwidth_gb", /must be a number of GiB per second above 0/],
      [{ mock_bandwidth_gb: 1 }, "max_size_gb", /must be a number of GiB above 0/],
      [{ ...least, max_size_gb: 0 }, "max_size_gb", /above 0/],
      [{ ...least, max_size_gb: -1 }, "max_size_gb", /above 0/],
      [{ ...least, max_size_gb: "1" }, "max_size_gb", /must be a number of GiB/],
      [{ ...least, mock_bandwidth_gb: 0 }, "mock_bandwidth_gb", /above 0/],
      [{ ...least, mock_bandwidth_gb: Number.POSITIVE_INFINITY }, "mock_bandwidth_gb", /must be a number/],
      [{ ...least, latency_ms: -1 }, "latency_ms", /milliseconds, 0 to 3600000/],
      [{ ...least, latency_ms: 1e9 }, "latency_ms", /milliseconds, 0 to 3600000/],
      [{ ...least, store_failure_rate: 1.1 }, "store_failure_rate", RATE],
      [{ ...least, load_failure_rate: -0.1 }, "load_failure_rate", RATE],
      [{ ...least, lookup_failure_rate: Number.NaN }, "lookup_failure_rate", RATE],
    ],
  });
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

import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { renderOptionsTable } from "@cache/conformance";
import { getRegisteredL2Adapter } from "@cache/contracts";
import { __camel__ConfigSchema } from "../src/index.ts";

test("defaults", () => {
  assert.deepEqual(__camel__ConfigSchema.parse({}), { max_capacity_gb: 0 });
});

test("unknown keys and values out of range are refused", () => {
  assert.throws(() => __camel__ConfigSchema.parse({ max_capacity: 1 }), /max_capacity/);
  assert.throws(() => __camel__ConfigSchema.parse({ max_capacity_gb: -1 }), /max_capacity_gb/);
});

test("the type is registered under this package's name", () => {
  const packageJson = new URL("../../package.json", import.meta.url);
  const { name, cacheL2 } = JSON.parse(readFileSync(packageJson, "utf8"));
  const registration = getRegisteredL2Adapter("__type__");
  assert.equal(registration?.packageName, name);
  assert.deepEqual(registration?.types, cacheL2.types);
});

test("README has the table of options that the schema gives", () => {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const table = renderOptionsTable(__camel__ConfigSchema);
  assert.ok(readme.includes(table), `README.md must hold this table:\n\n${table}`);
});

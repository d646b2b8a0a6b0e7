import { readFileSync } from "node:fs";
import { expect, test, vi } from "vitest";
import { CACHE_ERROR_CODES, CacheError, hasCode, isCacheError, messageOf } from "../src/index.ts";

test("docs/reference/errors.md and the code list the same codes, in both directions", () => {
  const page = readFileSync(new URL("../../../docs/reference/errors.md", import.meta.url), "utf8");
  const rows = page.split("\n").filter((line) => line.startsWith("| `"));
  const documented = rows.map((row) => /^\| `([A-Z_]+)` \| [^|]+ \| [^|]+ \|$/.exec(row)?.[1] ?? row);
  expect(documented.filter((code) => !(CACHE_ERROR_CODES as readonly string[]).includes(code))).toEqual([]);
  expect(CACHE_ERROR_CODES.filter((code) => !documented.includes(code))).toEqual([]);
  expect(new Set(documented).size).toBe(documented.length);
  expect(new Set(CACHE_ERROR_CODES).size).toBe(CACHE_ERROR_CODES.length);
});

test("code, cause and details are kept", () => {
  const cause = new Error("below");
  const error = new CacheError("BACKEND_FULL", "no room", { cause, details: { bytes: 1 } });
  expect(error).toMatchObject({
    name: "CacheError",
    code: "BACKEND_FULL",
    message: "no room",
    details: { bytes: 1 },
  });
  expect(error.cause).toBe(cause);
  expect("cause" in new CacheError("ABORTED", "x")).toBe(false);
  expect(error).toBeInstanceOf(Error);
});

test("errors of another copy of the package are recognised", async () => {
  vi.resetModules();
  const copy = await import("../src/index.ts");
  const foreign = new copy.CacheError("ABORTED", "from another copy");
  expect(copy.CacheError).not.toBe(CacheError);
  expect(foreign).not.toBeInstanceOf(CacheError);
  expect(isCacheError(foreign)).toBe(true);
  expect(hasCode(foreign, "ABORTED")).toBe(true);
  expect(hasCode(foreign, "BACKEND_FULL")).toBe(false);
  expect(copy.isCacheError(new CacheError("ABORTED", "ours"))).toBe(true);
});

test.each([undefined, null, "ABORTED", 1, {}, new Error("x"), { code: "ABORTED" }])(
  "%s is no CacheError",
  (value) => {
    expect(isCacheError(value)).toBe(false);
    expect(hasCode(value, "ABORTED")).toBe(false);
  },
);

test("whatever was thrown has a message", () => {
  expect(messageOf(new CacheError("ABORTED", "late"))).toBe("late");
  expect(messageOf("text")).toBe("text");
  expect(messageOf(undefined)).toBe("undefined");
});

import { beforeEach, expect, test, vi } from "vitest";
import { z } from "zod";
import {
  getRegisteredL2Adapter,
  type L1MemoryDesc,
  type L2Adapter,
  type L2AdapterRegistration,
  L2_API_VERSION,
  listRegisteredL2Adapters,
  registerL2Adapter,
} from "../src/index.ts";

const GLOBAL = Symbol.for(`@cache/contracts/l2-registry@${L2_API_VERSION}`);
const l1: L1MemoryDesc = { ptr: null, size: 0, alignBytes: 4096, views: [] };
const schema = z.strictObject({ size: z.number().default(7) });

function registration(
  types: readonly string[],
  packageName = "cache-l2-a",
): L2AdapterRegistration<typeof schema> {
  return {
    types,
    apiVersion: L2_API_VERSION,
    packageName,
    configSchema: schema,
    create: ({ size }) => ({ location: `size ${size}` }) as L2Adapter,
  };
}

beforeEach(() => {
  Reflect.deleteProperty(globalThis, GLOBAL);
});

test("a registration serves all its types, and parses the configuration", () => {
  registerL2Adapter(registration(["b", "a"]));
  expect(listRegisteredL2Adapters().map((one) => one.type)).toEqual(["a", "b"]);
  const found = getRegisteredL2Adapter("a");
  expect(found).toMatchObject({ type: "a", types: ["b", "a"], packageName: "cache-l2-a" });
  expect(found?.create({}, l1).location).toBe("size 7");
  expect(() => found?.create({ sise: 1 }, l1)).toThrow(z.ZodError);
  expect(getRegisteredL2Adapter("c")).toBeUndefined();
});

test("notes about a configuration come from what the schema made of it; none by default", () => {
  const configNotes = ({ size }: { size: number }) => [`size ${size} has no effect`];
  registerL2Adapter({ ...registration(["a"]), configNotes });
  registerL2Adapter(registration(["b"]));
  expect(getRegisteredL2Adapter("a")?.configNotes?.({})).toEqual(["size 7 has no effect"]);
  expect(getRegisteredL2Adapter("b")?.configNotes?.({})).toEqual([]);
});

test("a type that is taken is refused, names both packages, and registers nothing of the second", () => {
  registerL2Adapter(registration(["a"]));
  expect(() => registerL2Adapter(registration(["z", "a"], "cache-l2-other"))).toThrow(
    expect.objectContaining({
      code: "ADAPTER_TYPE_CONFLICT",
      message: expect.stringMatching(/cache-l2-a.*cache-l2-other/) as string,
    }),
  );
  expect(listRegisteredL2Adapters().map((one) => one.type)).toEqual(["a"]);
});

test("a type twice in one registration is refused and registers nothing", () => {
  expect(() => registerL2Adapter(registration(["a", "a"]))).toThrow(
    expect.objectContaining({ code: "INVALID_ARGUMENT" }),
  );
  expect(listRegisteredL2Adapters()).toEqual([]);
});

test("another API version is refused", () => {
  const other = { ...registration(["a"]), apiVersion: L2_API_VERSION + 1 };
  expect(() => registerL2Adapter(other)).toThrow(
    expect.objectContaining({ code: "ADAPTER_API_INCOMPATIBLE" }),
  );
});

test.each([[[]], [[""]], [["Fs"]], [["fs.1"]], [["-fs"]], [["f s"]], [["fs\n"]], [["ok", "../x"]]])(
  "types %j are refused",
  (types) => {
    expect(() => registerL2Adapter(registration(types))).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT" }),
    );
    expect(listRegisteredL2Adapters()).toEqual([]);
  },
);

test("a second copy of this package lands in the same registry", async () => {
  registerL2Adapter(registration(["first"]));
  vi.resetModules();
  const copy = await import("../src/index.ts");
  expect(copy.registerL2Adapter).not.toBe(registerL2Adapter);
  copy.registerL2Adapter(registration(["second"], "cache-l2-dup"));
  expect(listRegisteredL2Adapters().map((one) => one.type)).toEqual(["first", "second"]);
  expect(copy.listRegisteredL2Adapters().map((one) => one.type)).toEqual(["first", "second"]);
  expect(() => registerL2Adapter(registration(["second"]))).toThrow(/cache-l2-dup/);
});

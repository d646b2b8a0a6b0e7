import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { configCases, type InvalidConfig, renderOptionsTable } from "@cache/conformance";
import { getRegisteredL2Adapter } from "@cache/contracts";
import { describe, expect, test } from "vitest";
import { dynamicConfigSchema, permissionBits, staticConfigSchema } from "../src/config.ts";
import { createDynamicAdapter } from "../src/dynamic-adapter.ts";
import { createStaticAdapter } from "../src/static-adapter.ts";
import "../src/index.ts";
import { mappedL1, noL1, openContext, temporaryDirectory } from "./support/fixtures.ts";

const posix = { file_path: "/x", use_direct_io: "false" };
const goodStatic = { backend: "POSIX", backend_params: posix, pool_size: 4 };
const goodDynamic = { backend: "POSIX", backend_params: { ...posix, max_capacity_gb: "2" } };

describe("configuration", () => {
  test("defaults", () => {
    expect(staticConfigSchema.parse(goodStatic)).toEqual({
      ...goodStatic,
      object_size: null,
      pool_name: "obj",
      fsync: "none",
      request_timeout: 30,
      file_mode: "0600",
      directory_mode: "0700",
      library: "",
    });
    expect(dynamicConfigSchema.parse(goodDynamic)).toEqual({
      ...goodDynamic,
      fsync: "none",
      request_timeout: 30,
      scan_interval_seconds: 3600,
      file_mode: "0600",
      directory_mode: "0700",
      library: "",
    });
  });

  test("LMCache's own keys are taken as they are, and passed on as text", () => {
    const backend_params = { ...posix, use_direct_io: true, file_size: 65536, use_uring: "true", own: 7 };
    expect(staticConfigSchema.parse({ ...goodStatic, backend_params }).backend_params).toEqual({
      file_path: "/x",
      use_direct_io: "true",
      file_size: "65536",
      use_uring: "true",
      own: "7",
    });
    for (const backend of ["GDS", "GDS_MT", "HF3FS", "IBM_SCALE"]) {
      expect(staticConfigSchema.parse({ ...goodStatic, backend }).backend).toBe(backend);
      expect(dynamicConfigSchema.parse({ ...goodDynamic, backend }).backend).toBe(backend);
    }
    for (const backend of ["OBJ", "AZURE_BLOB"]) {
      expect(staticConfigSchema.parse({ backend, pool_size: 1 }).backend_params).toEqual({});
    }
  });

  const both: [Record<string, unknown>, RegExp][] = [
    [{ backend: undefined }, /backend is missing: it must be one of POSIX/],
    [{ backend: "NFS" }, /backend "NFS" must be one of POSIX, GDS, GDS_MT, HF3FS, IBM_SCALE/],
    [{ backend_params: "x" }, /backend_params must be an object of names and values/],
    [{ backend_params: { ...posix, file_path: "" } }, /file_path in backend_params is required for POSIX/],
    [{ backend_params: { use_direct_io: "true" } }, /file_path in backend_params is required for POSIX/],
    [{ backend_params: { ...posix, file_path: "~/kv" } }, /file_path .*begins with '~'.*home directory out/],
    [{ backend_params: { ...posix, file_path: "/proc/kv" } }, /file_path .* in \/proc or \/sys.*on a disk/],
    [{ backend_params: { ...posix, file_path: "a\0b" } }, /backend_params contains NUL: remove it/],
    [{ backend_params: { file_path: "/x" } }, /use_direct_io in backend_params must be "true" or "false"/],
    [{ backend_params: { ...posix, use_direct_io: "yes" } }, /use_direct_io .* must be "true" or "false"/],
    [{ library: 7 }, /library must be a string: the path of libnixl_capi\.so/],
    [{ library: "~/nixl" }, /library begins with '~'.*write the home directory out/],
    [{ library: "a\0b" }, /library contains NUL: remove it/],
    [{ request_timeout: 0 }, /request_timeout must be a number of seconds above 0/],
    [{ request_timeout: 3601 }, /request_timeout must be a number of seconds above 0, at most 3600/],
    [{ request_timeout: "5" }, /request_timeout must be a number of seconds/],
    [{ file_mode: "rw" }, /file_mode is "rw": write three octal digits/],
    [{ file_mode: "0700" }, /file_mode is "0700": .*let the owner read and write, not execute/],
    [{ file_mode: true }, /file_mode must be three octal digits/],
    [{ directory_mode: "0600" }, /directory_mode is "0600": .*let the owner read, write and enter/],
    [{ fsync: "always" }, /fsync must be none/],
  ];
  const ofStatic: [Record<string, unknown>, RegExp][] = [
    [{ pool_size: undefined }, /pool_size must be a whole number above 0/],
    [{ pool_size: 0 }, /pool_size must be a whole number above 0/],
    [{ pool_size: 1.5 }, /pool_size must be a whole number above 0/],
    [{ pool_size: 2 ** 25 }, /pool_size must be at most 16777216/],
    [{ pool_name: "a/b" }, /pool_name "a\/b" must begin with a letter or digit/],
    [{ pool_name: 3 }, /pool_name must be a word/],
    [{ object_size: 4096 }, /object_size is for OBJ and AZURE_BLOB: for POSIX set file_size/],
    [{ backend: "OBJ", object_size: 0 }, /object_size must be a whole number of bytes above 0/],
    [{ backend: "OBJ", object_size: 2 ** 33 }, /object_size must be at most 4294967296/],
    [{ backend_params: { ...posix, file_size: "1k" } }, /file_size "1k" in backend_params must be a whole/],
    [{ fsync: "full" }, /fsync must be none or data/],
  ];
  const ofDynamic: [Record<string, unknown>, RegExp][] = [
    [{ backend: "OBJ" }, /backend "OBJ" must be one of .*for object stores use the type nixl_store/],
    [{ backend_params: posix }, /max_capacity_gb in backend_params must be a number of GiB above 0/],
    [{ backend_params: { ...posix, max_capacity_gb: "0" } }, /max_capacity_gb .* must be a number of GiB/],
    [
      { backend_params: { ...goodDynamic.backend_params, shard_dirs: "2" } },
      /shard_dirs .* "true" or "false"/,
    ],
    [{ scan_interval_seconds: 0 }, /scan_interval_seconds must be a number of seconds, 1 or more/],
    [{ scan_interval_seconds: 1e7 }, /scan_interval_seconds must be at most 1000000/],
  ];

  /** Whole configurations; the complaint is about the key that was changed last. */
  const casesOf = (base: object, changes: readonly [Record<string, unknown>, RegExp][]): InvalidConfig[] =>
    changes.map(([change, message]) => [{ ...base, ...change }, Object.keys(change).at(-1) ?? "", message]);

  describe("nixl_store", () => {
    const invalid = casesOf(goodStatic, [...both, ...ofStatic]);
    configCases({ test, schema: staticConfigSchema, valid: goodStatic, invalid });
  });
  describe("nixl_store_dynamic", () => {
    const withCapacity = both.map(([change, message]): [Record<string, unknown>, RegExp] => {
      const params = change["backend_params"];
      if (typeof params !== "object") return [change, message];
      return [{ ...change, backend_params: { max_capacity_gb: "2", ...params } }, message];
    });
    const invalid = casesOf(goodDynamic, [...withCapacity, ...ofDynamic]);
    configCases({ test, schema: dynamicConfigSchema, valid: goodDynamic, invalid });
  });

  test("a file_size that does not fit the L1 alignment is refused with the next that does", () => {
    const config = staticConfigSchema.parse({ ...goodStatic, backend_params: { ...posix, file_size: 5000 } });
    expect(() => createStaticAdapter(config, noL1)).toThrow(/file_size 5000 .* round it up to 8192/);
    const large = { ...goodStatic, pool_size: 2 ** 24, backend_params: { ...posix, file_size: 2 ** 21 } };
    expect(() => createStaticAdapter(staticConfigSchema.parse(large), noL1)).toThrow(/more than 2\^32 pages/);
  });

  test("permissions are octal digits, as text or number", () => {
    for (const value of ["0640", "640", 640]) expect(permissionBits(value)).toBe(0o640);
  });

  test("the types are registered, and making an adapter touches nothing and needs nothing", async () => {
    const file_path = join(await temporaryDirectory(), "never made");
    const params = { file_path, use_direct_io: "false", file_size: 8192 };
    const pool = getRegisteredL2Adapter("nixl_store")?.create(
      { ...goodStatic, backend_params: params },
      noL1,
    );
    expect(pool?.location).toBe(`${file_path}#obj`);
    expect(pool?.usage().capacityBytes).toBe(4 * 8192);
    expect(pool?.capabilities).toMatchObject({
      persistent: true,
      shared: false,
      needsStateDir: true,
      l1Registration: "required",
      writesOnlyFromEngineProcess: true,
    });
    const made = getRegisteredL2Adapter("nixl_store_dynamic")?.create(
      { ...goodDynamic, backend_params: { ...params, max_capacity_gb: 2, use_uring: true } },
      noL1,
    );
    expect(made?.location).toBe(file_path);
    expect(made?.usage().capacityBytes).toBe(2 * 1024 ** 3);
    expect(made?.capabilities).toMatchObject({ shared: true, writesOnlyFromEngineProcess: false });
    expect(existsSync(file_path)).toBe(false);
  });

  test("an unmapped L1, a missing state directory, a missing library: what to do about it", async () => {
    const library = await temporaryDirectory();
    const unmapped = createDynamicAdapter(dynamicConfigSchema.parse(goodDynamic), noL1);
    await expect(unmapped.open(openContext())).rejects.toMatchObject({ code: "UNSUPPORTED" });
    const stateless = createStaticAdapter(staticConfigSchema.parse(goodStatic), mappedL1());
    await expect(stateless.open(openContext())).rejects.toThrow(/slot map in a state directory: give one/);
    const config = dynamicConfigSchema.parse({ ...goodDynamic, library });
    const lost = createDynamicAdapter(config, mappedL1());
    await expect(lost.open(openContext())).rejects.toThrow(
      /library .* holds no libnixl_capi\.so; install NIXL/,
    );
  });

  test("locations tell the place and no secret", () => {
    const backend_params = {
      bucket: "kv",
      endpoint_override: "https://user:pw@s3.example:9000",
      secret_key: "hidden",
    };
    const config = staticConfigSchema.parse({ backend: "OBJ", pool_size: 1, backend_params });
    expect(createStaticAdapter(config, noL1).location).toBe("obj://s3.example:9000/kv#obj");
  });

  test("README holds the options as the schemas have them", () => {
    const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
    expect(readme).toContain(renderOptionsTable(staticConfigSchema));
    expect(readme).toContain(renderOptionsTable(dynamicConfigSchema));
    expect(readme.split("\n").length).toBeLessThanOrEqual(120);
  });
});

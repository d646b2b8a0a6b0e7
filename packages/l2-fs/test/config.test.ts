import { readFileSync } from "node:fs";
import { chmod, mkdir, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { configCases, renderOptionsTable } from "@cache/conformance";
import { getRegisteredL2Adapter } from "@cache/contracts";
import { describe, expect, test } from "vitest";
import { createFsAdapter } from "../src/adapter.ts";
import { fsConfigSchema, permissionBits } from "../src/config.ts";
import "../src/index.ts";
import {
  key,
  type LogLine,
  noL1,
  openContext,
  openFs,
  pattern,
  storeOne,
  temporaryDirectory,
} from "./fixtures.ts";

describe("configuration", () => {
  test("defaults", () => {
    expect(fsConfigSchema.parse({ base_path: "/x" })).toEqual({
      base_path: "/x",
      relative_tmp_dir: null,
      read_ahead_size: null,
      use_odirect: false,
      num_workers: null,
      max_capacity_gb: 0,
      fsync: "none",
      file_mode: "0600",
      directory_mode: "0700",
      scan_interval_seconds: 3600,
      scan_files_per_second: 5000,
    });
  });

  test("LMCache's own keys are taken as they are", () => {
    const lmcache = { base_path: "/x", relative_tmp_dir: "tmp", read_ahead_size: 4096, use_odirect: true };
    expect(fsConfigSchema.parse(lmcache)).toMatchObject(lmcache);
  });

  const invalid: [Record<string, unknown>, RegExp][] = [
    [{ base_path: undefined }, /base_path is required: name the directory/],
    [{ base_path: "" }, /base_path is empty: name the directory/],
    [{ base_path: "a\0b" }, /base_path contains NUL: remove it/],
    [{ base_path: "~/cache" }, /base_path begins with '~'.*write the home directory out/],
    [{ base_path: "/proc/kv" }, /base_path lies in \/proc or \/sys.*name a directory/],
    [{ relative_tmp_dir: "../x" }, /relative_tmp_dir "\.\.\/x" must lie below base_path/],
    [{ relative_tmp_dir: "a/../../x" }, /relative_tmp_dir .* must lie below base_path/],
    [{ relative_tmp_dir: "/abs" }, /relative_tmp_dir "\/abs" must lie below base_path: a relative path/],
    [{ relative_tmp_dir: "." }, /must lie below base_path/],
    [{ relative_tmp_dir: "" }, /must lie below base_path/],
    [{ relative_tmp_dir: "a\0" }, /must lie below base_path/],
    [{ relative_tmp_dir: ".quarantine/x" }, /relative_tmp_dir is '\.quarantine'.*choose another name/],
    [{ relative_tmp_dir: 7 }, /relative_tmp_dir must be a string/],
    [{ read_ahead_size: 0 }, /read_ahead_size must be a whole number of bytes above 0/],
    [{ read_ahead_size: 1.5 }, /read_ahead_size must be a whole number of bytes above 0/],
    [{ read_ahead_size: "4k" }, /read_ahead_size must be a whole number of bytes above 0/],
    [{ use_odirect: "yes" }, /use_odirect must be true or false/],
    [{ num_workers: -1 }, /num_workers must be 0 or more \(0: no threads\)/],
    [{ num_workers: 17 }, /num_workers must be at most 16/],
    [{ num_workers: 1.5 }, /num_workers must be a whole number, 0 to 16, or null/],
    [{ max_capacity_gb: -1 }, /max_capacity_gb must be a number of GiB, 0 or more/],
    [{ max_capacity_gb: "10" }, /max_capacity_gb must be a number of GiB/],
    [{ fsync: "batch" }, /fsync must be none, data or full/],
    [{ file_mode: "rw" }, /file_mode is "rw": write three octal digits/],
    [{ file_mode: "0400" }, /file_mode is "0400": .* let the owner read and write/],
    [{ file_mode: 0o600 }, /file_mode is 384: write three octal digits/],
    [{ file_mode: true }, /file_mode must be three octal digits/],
    [{ directory_mode: "0600" }, /directory_mode is "0600": .*let the owner read, write and enter/],
    [{ directory_mode: "04755" }, /directory_mode is "04755"/],
    [{ scan_interval_seconds: 0 }, /scan_interval_seconds must be a number of seconds, 1 or more/],
    [{ scan_files_per_second: 0 }, /scan_files_per_second must be a whole number, 1 or more/],
  ];
  configCases({
    test,
    schema: fsConfigSchema,
    valid: { base_path: "/x" },
    invalid: invalid.map(([options, message]) => [
      { base_path: "/x", ...options },
      Object.keys(options)[0] ?? "",
      message,
    ]),
  });

  test("permissions are octal digits, as text or number", () => {
    for (const value of ["0640", "640", 640]) {
      expect(permissionBits(fsConfigSchema.parse({ base_path: "/x", file_mode: value }).file_mode)).toBe(
        0o640,
      );
    }
  });

  test("the type is registered, and making an adapter touches nothing", async () => {
    const base = join(await temporaryDirectory(), "never made");
    const adapter = getRegisteredL2Adapter("fs")?.create({ base_path: base, max_capacity_gb: 2 }, noL1);
    expect(adapter?.location).toBe(base);
    expect(adapter?.capabilities).toMatchObject({
      globalEviction: true,
      l1Registration: "none",
      shared: true,
    });
    expect(adapter?.usage().capacityBytes).toBe(2 * 1024 ** 3);
    await expect(stat(base)).rejects.toThrow(/ENOENT/);
    expect(createFsAdapter(fsConfigSchema.parse({ base_path: base }), noL1).capabilities.globalEviction).toBe(
      false,
    );
  });

  test("README holds the options as the schema has them", () => {
    const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
    expect(readme).toContain(renderOptionsTable(fsConfigSchema));
    expect(readme.split("\n").length).toBeLessThanOrEqual(81);
  });
});

describe("open", () => {
  const mode = async (path: string): Promise<string> => ((await stat(path)).mode & 0o777).toString(8);
  const open = async (basePath: string, options: Record<string, unknown> = {}, lines: LogLine[] = []) => {
    await openFs(basePath, options, undefined, lines);
  };

  test("makes directories 0700 and files 0600, also those above", async () => {
    const root = await temporaryDirectory();
    const base = join(root, "a", "b");
    const adapter = await openFs(base, { relative_tmp_dir: "t/u" });
    await storeOne(adapter, key(1), pattern(1, 10));
    for (const path of ["a", "a/b", "a/b/t", "a/b/t/u"]) expect(await mode(join(root, path))).toBe("700");
    expect(await mode(join(base, `org-SEP-model@0x01000100@0@${"00000001".padEnd(64, "0")}.data`))).toBe(
      "600",
    );
  });

  test("gives a shared deployment what it asks for, whatever the umask", async () => {
    const base = join(await temporaryDirectory(), "shared");
    const before = process.umask(0o077);
    try {
      const adapter = await openFs(base, {
        file_mode: "0664",
        directory_mode: "0775",
        relative_tmp_dir: "t",
      });
      await storeOne(adapter, key(1), pattern(1, 10));
    } finally {
      process.umask(before);
    }
    expect(await mode(base)).toBe("775");
    expect(await mode(join(base, "t"))).toBe("775");
    expect(await mode(join(base, `org-SEP-model@0x01000100@0@${"00000001".padEnd(64, "0")}.data`))).toBe(
      "664",
    );
  });

  test("warns of a directory that others can read", async () => {
    const base = await temporaryDirectory();
    const lines: LogLine[] = [];
    await chmod(base, 0o755);
    await open(base, {}, lines);
    expect(lines).toMatchObject([{ level: "warn", fields: { base_path: base, mode: "755" } }]);
    lines.length = 0;
    await open(base, { directory_mode: "0755" }, lines);
    expect(lines).toEqual([]);
  });

  test("refuses what is no directory, and a temporary directory that leads out", async () => {
    const base = await temporaryDirectory();
    const outside = await temporaryDirectory();
    await writeFile(join(base, "file"), "");
    await expect(open(join(base, "file"))).rejects.toMatchObject({ code: "INVALID_CONFIG" });
    await expect(open(join(base, "file", "below"))).rejects.toMatchObject({ code: "BACKEND_REFUSED" });
    await symlink(outside, join(base, "link"));
    await mkdir(join(base, "real"));
    await symlink(outside, join(base, "real", "link"));
    for (const relative_tmp_dir of ["link", "link/x", "real/link", "file"]) {
      await expect(open(base, { relative_tmp_dir })).rejects.toMatchObject({ code: "INVALID_CONFIG" });
    }
  });

  test("refuses a temporary directory on another filesystem", async () => {
    const base = await temporaryDirectory();
    const { nodeFsPort } = await import("../src/fs-port.ts");
    const port: typeof nodeFsPort = {
      ...nodeFsPort,
      lstat: async (path) => {
        const found = await nodeFsPort.lstat(path);
        return found === null ? null : Object.assign(found, { dev: 4242 });
      },
    };
    await expect(openFs(base, { relative_tmp_dir: "t" }, port)).rejects.toThrow(
      /another filesystem than base_path/,
    );
  });

  test("ends early when the filesystem does not answer", async () => {
    const { nodeFsPort } = await import("../src/fs-port.ts");
    const port: typeof nodeFsPort = { ...nodeFsPort, stat: () => new Promise(() => undefined) };
    const adapter = createFsAdapter(fsConfigSchema.parse({ base_path: "/nowhere" }), noL1, port);
    const controller = new AbortController();
    const opening = adapter.open(openContext([], { signal: controller.signal }));
    controller.abort();
    await expect(opening).rejects.toMatchObject({ code: "ABORTED" });
  });
});

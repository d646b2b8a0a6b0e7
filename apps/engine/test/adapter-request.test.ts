import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { hasCode } from "@cache/contracts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { rememberedAdapter, requestedAdapter } from "../src/adapters/adapter-request.ts";

/** The adapters of this repository, wherever the tests are run from. */
const PACKAGES = fileURLToPath(new URL("../../../packages", import.meta.url));

let base: string;
let root: string;
beforeAll(() => {
  base = realpathSync(mkdtempSync(join(tmpdir(), "adapter-request-")));
  root = join(base, "root");
  mkdirSync(join(root, "inside"), { recursive: true });
  mkdirSync(join(base, "outside"));
  symlinkSync(join(base, "outside"), join(root, "escape"));
  symlinkSync(join(base, "nowhere"), join(root, "dangling"));
  symlinkSync(join(root, "inside"), join(root, "alias"));
});
afterAll(() => rmSync(base, { recursive: true, force: true }));

const ask = (raw: Record<string, unknown>, pathRoots = [root], taken: string[] = []) =>
  requestedAdapter(raw, { roots: [PACKAGES], allow: [], pathRoots }, new Set(taken));
const fs = (path: string, more = {}) => ({ type: "fs", base_path: path, ...more });

describe("a path over HTTP", () => {
  test.each([
    ["a directory that is there", () => join(root, "inside"), () => join(root, "inside")],
    ["one that is not there yet", () => join(root, "new", "deep"), () => join(root, "new", "deep")],
    ["a link that stays inside", () => join(root, "alias", "x"), () => join(root, "inside", "x")],
  ])("may be %s below the root", async (_, path, real) => {
    const { adapter, config } = await ask(fs(path()));
    expect(adapter.spec.own["base_path"]).toBe(real());
    expect(JSON.parse(config)).toEqual({ type: "fs", id: "fs", base_path: real() });
  });

  test.each([
    ["outside", () => join(base, "outside"), /lies below none of --adapter-path-root/],
    ["beside the root with its name in front", () => `${root}-two`, /lies below none of --adapter-path-root/],
    ["a link that leads out", () => join(root, "escape", "x"), /\(which is .*outside\/x\) lies below none/],
    ["a link that leads nowhere", () => join(root, "dangling"), /it is a link that leads nowhere/],
    ["below a link that leads nowhere", () => join(root, "dangling", "x"), /it is a link that leads nowhere/],
    ["full of dots", () => `${root}/inside/../../outside`, /must not contain '\.\.'/],
    ["relative", () => "inside", /must be an absolute path/],
  ])("is refused if it is %s", async (_, path, text) => {
    await expect(ask(fs(path()))).rejects.toThrow(text);
  });

  test("is spelled as the command line's adapter of that data spells it: one location", async () => {
    const path = join(root, "alias", "kv");
    const { adapter: configured } = await ask(fs(join(root, "inside", "kv")));
    const spec = { ...configured.spec, own: { base_path: path } };
    const discovery = { roots: [PACKAGES], allow: [], pathRoots: [root] };
    for (const asked of [path, join(root, "inside", "kv")]) {
      const { adapter } = await requestedAdapter(fs(asked), discovery, new Set(), [spec]);
      expect(adapter.spec.own["base_path"]).toBe(path);
    }
  });

  test("is refused wherever it lies if code is loaded from it", async () => {
    const backend_params = { file_path: join(root, "nixl"), use_direct_io: "false", max_capacity_gb: 1 };
    const nixl = { type: "nixl_store_dynamic", backend: "POSIX", backend_params };
    expect((await ask({ ...nixl, library: "" })).adapter.spec.own["library"]).toBe("");
    await expect(ask({ ...nixl, library: join(root, "inside", "object.data") })).rejects.toThrow(
      /library: it names code to load/,
    );
    const plugin_dir = { ...backend_params, plugin_dir: join(root, "inside") };
    await expect(ask({ ...nixl, backend_params: plugin_dir })).rejects.toThrow(/plugin_dir: it names code/);
  });

  test("is refused without a root, in words that name the flag", async () => {
    await expect(ask(fs(join(root, "inside")), [])).rejects.toThrow(/base_path: .*--adapter-path-root/);
  });

  test("may not leave the directory that it is relative to", async () => {
    const { adapter } = await ask(fs(join(root, "inside"), { relative_tmp_dir: "tmp" }));
    expect(adapter.spec.own["relative_tmp_dir"]).toBe("tmp");
    await expect(ask(fs(join(root, "inside"), { relative_tmp_dir: "../../x" }))).rejects.toThrow(
      /relative_tmp_dir/,
    );
  });

  test("is looked for under every key that names one, and in every text that looks like one", async () => {
    const redis = { type: "redis", host: "localhost" };
    await expect(ask({ ...redis, password_file: "/etc/shadow" })).rejects.toThrow(/password_file: '\/etc/);
    await expect(ask({ ...redis, tls_enable: true, tls_ca_file: "ca.pem" })).rejects.toThrow(/tls_ca_file/);
    await expect(ask({ ...redis, key_prefix: "/etc" })).rejects.toThrow(/key_prefix/);
  });
});

describe("a secret over HTTP", () => {
  test.each([
    [
      { connection_string: "AccountName=a;AccountKey=hunter2==" },
      /'backend_params.connection_string' carries/,
    ],
    [{ account_url: "https://a.blob.core.windows.net/?sv=1&sig=hunter2" }, /account_url' carries a secret/],
  ])("is found among a backend's parameters: %j", async (params, text) => {
    const backend_params = { container_name: "c", ...params };
    await expect(
      ask({ type: "nixl_store", backend: "AZURE_BLOB", pool_size: 4, backend_params }),
    ).rejects.toThrow(text);
  });

  test.each([
    [{ password: "hunter2" }, /'password' carries a secret.*use 'password_file'/],
    [{ url: "redis://me:hunter2@host:6379" }, /'url' carries a secret.*leave the user part out/],
  ])("is refused, with what to do instead: %j", async (own, text) => {
    const asked = ask({ type: "redis", ...("url" in own ? {} : { host: "h" }), ...own });
    await expect(asked).rejects.toThrow(text);
    await expect(asked).rejects.not.toThrow(/hunter2/);
  });
});

test("only a type that discovery lists is taken", async () => {
  const unknown = ask({ type: "punched-cards" });
  await expect(unknown).rejects.toSatisfy((error) => hasCode(error, "ADAPTER_TYPE_UNKNOWN"));
  await expect(unknown).rejects.toThrow(/those that discovery lists \(.*fs.*mock.*\)/);
  const notAllowed = requestedAdapter(
    { type: "mock" },
    { roots: [PACKAGES], allow: ["@cache/l2-fs"], pathRoots: [] },
    new Set(),
  );
  await expect(notAllowed).rejects.toSatisfy((error) => hasCode(error, "ADAPTER_TYPE_UNKNOWN"));
});

test("an id is given where none is named, and none twice", async () => {
  const mock = { type: "mock", max_size_gb: 1, mock_bandwidth_gb: 1 };
  expect((await ask(mock, [], ["mock", "mock.2"])).adapter.spec.id).toBe("mock.3");
  await expect(ask({ ...mock, id: "fs.1" })).rejects.toThrow(/^adapter \('mock'\): id: 'fs.1' must be/);
});

test.each([
  [{}, /missing 'type'/],
  [{ type: "fs" }, /base_path is required/],
  [{ type: "fs", base_pth: "/x" }, /did you mean 'base_path'/],
  [{ type: "mock", max_size_gb: -1, mock_bandwidth_gb: 1 }, /max_size_gb/],
  [{ type: "mock", eviction: { eviction_policy: "ARC" } }, /ARC/],
])("what is wrong is named: %j", async (raw, text) => {
  await expect(ask(raw)).rejects.toThrow(text);
});

test("what an adapter notes about a good configuration is a warning that names it", async () => {
  const bucket = { type: "hfbucket", id: "hfbucket.eu", bucket_handle: "hf://buckets/a/b" };
  expect((await ask(bucket)).warnings).toEqual([]);
  const { warnings } = await ask({ ...bucket, download_tmp_dir: join(root, "inside") });
  expect(warnings).toEqual([expect.stringMatching(/^adapter hfbucket\.eu: download_tmp_dir has no effect/)]);
});

test("what the journal keeps makes the same adapter again", async () => {
  const eviction = { eviction_policy: "LRU", trigger_watermark: 0.9 };
  const raw = fs(join(root, "alias"), { max_capacity_gb: 1, eviction, shared: true });
  const { adapter, config } = await ask(raw);
  const again = await rememberedAdapter(adapter.spec.id, config, {
    roots: [PACKAGES],
    allow: [],
    pathRoots: [],
  });
  expect(again.spec).toEqual(adapter.spec);
});

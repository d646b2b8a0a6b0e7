import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { configCases, type InvalidConfig, renderOptionsTable } from "@cache/conformance";
import { getRegisteredL2Adapter } from "@cache/contracts";
import { afterEach, describe, expect, test, vi } from "vitest";
import { createHfBucketAdapter } from "../src/adapter.ts";
import { type HfBucketConfig, hfBucketConfigSchema, parseBucketHandle } from "../src/config.ts";
import "../src/index.ts";
import { placeOf, readToken } from "../src/settings.ts";
import { after, noL1 } from "./support/fixtures.ts";

afterEach(() => vi.unstubAllEnvs());

const HANDLE = "hf://buckets/team/cache";
const parse = (options: Record<string, unknown>): HfBucketConfig =>
  hfBucketConfigSchema.parse({ bucket_handle: HANDLE, ...options });

test("defaults", () => {
  expect(parse({})).toEqual({
    bucket_handle: HANDLE,
    token_env: "HF_TOKEN",
    token: null,
    create_bucket_if_missing: false,
    download_tmp_dir: null,
    metadata_cache_ttl_secs: 30,
    num_workers: 4,
    max_capacity_gb: 0,
    endpoint: "",
    verify_content: true,
  });
});

test("LMCache's own keys are taken as they are", () => {
  const options = {
    bucket_handle: "hf://buckets/my-org/lmcache-kv/prod",
    token_env: "HF_US_TOKEN",
    token: "hf_abc",
    create_bucket_if_missing: true,
    download_tmp_dir: "/dev/shm/lmcache-hfbucket",
    metadata_cache_ttl_secs: 12.5,
    num_workers: 8,
    max_capacity_gb: 0.5,
  };
  expect(hfBucketConfigSchema.parse(options)).toMatchObject(options);
});

const invalid: InvalidConfig[] = [
  [
    { bucket_handle: undefined },
    "bucket_handle",
    /bucket_handle is required: name the bucket as hf:\/\/buckets/,
  ],
  [{ bucket_handle: 7 }, "bucket_handle", /bucket_handle is required/],
  [{ bucket_handle: "" }, "bucket_handle", /bucket_handle "" must be hf:\/\/buckets\/<namespace>\/<bucket>/],
  [{ bucket_handle: "hf://team/cache" }, "bucket_handle", /must be hf:\/\/buckets/],
  [{ bucket_handle: "s3://buckets/a/b" }, "bucket_handle", /must be hf:\/\/buckets/],
  [{ bucket_handle: "hf://buckets/team" }, "bucket_handle", /must be hf:\/\/buckets/],
  [{ bucket_handle: "hf://buckets//team//" }, "bucket_handle", /must be hf:\/\/buckets/],
  [{ bucket_handle: "hf://buckets/te am/b" }, "bucket_handle", /letters, digits/],
  [{ bucket_handle: "hf://buckets/team/b?x" }, "bucket_handle", /letters, digits/],
  [{ bucket_handle: "hf://buckets/../b" }, "bucket_handle", /no part '\.' or '\.\.'/],
  [{ bucket_handle: "hf://buckets/team/b/../x" }, "bucket_handle", /no part '\.' or '\.\.'/],
  [{ token_env: 1 }, "token_env", /token_env must be a string: the name of an environment variable/],
  [{ token_env: "hf_abcDEF" }, "token_env", /token_env is no name.*give the name, not the token/],
  [{ token_env: "hf_abc def" }, "token_env", /token_env is no name.*give the name, not the token/],
  [{ token: 1 }, "token", /token must be a string or null/],
  [{ token: "" }, "token", /token does not begin with hf_: use an access token/],
  [{ token: "s3cret" }, "token", /token does not begin with hf_/],
  [{ token: "hf_a b" }, "token", /token contains spaces.*copy it anew/],
  [{ token: "hf_a\n" }, "token", /token contains spaces, line breaks/],
  [
    { create_bucket_if_missing: "yes" },
    "create_bucket_if_missing",
    /create_bucket_if_missing must be true or false/,
  ],
  [
    { download_tmp_dir: "" },
    "download_tmp_dir",
    /download_tmp_dir is empty: name a directory, or leave it out/,
  ],
  [{ download_tmp_dir: 1 }, "download_tmp_dir", /download_tmp_dir must be a string/],
  [{ download_tmp_dir: "a\0" }, "download_tmp_dir", /download_tmp_dir contains NUL: remove it/],
  [{ metadata_cache_ttl_secs: -1 }, "metadata_cache_ttl_secs", /must be a number of seconds, 0 or more/],
  [{ metadata_cache_ttl_secs: "30" }, "metadata_cache_ttl_secs", /must be a number of seconds, 0 or more/],
  [{ metadata_cache_ttl_secs: 1e9 }, "metadata_cache_ttl_secs", /must be at most 86400/],
  [{ num_workers: 0 }, "num_workers", /num_workers must be a whole number from 1 to 64/],
  [{ num_workers: 65 }, "num_workers", /num_workers must be a whole number from 1 to 64/],
  [{ num_workers: 1.5 }, "num_workers", /num_workers must be a whole number from 1 to 64/],
  [{ num_workers: true }, "num_workers", /num_workers must be a whole number from 1 to 64/],
  [{ max_capacity_gb: -1 }, "max_capacity_gb", /max_capacity_gb must be a number of GiB, 0 or more/],
  [{ max_capacity_gb: 2 ** 30 }, "max_capacity_gb", /max_capacity_gb must be at most 4194304 GiB/],
  [{ max_capacity_gb: "1" }, "max_capacity_gb", /max_capacity_gb must be a number of GiB/],
  [{ endpoint: 1 }, "endpoint", /endpoint must be a string: the URL of the Hub/],
  [{ endpoint: "hub.example" }, "endpoint", /endpoint must be an http or https URL/],
  [{ endpoint: "ftp://hub.example" }, "endpoint", /endpoint must be an http or https URL/],
  [{ endpoint: "https://user:s3cret@hub.example" }, "endpoint", /without user, query and fragment/],
  [{ endpoint: "https://hub.example?x=1" }, "endpoint", /without user, query and fragment/],
  [{ verify_content: "no" }, "verify_content", /verify_content must be true or false/],
];

describe("each invalid option", () => {
  const valid = { bucket_handle: HANDLE };
  const whole = invalid.map((one): InvalidConfig => [{ ...valid, ...one[0] }, one[1], one[2]]);
  configCases({ test, schema: hfBucketConfigSchema, valid, invalid: whole });
});

test("an unknown key is refused by name, and no message repeats a secret", () => {
  const refused = (options: object) =>
    hfBucketConfigSchema.safeParse({ bucket_handle: HANDLE, ...options }).error;
  expect(refused({ bukcet: 1 })?.message).toContain("bukcet");
  const secrets = { token: "s3cret x", endpoint: "https://u:s3cret@h", token_env: "hf_s3cret!" };
  expect(refused(secrets)?.message).not.toContain("s3cret");
});

test.each([
  ["hf://buckets/a/b", { bucketId: "a/b", prefix: "" }],
  [" hf://buckets/a/b/ ", { bucketId: "a/b", prefix: "" }],
  ["hf://buckets//a///b//c//d/", { bucketId: "a/b", prefix: "c/d" }],
  ["hf://buckets/A.b-c_1/B/über x", { bucketId: "A.b-c_1/B", prefix: "über x" }],
  ["hf:/buckets/a/b", null],
  ["HF://buckets/a/b", null],
])("the handle %j is read as LMCache reads it", (text, expected) => {
  expect(parseBucketHandle(text)).toEqual(expected);
});

describe("where the data is", () => {
  test.each([
    [{}, {}, "hf://buckets/team/cache"],
    [{ bucket_handle: "hf://buckets/a/b//c/d/" }, {}, "hf://buckets/a/b/c/d"],
    [{}, { HF_ENDPOINT: "http://hub.lan:8080/" }, "http://hub.lan:8080/buckets/team/cache"],
    [
      { endpoint: "https://hub.lan/sub/" },
      { HF_ENDPOINT: "nonsense" },
      "https://hub.lan/sub/buckets/team/cache",
    ],
    [{ endpoint: "https://huggingface.co/" }, {}, "hf://buckets/team/cache"],
  ])("%j %j", (options, environment, location) => {
    expect(placeOf(parse(options), environment).location).toBe(location);
  });

  test("an HF_ENDPOINT that is no URL is an error that names it", () => {
    const making = () => placeOf(parse({}), { HF_ENDPOINT: "http://user:s3cret@h" });
    expect(making).toThrow(/HF_ENDPOINT is no http or https URL.*correct or unset it, or set endpoint/);
    expect(making).not.toThrow(/s3cret/);
  });
});

describe("the access token", () => {
  const options = { token_env: "MY_TOKEN", token: "hf_config" };

  test("token_env wins over token, token over what huggingface_hub would find", async () => {
    const environment = { MY_TOKEN: " hf_mine\n", HF_TOKEN: "hf_general" };
    expect(await readToken(parse(options), environment)).toBe("hf_mine");
    expect(await readToken(parse(options), { MY_TOKEN: "", HF_TOKEN: "hf_general" })).toBe("hf_config");
    expect(await readToken(parse({ ...options, token: null }), { HF_TOKEN: "hf_general" })).toBe(
      "hf_general",
    );
    expect(await readToken(parse({ token_env: "", token: "hf_config" }), environment)).toBe("hf_config");
  });

  test("the file of a login is the last resort, and none is no error", async () => {
    const home = await mkdtemp(join(tmpdir(), "cache-l2-hfbucket-test-"));
    after(() => rm(home, { recursive: true, force: true }));
    expect(await readToken(parse({}), { HF_HOME: home })).toBeNull();
    await writeFile(join(home, "token"), "hf_login\n");
    expect(await readToken(parse({}), { HF_HOME: home })).toBe("hf_login");
    await writeFile(join(home, "other"), "s3cret");
    const reading = readToken(parse({}), { HF_TOKEN_PATH: join(home, "other") });
    await expect(reading).rejects.toMatchObject({ code: "INVALID_CONFIG" });
    await expect(reading).rejects.not.toThrow(/s3cret/);
    await mkdir(join(home, "folder"));
    const folder = readToken(parse({}), { HF_TOKEN_PATH: join(home, "folder") });
    await expect(folder).rejects.toThrow(/the token file .*folder cannot be read/);
  });

  test("something else in the variable is an error that names it, not its value", async () => {
    const reading = readToken(parse(options), { MY_TOKEN: "s3cret" });
    await expect(reading).rejects.toMatchObject({
      code: "INVALID_CONFIG",
      message: expect.stringMatching(/environment variable MY_TOKEN does not begin with hf_/),
    });
    await expect(reading).rejects.not.toThrow(/s3cret/);
  });
});

test("the type is registered, and making an adapter touches nothing", () => {
  vi.stubEnv("HF_ENDPOINT", undefined);
  const registered = getRegisteredL2Adapter("hfbucket");
  const adapter = registered?.create({ bucket_handle: HANDLE, max_capacity_gb: 2 }, noL1);
  const expected = { persistent: true, shared: true, delete: true, listKeys: true, globalEviction: true };
  expect(adapter?.capabilities).toMatchObject({ ...expected, l1Registration: "none", needsStateDir: false });
  expect(adapter?.usage().capacityBytes).toBe(2 * 1024 ** 3);
  expect(createHfBucketAdapter(parse({}), noL1).capabilities.globalEviction).toBe(false);
  expect(createHfBucketAdapter(parse({}), noL1).usage().capacityBytes).toBe("unbounded");
});

test("a download_tmp_dir is taken, and said to have no effect", () => {
  const registered = getRegisteredL2Adapter("hfbucket");
  expect(registered?.configNotes?.({ bucket_handle: HANDLE })).toEqual([]);
  const notes = registered?.configNotes?.({ bucket_handle: HANDLE, download_tmp_dir: "/dev/shm/x" });
  expect(notes).toEqual([expect.stringContaining("download_tmp_dir has no effect")]);
});

test("README holds the options as the schema has them", () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  expect(readme).toContain(renderOptionsTable(hfBucketConfigSchema));
  expect(readme.split("\n").length).toBeLessThanOrEqual(91);
});

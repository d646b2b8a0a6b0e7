import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { configCases, type InvalidConfig, renderOptionsTable } from "@cache/conformance";
import { getRegisteredL2Adapter } from "@cache/contracts";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { createRedisAdapter } from "../src/adapter.ts";
import { type RedisConfig, redisConfigSchema } from "../src/config.ts";
import "../src/index.ts";
import { placeOf, readCredentials } from "../src/settings.ts";
import { noL1, temporaryDirectory } from "./support/fixtures.ts";

afterEach(() => vi.unstubAllEnvs());

const parse = (options: Record<string, unknown>): RedisConfig => redisConfigSchema.parse(options);

test("defaults", () => {
  expect(parse({ host: "h" })).toEqual({
    host: "h",
    port: null,
    url: "",
    startup_nodes: "",
    sentinel_nodes: "",
    sentinel_master: "",
    cluster_mode: false,
    username: "",
    password: "",
    password_file: "",
    database_id: null,
    key_prefix: "",
    ttl_seconds: null,
    num_workers: 8,
    max_capacity_gb: 0,
    request_timeout: 5,
    connection_timeout: 10,
    tls_enable: false,
    tls_ca_file: "",
    tls_cert_file: "",
    tls_key_file: "",
    scan_interval_seconds: 3600,
  });
});

test("LMCache's own keys of resp and valkey are taken as they are", () => {
  const resp = {
    host: "10.0.0.1",
    port: 6379,
    num_workers: 8,
    username: "u",
    password: "p",
    max_capacity_gb: 10,
  };
  expect(parse(resp)).toMatchObject(resp);
  const valkey = {
    startup_nodes: "a:1,b:2",
    cluster_mode: true,
    username: "u",
    password: "p",
    key_prefix: "team",
    num_workers: 4,
    tls_enable: true,
    request_timeout: 2.5,
    connection_timeout: 1,
    max_capacity_gb: 0,
    ttl_seconds: 60,
  };
  expect(parse(valkey)).toMatchObject(valkey);
});

const invalid: InvalidConfig[] = [
  [
    {},
    "host",
    /host is required: name the server \(or url, startup_nodes, sentinel_nodes, or LMCACHE_RESP_HOST\)/,
  ],
  [{ host: 7 }, "host", /host must be a string/],
  [
    { host: "redis://h" },
    "host",
    /host "redis:\/\/h" is no host name: leave scheme, user and port out, or use url/,
  ],
  [{ host: "a b" }, "host", /is no host name/],
  [{ host: "h\0" }, "host", /NUL or a line break: remove it/],
  [{ host: "h", url: "redis://h" }, "url", /host and url both say where the server is: keep one/],
  [{ url: "redis://h", sentinel_nodes: "a:1" }, "sentinel_nodes", /url and sentinel_nodes both say where/],
  [{ host: "h", port: 0 }, "port", /port must be a whole number from 1 to 65535/],
  [{ host: "h", port: "6379" }, "port", /port must be a whole number from 1 to 65535/],
  [{ host: "h", port: 70_000 }, "port", /port must be a whole number from 1 to 65535/],
  [{ url: "redis://h", port: 1 }, "port", /port belongs to host: write it into url/],
  [{ url: "http://h" }, "url", /url must be redis:\/\/\[user/],
  [{ url: "redis://" }, "url", /url must be redis:/],
  [{ url: "redis://h/x" }, "url", /url must be redis:/],
  [{ url: "redis://h?db=1" }, "url", /url must be redis:/],
  [{ url: "redis://u:%zz@h" }, "url", /url must be redis:/],
  [{ startup_nodes: "h" }, "startup_nodes", /startup_nodes "h" must be host:port, or several with commas/],
  [{ startup_nodes: "h:0" }, "startup_nodes", /must be host:port/],
  [{ startup_nodes: "h:1," }, "startup_nodes", /must be host:port/],
  [{ startup_nodes: ["h:1"] }, "startup_nodes", /startup_nodes must be a string/],
  [
    { startup_nodes: "a:1,b:1" },
    "startup_nodes",
    /names several nodes: set cluster_mode to true, or keep one/,
  ],
  [{ sentinel_nodes: "h:1" }, "sentinel_master", /sentinel_master is required with sentinel_nodes/],
  [{ sentinel_nodes: "h", sentinel_master: "m" }, "sentinel_nodes", /sentinel_nodes "h" must be host:port/],
  [{ host: "h", sentinel_master: "m" }, "sentinel_nodes", /sentinel_nodes is required with sentinel_master/],
  [
    { sentinel_nodes: "h:1", sentinel_master: "m", cluster_mode: true },
    "cluster_mode",
    /cluster_mode and sentinel_nodes exclude each other/,
  ],
  [{ host: "h", cluster_mode: "yes" }, "cluster_mode", /cluster_mode must be true or false/],
  [
    { host: "h", cluster_mode: true, database_id: 1 },
    "database_id",
    /database_id must be 0 with cluster_mode/,
  ],
  [{ url: "redis://h/2", cluster_mode: true }, "database_id", /database_id must be 0 with cluster_mode/],
  [{ url: "redis://h/2", database_id: 3 }, "database_id", /database_id differs from the database in url/],
  [{ host: "h", database_id: -1 }, "database_id", /database_id must be a whole number, 0 or more/],
  [
    { host: "h", password: "a", password_file: "/f" },
    "password",
    /password and password_file both give a password/,
  ],
  [{ url: "redis://:p@h", password: "a" }, "password", /password and url both give a password: keep one/],
  [{ url: "redis://u:p@h", username: "v" }, "username", /username differs from the user in url/],
  [
    { host: "h", username: "u" },
    "password_file",
    /a user without a password cannot log in: set password_file/,
  ],
  [{ host: "h", username: 1 }, "username", /username must be a string/],
  [{ host: "h", password: 1 }, "password", /password must be a string/],
  [{ host: "h", password: "a\nb" }, "password", /password contains NUL or a line break/],
  [{ host: "h", password_file: "~/p" }, "password_file", /begins with '~'.*write the home directory out/],
  [{ host: "h", tls_enable: 1 }, "tls_enable", /tls_enable must be true or false/],
  [{ host: "h", tls_ca_file: "/ca" }, "tls_enable", /tls_enable must be true for tls_ca_file to count/],
  [{ host: "h", tls_enable: true, tls_cert_file: "/c" }, "tls_key_file", /tls_key_file is required too/],
  [{ host: "h", tls_enable: true, tls_key_file: "/k" }, "tls_cert_file", /tls_cert_file is required too/],
  [{ host: "h", tls_enable: true, tls_ca_file: 7 }, "tls_ca_file", /tls_ca_file must be a string/],
  [{ host: "h", tls_enable: true, tls_ca_file: "~/ca" }, "tls_ca_file", /write the home directory out/],
  [{ host: "127.0.0.1:6479" }, "host", /host "127.0.0.1:6479" .*the port has its own key: port/],
  [{ host: "[::1]:6479" }, "host", /the port has its own key: port/],
  [{ host: "h", key_prefix: "a@b" }, "key_prefix", /key_prefix "a@b" contains '@'.*remove it/],
  [{ host: "h", key_prefix: "x".repeat(300) }, "key_prefix", /at most 256 bytes/],
  [
    { host: "h", ttl_seconds: 0 },
    "ttl_seconds",
    /ttl_seconds must be a whole number of seconds above 0, or null/,
  ],
  [{ host: "h", ttl_seconds: true }, "ttl_seconds", /ttl_seconds must be a whole number/],
  [{ host: "h", num_workers: 0 }, "num_workers", /num_workers must be a whole number from 1 to 64/],
  [{ host: "h", num_workers: 1.5 }, "num_workers", /num_workers must be a whole number from 1 to 64/],
  [
    { host: "h", max_capacity_gb: -1 },
    "max_capacity_gb",
    /max_capacity_gb must be a number of GiB, 0 or more/,
  ],
  [
    { host: "h", request_timeout: 0 },
    "request_timeout",
    /request_timeout must be a number of seconds above 0/,
  ],
  [
    { host: "h", request_timeout: "5" },
    "request_timeout",
    /request_timeout must be a number of seconds above 0/,
  ],
  [
    { host: "h", connection_timeout: -1 },
    "connection_timeout",
    /connection_timeout must be a number of seconds/,
  ],
  [
    { host: "h", scan_interval_seconds: 0 },
    "scan_interval_seconds",
    /must be a number of seconds, 1 or more/,
  ],
];

describe("an invalid configuration", () => {
  beforeEach(() => {
    vi.stubEnv("LMCACHE_RESP_HOST", undefined);
    vi.stubEnv("LMCACHE_RESP_PASSWORD", undefined);
  });
  configCases({ test, schema: redisConfigSchema, valid: { host: "h" }, invalid });
});

test("no message repeats a password", () => {
  const options = { url: "redis://u:s3cret@h?x", password: "s3cret", username: "v", port: 1 };
  expect(redisConfigSchema.safeParse(options).error?.message).not.toContain("s3cret");
});

describe("where the data is", () => {
  test.each([
    [{ host: "h" }, "redis://h:6379/0"],
    [{ host: "::1", port: 7000, database_id: 2 }, "redis://[::1]:7000/2"],
    [{ url: "rediss://user:s3cret@h:1234/5" }, "rediss://h:1234/5"],
    [{ url: "redis://[::1]:99" }, "redis://[::1]:99/0"],
    [{ startup_nodes: "a:1, b:2", cluster_mode: true, key_prefix: "p" }, "redis+cluster://a:1,b:2/0#p"],
    [
      { sentinel_nodes: "[::1]:1,s:2", sentinel_master: "m", tls_enable: true },
      "rediss+sentinel://[::1]:1,s:2/m/0",
    ],
    [{ host: "h", username: "u", password: "s3cret" }, "redis://h:6379/0"],
  ])("%j", (options, location) => {
    expect(placeOf(parse(options)).location).toBe(location);
    expect(createRedisAdapter(parse(options), noL1).location).not.toContain("s3cret");
  });

  test("LMCache's environment variables fill what is left out", async () => {
    vi.stubEnv("LMCACHE_RESP_HOST", "from-env");
    vi.stubEnv("LMCACHE_RESP_PORT", "7001");
    vi.stubEnv("LMCACHE_RESP_USERNAME", "env-user");
    vi.stubEnv("LMCACHE_RESP_PASSWORD", "env-password");
    const config = parse({});
    expect(placeOf(config).location).toBe("redis://from-env:7001/0");
    const login = { username: "env-user", password: "env-password" };
    expect(await readCredentials(config, placeOf(config))).toMatchObject(login);
    const own = parse({ host: "h", port: 1, username: "u", password: "p" });
    expect(placeOf(own).location).toBe("redis://h:1/0");
    expect(await readCredentials(own, placeOf(own))).toMatchObject({ username: "u", password: "p" });
    vi.stubEnv("LMCACHE_RESP_PORT", "none");
    expect(() => placeOf(parse({}))).toThrow(/LMCACHE_RESP_PORT "none" is no port/);
  });
});

describe("secrets in files", () => {
  test("the password is the first line of password_file", async () => {
    const file = join(await temporaryDirectory(), "password");
    await writeFile(file, "s3cret\nsecond line\n");
    const config = parse({ host: "h", username: "u", password_file: file });
    expect(await readCredentials(config, placeOf(config))).toMatchObject({
      username: "u",
      password: "s3cret",
    });
    await writeFile(file, "\nsecond line");
    await expect(readCredentials(config, placeOf(config))).rejects.toThrow(
      /password_file .* has an empty first line/,
    );
  });

  test.each(["password_file", "tls_ca_file", "tls_cert_file", "tls_key_file"])(
    "%s that is not there",
    async (option) => {
      const missing = join(await temporaryDirectory(), "missing");
      const pair =
        option.startsWith("tls_c") || option.startsWith("tls_k")
          ? { tls_cert_file: missing, tls_key_file: missing }
          : {};
      const config = parse({ host: "h", tls_enable: true, ...pair, [option]: missing });
      const reading = readCredentials(config, placeOf(config));
      await expect(reading).rejects.toMatchObject({
        code: "INVALID_CONFIG",
        message: expect.stringMatching(/_file ".*missing" cannot be read: ENOENT/),
      });
    },
  );
});

test("both types are registered, and making an adapter touches nothing", () => {
  for (const type of ["resp", "redis"]) {
    const adapter = getRegisteredL2Adapter(type)?.create(
      { host: "nowhere.invalid", max_capacity_gb: 2 },
      noL1,
    );
    expect(adapter?.capabilities).toMatchObject({
      globalEviction: true,
      shared: true,
      l1Registration: "none",
    });
    expect(adapter?.usage().capacityBytes).toBe(2 * 1024 ** 3);
  }
  expect(createRedisAdapter(parse({ host: "h" }), noL1).capabilities.globalEviction).toBe(false);
});

test("README holds the options as the schema has them", () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  expect(readme).toContain(renderOptionsTable(redisConfigSchema));
  expect(readme.split("\n").length).toBeLessThanOrEqual(91);
});

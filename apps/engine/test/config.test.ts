import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ConfigInputs, loadConfig } from "../src/config/load-config.ts";
import { defaultL1SizeBytes } from "../src/config/default-l1-size.ts";
import { FOREIGN_FLAGS } from "../src/config/lmcache-flags.ts";
import { maskSecrets } from "../src/config/mask.ts";
import { editDistance, nearestName } from "../src/config/nearest.ts";
import { optionInfos } from "../src/config/options.ts";
import { prepareStateDirectory, stateDirectory } from "../src/config/state-directory.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "config-"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function file(content: string, name = "engine.yaml"): string {
  const path = join(directory, name);
  writeFileSync(path, content);
  return path;
}

const load = (inputs: Partial<ConfigInputs> = {}) => loadConfig({ flags: {}, environment: {}, ...inputs });
const failure = async (inputs: Partial<ConfigInputs>): Promise<string> => {
  const error = await load(inputs).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: "INVALID_CONFIG" });
  return (error as Error).message;
};

describe("precedence", () => {
  const configFile = () =>
    file("port: 6001\nhttp_port: 6002\nchunk_size: 16\nl2_adapter:\n  - {type: fs, base_path: /f}\n");
  const environment = { CACHE_ENGINE_PORT: "6101", CACHE_ENGINE_HTTP_PORT: "6102" };

  test("a flag wins over the environment, that over the file, that over the default", async () => {
    const { config, origins } = await load({
      configFile: configFile(),
      environment,
      flags: { port: "6201" },
    });
    expect([config.rpc.port, config.http.port, config.chunkSize]).toEqual([6201, 6102, 16]);
    expect([origins["port"], origins["http_port"], origins["chunk_size"], origins["host"]]).toEqual([
      "flag",
      "environment",
      "file",
      "default",
    ]);
  });

  test("lists are not merged: the strongest source's list counts", async () => {
    const flags = { l2_adapter: ['{"type":"mock"}', '{"type":"mock"}'] };
    const { config } = await load({ configFile: configFile(), flags });
    expect(config.l2.adapters.map((adapter) => adapter.id)).toEqual(["mock", "mock.2"]);
    expect((await load({ configFile: configFile() })).config.l2.adapters[0]?.own).toEqual({
      base_path: "/f",
    });
  });

  test("the environment names the file, holds lists and JSON", async () => {
    const { config } = await load({
      environment: {
        CACHE_ENGINE_CONFIG: file('{"port": 7001, "free_pool_on_exit": true}', "engine.json"),
        CACHE_ENGINE_ADAPTER_ALLOW: "a, b",
        CACHE_ENGINE_L2_ADAPTER: '{"type":"fs","base_path":"/e"}',
      },
    });
    expect(config.rpc.port).toBe(7001);
    expect(config.l1.freePoolOnExit).toBe(true);
    expect(config.discovery.allow).toEqual(["a", "b"]);
    expect(config.l2.adapters[0]?.own).toEqual({ base_path: "/e" });
  });
});

test("the defaults are the documented ones, plain and frozen", async () => {
  const { config, warnings } = await load({ environment: { XDG_STATE_HOME: "/xdg" } });
  expect(config).toMatchObject({
    instance: "5555",
    rpc: {
      host: "127.0.0.1",
      port: 5555,
      sessionTtlMs: 600_000,
      workerReapTimeoutMs: 120_000,
      clientGraceMs: 600_000,
    },
    http: { host: "127.0.0.1", port: 8080 },
    chunkSize: 256,
    l1: {
      alignBytes: 4096,
      shmName: "cache_engine_5555",
      shmMode: 0o600,
      writeTtlMs: 600_000,
      readTtlMs: 300_000,
      storeWaitMs: 200,
      eviction: { policy: "LRU", triggerWatermark: 0.8, ratio: 0.2 },
    },
    l2: {
      adapters: [],
      prefetchMaxInFlight: 8,
      prefetchDeadline: { baseMs: 2000, perThousandTokensMs: 100, maxMs: 30_000 },
      deadlines: {
        lookupMs: 1000,
        transferBaseMs: 5000,
        transferBytesPerSecond: 50_000_000,
        deleteMs: 30_000,
      },
      breaker: { failures: 5, windowMs: 10_000, probeMinMs: 1000, probeMaxMs: 30_000 },
    },
    state: { directory: "/xdg/cache-engine/5555" },
    journalFsync: "batch",
  });
  expect(warnings).toEqual([]);
  expect(Object.isFrozen(config.l2.breaker)).toBe(true);
  expect(structuredClone(config)).toEqual(config);
});

test("a command line written for lmcache server is understood", async () => {
  const { config, warnings } = await load({
    flags: {
      host: "localhost",
      port: "5655",
      http_port: "8085",
      prometheus_port: "9095",
      l1_size_gb: "1",
      l1_use_lazy: false,
      shm_name: "kvtest",
      eviction_policy: "LRU",
      supported_transfer_mode: "auto",
      transport: "zmq",
      isolated_ipc: false,
    },
  });
  expect(config.rpc).toMatchObject({ host: "127.0.0.1", port: 5655 });
  expect(config.l1).toMatchObject({ sizeBytes: 2 ** 30, shmName: "kvtest", sizeOrigin: "configured" });
  expect(warnings).toEqual([expect.stringContaining("--prometheus-port has no effect")]);
});

test("every flag of lmcache server is an option or known by name", () => {
  const flags = readFileSync(new URL("vectors/lmcache-server-flags.txt", import.meta.url), "utf8")
    .split("\n")
    .filter((line) => line.startsWith("--"))
    .map((line) => line.split(" ")[0]!.slice(2).replace(/^no-/, "").replaceAll("-", "_"));
  const known = new Set([
    ...optionInfos().map((option) => option.key),
    ...FOREIGN_FLAGS.map((flag) => flag.key),
  ]);
  expect(flags.length).toBeGreaterThan(80);
  expect(flags.filter((flag) => !known.has(flag))).toEqual([]);
});

test("no flag is both an option and a foreign one", () => {
  const options = new Set<string>(optionInfos().map((option) => option.key));
  expect(FOREIGN_FLAGS.filter((flag) => options.has(flag.key))).toEqual([]);
});

const REFUSED: readonly [string, ConfigInputs["flags"], string][] = [
  [
    "a port that is no number",
    { port: "x" },
    '--port: invalid input: expected number, received string (is "x")',
  ],
  ["a port out of range", { port: "70000" }, "--port"],
  ["one port twice", { port: "8080" }, "choose two ports"],
  ["a fraction of a token", { chunk_size: "1.5" }, "--chunk-size"],
  [
    "LMCache-driven transfer",
    { supported_transfer_mode: "lmcache_driven" },
    "LMCACHE_MP_TRANSFER_MODE=engine_driven",
  ],
  ["ARC", { eviction_policy: "ARC" }, "use LRU"],
  ["IsolatedLRU", { eviction_policy: "IsolatedLRU" }, "quotas"],
  ["another hash", { hash_algorithm: "builtin" }, "blake3"],
  ["a watermark above 1", { eviction_trigger_watermark: "1.5" }, "--eviction-trigger-watermark"],
  ["an alignment that is no power of two", { l1_align_bytes: "5000" }, "power of two"],
  ["an L1 without room for an object", { l1_size_gb: "0.0001", l1_align_bytes: "1048576" }, "--l1-size-gb"],
  ["a pool name with a path", { shm_name: "a/b" }, "--shm-name"],
  ["a mode that is not octal", { shm_mode: "0688" }, "octal"],
  ["a group that does not exist", { shm_group: "no-such-group" }, "no-such-group"],
  ["an instance with a path", { instance_id: "../x" }, "instance id"],
  [
    "grace below reap",
    { worker_registration_grace_seconds: "10" },
    "at least --worker-reap-timeout-seconds 120",
  ],
  ["gRPC", { transport: "grpc" }, "ZMQ"],
  ["blend", { engine_type: "blend" }, "CacheBlend"],
  ["a coordinator", { coordinator_url: "http://c" }, "coordinator"],
  ["scripts", { run_script_api_enabled: true }, "Python"],
  ["several L1s", { l1_manager: "{}" }, "--l1-size-gb"],
  ["adapter JSON that is none", { l2_adapter: ["{"] }, "--l2-adapter #1: invalid JSON"],
  [
    "an adapter that is a list",
    { l2_adapter: ["[]"] },
    "--l2-adapter #1: expected a JSON object, got a list",
  ],
  ["an adapter without type", { l2_adapter: ['{"type":"fs"}', "{}"] }, "--l2-adapter #2: missing 'type'"],
  [
    "serde",
    { l2_adapter: ['{"type":"fs","serde":{"type":"fp8"}}'] },
    "#1 ('fs'): serde: serialisers are not served",
  ],
  [
    "an adapter's ARC",
    { l2_adapter: ['{"type":"fs","eviction":{"eviction_policy":"ARC"}}'] },
    "eviction.eviction_policy",
  ],
  [
    "an adapter's watermark",
    { l2_adapter: ['{"type":"fs","eviction":{"eviction_policy":"LRU","trigger_watermark":2}}'] },
    "eviction.trigger_watermark",
  ],
  [
    "a mistyped eviction key",
    { l2_adapter: ['{"type":"fs","eviction":{"eviction_policy":"LRU","triger_watermark":0.5}}'] },
    "did you mean 'trigger_watermark'",
  ],
  ["another L1", { l2_adapter: ['{"type":"fs","affinity_tag":"gpu"}'] }, "affinity_tag"],
  [
    "an id of another type",
    { l2_adapter: ['{"type":"fs","id":"disk"}'] },
    "id: 'disk' must be 'fs' or 'fs.'",
  ],
  [
    "two equal ids",
    { l2_adapter: ['{"type":"fs","id":"fs.a"}', '{"type":"fs","id":"fs.a"}'] },
    "#2 ('fs'): id: 'fs.a' is the id of another adapter",
  ],
];

test.each(REFUSED)("refuses %s, naming place and fix", async (_what, flags, text) => {
  expect(await failure({ flags })).toContain(text);
});

test("unknown keys are errors with the nearest known name", async () => {
  expect(await failure({ configFile: file("l1_sise_gb: 1\n", "typo.yaml") })).toContain(
    "did you mean 'l1_size_gb'",
  );
  expect(await failure({ environment: { CACHE_ENGINE_HTTP_PROT: "1" } })).toContain(
    "did you mean 'CACHE_ENGINE_HTTP_PORT'",
  );
  expect(await failure({ configFile: file("zzzzzzzzzzz: 1\n", "other.yaml") })).not.toContain("did you mean");
});

test.each([
  ["is missing", () => join(directory, "nowhere.yaml"), "cannot be read"],
  ["is no YAML", () => file("a: [", "broken.yaml"), "cannot be read"],
  ["is a list", () => file("- a\n", "list.yaml"), "keys and values"],
])("a configuration file that %s is an error that names it", async (_what, path, text) => {
  const configFile = path();
  const message = await failure({ configFile });
  expect(message).toContain(configFile);
  expect(message).toContain(text);
});

test("an adapter's value never stands in an error of the list", async () => {
  expect(await failure({ environment: { CACHE_ENGINE_L2_ADAPTER: '["hunter2"]' } })).not.toContain("hunter2");
});

test("Kubernetes' service variables are not taken for options", async () => {
  const { config, warnings } = await load({
    environment: { CACHE_ENGINE_PORT: "tcp://10.0.0.1:5555", CACHE_ENGINE_SERVICE_HOST: "10.0.0.1" },
  });
  expect(config.rpc.port).toBe(5555);
  expect(warnings).toHaveLength(2);
});

test("ids of repeated types are counted and leave out those that are taken", async () => {
  const flags = {
    l2_adapter: ['{"type":"fs"}', '{"type":"fs"}', '{"type":"fs","id":"fs.2"}', '{"type":"mock"}'],
  };
  expect((await load({ flags })).config.l2.adapters.map(({ id }) => id)).toEqual([
    "fs",
    "fs.3",
    "fs.2",
    "mock",
  ]);
});

test("data that would go with the engine's stop is refused, not silently kept", async () => {
  await expect(
    loadConfig({
      flags: { l2_adapter: ['{"type":"fs","base_path":"/tmp/x","persist_enabled":false}'] },
      environment: {},
    }),
  ).rejects.toMatchObject({ code: "INVALID_CONFIG", message: expect.stringContaining("persist_enabled") });
});

test("common keys are taken out of the adapter's own", async () => {
  const adapter = {
    type: "fs",
    base_path: "/d",
    shared: true,
    persist_enabled: true,
    affinity_tag: "_default",
    eviction: { eviction_policy: "LRU", trigger_watermark: 0.5 },
    extra: null,
  };
  const { config } = await load({ flags: { l2_adapter: [JSON.stringify(adapter)] } });
  expect(config.l2.adapters).toEqual([
    {
      place: "--l2-adapter #1",
      id: "fs",
      type: "fs",
      own: { base_path: "/d", extra: null },
      common: {
        shared: true,
        persistEnabled: true,
        affinityTag: "_default",
        eviction: { policy: "LRU", triggerWatermark: 0.5, ratio: 0.2 },
      },
    },
  ]);
});

test("the default L2 is an fs adapter in the state directory, only where none is configured", async () => {
  const flags = { default_l2_size_gb: "3", state_dir: "/state" };
  expect((await load({ flags })).config.l2.adapters).toMatchObject([
    {
      id: "fs",
      own: { base_path: "/state/l2-fs", max_capacity_gb: 3 },
      common: { eviction: { policy: "LRU" } },
    },
  ]);
  const own = await load({ flags: { ...flags, l2_adapter: ['{"type":"mock"}'] } });
  expect(own.config.l2.adapters.map(({ id }) => id)).toEqual(["mock"]);
  const none = await load({ flags: { ...flags, state_dir: "none" } });
  expect(none.config.l2.adapters).toEqual([]);
  expect(none.warnings).toHaveLength(1);
});

test("shared memory is off with an empty name, and a leading slash is dropped", async () => {
  expect((await load({ flags: { shm_name: "" } })).config.l1.shmName).toBe("");
  expect((await load({ flags: { shm_name: "/pool" } })).config.l1.shmName).toBe("pool");
});

test("the state directory: configured, systemd's, XDG's, none", () => {
  const instance = "5555";
  const at = (configured: string | undefined, environment: Record<string, string>) =>
    stateDirectory({ configured, instance, environment });
  expect(at("/s", { STATE_DIRECTORY: "/systemd" })).toBe("/s");
  expect(at("none", { STATE_DIRECTORY: "/systemd" })).toBeNull();
  expect(at(undefined, { STATE_DIRECTORY: "/systemd:/other", XDG_STATE_HOME: "/xdg" })).toBe("/systemd");
  expect(at(undefined, { XDG_STATE_HOME: "/xdg" })).toBe("/xdg/cache-engine/5555");
  expect(at(undefined, { XDG_STATE_HOME: "relative" })).toMatch(/\.local\/state\/cache-engine\/5555$/);
});

test("the state directory is made for its owner alone; one that others may read is a warning", () => {
  const path = join(directory, "deep", "state");
  expect(prepareStateDirectory(path)).toEqual({ made: join(directory, "deep"), warning: null });
  expect(statSync(path).mode & 0o777).toBe(0o700);
  chmodSync(path, 0o755);
  expect(prepareStateDirectory(path)).toEqual({ made: null, warning: expect.stringContaining("mode 0755") });
  const blocked = join(file("", "a-file"), "state");
  expect(() => prepareStateDirectory("/proc/state")).toThrow(
    expect.objectContaining({ code: "INVALID_CONFIG" }),
  );
  expect(() => prepareStateDirectory(blocked)).toThrow(expect.objectContaining({ code: "INVALID_CONFIG" }));
});

test("the default L1 size fits memory, cgroup and /dev/shm", () => {
  const gib = 2 ** 30;
  const size = (totalBytes: number, cgroupLimitBytes: number | null, shmTotalBytes: number | null) =>
    defaultL1SizeBytes({ totalBytes, cgroupLimitBytes, shmTotalBytes });
  expect(size(64 * gib, null, 32 * gib)).toBe(4 * gib);
  expect(size(8 * gib, null, 4 * gib)).toBe(2 * gib);
  expect(size(64 * gib, 4 * gib, 32 * gib)).toBe(gib);
  expect(size(64 * gib, null, gib)).toBe(gib / 2);
  // What a container has by default: the pool and its last page must fit beside what is there.
  expect(size(64 * gib, null, 64 * 2 ** 20)).toBe(32 * 2 ** 20);
});

test("secrets are masked, also in URLs, and names of places are not", () => {
  expect(
    maskSecrets({
      password: "a",
      token: "b",
      token_env: "HF_TOKEN",
      aws_secret_access_key: "c",
      url: "redis://user:pw@host:1/0",
      nested: [{ api_key: "d", port: 1 }],
      backend_params: { connection_string: "AccountKey=e", account_key: "f", access_key: "g" },
      account_url: "https://a.blob.core.windows.net/?sv=1&sig=h%3D&se=2",
      username: "",
    }),
  ).toEqual({
    password: "***",
    token: "***",
    token_env: "HF_TOKEN",
    aws_secret_access_key: "***",
    url: "redis://***@host:1/0",
    nested: [{ api_key: "***", port: 1 }],
    backend_params: { connection_string: "***", account_key: "***", access_key: "***" },
    account_url: "https://a.blob.core.windows.net/?sv=1&sig=***&se=2",
    username: "",
  });
});

test("what signs a URL is masked, and keys of accounts", () => {
  const masked = maskSecrets({
    account_url: "https://a.blob.core.windows.net/c?sv=1&sig=x%2Fy&se=2",
    connection_string: "AccountKey=x",
    account_key: "x",
  });
  expect(masked).toEqual({
    account_url: "https://a.blob.core.windows.net/c?sv=1&sig=***&se=2",
    connection_string: "***",
    account_key: "***",
  });
});

test("masking a long text takes no longer than its length is worth", () => {
  const texts = ["a".repeat(60_000), "?".repeat(60_000), `a://${"x".repeat(60_000)}`];
  const start = performance.now();
  maskSecrets(texts);
  expect(performance.now() - start).toBeLessThan(1_000);
});

test("edit distance and nearest name", () => {
  expect(editDistance("kitten", "sitting")).toBe(3);
  expect(editDistance("", "abc")).toBe(3);
  expect(nearestName("prot", ["port", "host"])).toBe("port");
  expect(nearestName("entirely", ["port", "host"])).toBeNull();
});

import { spawn, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import { freePort } from "../../../tools/testing/src/free-port.ts";

const BIN = fileURLToPath(new URL("../bin/cache-engine.js", import.meta.url));
const HASH = "ab".repeat(32);

let directory: string;
let state: string;
let name: string;
let pool: string;
let pools: string[];
let count = 0;
beforeEach(() => {
  directory = realpathSync(mkdtempSync(join(tmpdir(), "purge-")));
  state = join(directory, "state");
  name = `purge-test-${process.pid}-${++count}`;
  pools = [];
  pool = makePool(name);
});
afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
  for (const path of pools) rmSync(path, { force: true });
});

/** A file where the pool of that name would be. */
function makePool(shmName: string): string {
  const path = `/dev/shm/lmcache_l1_pool_${shmName}`;
  writeFileSync(path, "x", { flag: "wx" });
  pools.push(path);
  return path;
}

function environment(): Record<string, string | undefined> {
  const rest = Object.entries(process.env).filter(([key]) => !/^(CACHE_ENGINE_|STATE_DIRECTORY$)/.test(key));
  return { ...Object.fromEntries(rest), NODE_OPTIONS: "", XDG_STATE_HOME: join(directory, "xdg") };
}

/** Runs the built command as a user would. */
function cli(...words: string[]) {
  const options = { cwd: directory, encoding: "utf8", env: environment() } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, [BIN, ...words], options);
  return { code: status, out: stdout, err: stderr };
}

function put(...paths: string[]): void {
  for (const path of paths) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, "x");
  }
}

/** Everything that an engine writes into its state directory. */
function makeState(): void {
  put(
    join(state, "journal", `${"1".padStart(20, "0")}.journal`),
    join(state, "journal", `${"9".padStart(20, "0")}.journal.damaged-1`),
    join(state, "journal", `snapshot-${"8".padStart(20, "0")}.tmp`),
    join(state, "journal", `snapshot-${"7".padStart(20, "0")}`),
    join(state, "journal", "0000000001.side"),
    join(state, "journal.damaged-1760000000000", `${"1".padStart(20, "0")}.journal`),
    join(state, "adapters", "nixl.a", "slots"),
    join(state, "l2-fs", `org-SEP-model@0x00000001@0@${HASH}@salt.data`),
    join(state, "l2-fs", ".quarantine", `mabc-01234567-model@0x00000001@0@${HASH}.data`),
  );
  mkdirSync(join(state, "adapters", "fs"));
  writeFileSync(join(state, "adapters", ".made-by-engine"), "nixl.a\n");
  writeFileSync(join(state, "pool-name"), `${name}\n`);
}

function listing(of: string): string[] {
  return readdirSync(of, { recursive: true, encoding: "utf8" }).sort();
}

test("purge frees the pool that the state directory names; --state removes all that an engine makes there", () => {
  makeState();
  const before = listing(state);
  expect(cli("purge", "--state-dir", state)).toMatchObject({ code: 0, out: `removed ${pool}\n` });
  expect(listing(state)).toEqual(before);
  expect(cli("purge", "--state-dir", state).out).toBe(`nothing to remove: ${pool}\n`);
  expect(cli("purge", "--state-dir", state, "--state").out).toBe(`removed ${state}\n`);
  expect(existsSync(state)).toBe(false);
});

test("purge touches no pool and no state that another process has locked", () => {
  makeState();
  const words = [process.execPath, BIN, "purge", "--state", "--state-dir", state];
  for (const path of [pool, join(state, "journal"), state]) {
    const held = spawnSync("flock", ["-n", "-x", path, ...words], { encoding: "utf8", env: environment() });
    expect(held.status).toBe(4);
    expect(held.stderr).toContain(`error LOCKED_BY_OTHER_PROCESS: ${path} is locked by`);
    expect(held.stderr).toContain("; nothing was removed: stop that engine first, then purge");
    expect(held.stderr).not.toContain("another path");
    expect(existsSync(pool)).toBe(true);
  }
});

test("purge --state refuses a directory that no engine has used, and frees no pool then", () => {
  put(
    join(state, "docs", "thesis.txt"),
    join(state, "journal", "monday.txt"),
    join(state, "adapters", "a.ts"),
  );
  // As another's project may have it.
  writeFileSync(join(state, "pool-name"), "the name\nof a pool\n");
  const before = listing(state);
  for (const more of [[], ["--shm-name", name], ["--port", "6391", "--json"]]) {
    const { code, err, out } = cli("purge", "--state", "--state-dir", state, ...more);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toContain(`error INVALID_ARGUMENT: ${state} is no state directory of an engine`);
    expect(err).toContain("it has neither journal files (journal/) nor a pool-name");
  }
  expect(listing(state)).toEqual(before);
  expect(existsSync(pool)).toBe(true);
});

test("purge --state leaves what no engine made in a state directory, and names it", () => {
  makeState();
  const foreign = [
    join(state, "adapters", "README"),
    join(state, "adapters", "redis", "index.ts"),
    join(state, "docs", "thesis.txt"),
    join(state, "journal", "monday.txt"),
    join(state, "l2-fs", "src", "index.ts"),
    join(state, "notes"),
  ];
  put(...foreign);
  const { code, out } = cli("purge", "--state", "--state-dir", state);
  expect(code).toBe(0);
  for (const path of foreign) expect(existsSync(path)).toBe(true);
  expect(out.trim().split("\n").sort()).toEqual(
    [
      `removed ${pool}`,
      `removed ${join(state, "journal.damaged-1760000000000")}`,
      `removed ${join(state, "pool-name")}`,
      `removed the engine's files in ${join(state, "adapters")}`,
      `removed the engine's files in ${join(state, "journal")}`,
      `removed the engine's files in ${join(state, "l2-fs")}`,
      `left ${join(state, "adapters", "README")}: no engine made it`,
      `left ${join(state, "adapters", "redis")}: no engine made it`,
      `left ${join(state, "docs")}: no engine made it`,
      `left ${join(state, "journal", "monday.txt")}: no engine made it`,
      `left ${join(state, "l2-fs", "src")}: no engine made it`,
      `left ${join(state, "notes")}: no engine made it`,
    ].sort(),
  );
  const stays = ["adapters", "docs", "journal", "l2-fs", "adapters/redis", "l2-fs/src", "notes"];
  const paths = [...foreign.map((path) => path.slice(state.length + 1)), ...stays];
  expect(listing(state)).toEqual([...new Set(paths)].sort());
});

test("purge --state follows no link out of the directory", () => {
  makeState();
  const outside = join(directory, "outside");
  put(join(outside, `${"1".padStart(20, "0")}.journal`), join(outside, "nixl", "slots"));
  const before = listing(outside);
  for (const link of ["l2-fs", "journal", "adapters"]) {
    rmSync(join(state, link), { recursive: true });
    symlinkSync(outside, join(state, link));
  }
  symlinkSync(outside, join(state, "journal.damaged-2"));
  const { code, out } = cli("purge", "--state", "--state-dir", state);
  expect(code).toBe(0);
  for (const link of ["l2-fs", "journal", "adapters", "journal.damaged-2"])
    expect(out).toContain(`left ${join(state, link)}: no engine made it`);
  expect(listing(outside)).toEqual(before);
});

test("a pool name that leads out of /dev/shm is none", () => {
  const target = join(directory, "precious");
  put(target);
  makeState();
  writeFileSync(join(state, "pool-name"), `x/../../..${target}\n`);
  const { code, err } = cli("purge", "--state-dir", state);
  expect(code).toBe(2);
  expect(err).toContain(`${state} names no pool`);
  expect(existsSync(target)).toBe(true);
});

test("purge frees no pool by a name that it had to guess", async () => {
  const port = String(await freePort());
  const other = makePool(`cache_engine_${port}`);
  const refused = (...words: string[]) => {
    const { code, out, err } = cli("purge", "--port", port, ...words);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(existsSync(other)).toBe(true);
    return err;
  };
  const absent = `error INVALID_ARGUMENT: the state directory ${state} does not exist; check --state-dir`;
  expect(refused("--state-dir", state)).toContain(absent);
  expect(refused("--state-dir", state, "--state")).toContain(absent);
  expect(refused("--state-dir", state, "--shm-name", name)).toContain(absent);
  expect(refused("--state-dir", "none")).toMatch(
    /^error INVALID_ARGUMENT: --state-dir none .*--shm-name NAME/,
  );
  expect(refused("--state-dir", directory)).toContain(
    `error INVALID_ARGUMENT: ${directory} names no pool: it has no pool-name of an engine; check --state-dir`,
  );
  const nothing = cli("purge", "--port", port);
  expect(nothing.code).toBe(0);
  expect(nothing.out).toContain(
    `nothing to purge: no engine has kept state in ${join(directory, "xdg", "cache-engine", port)}; ` +
      "check --port or --instance-id, or name a pool with --shm-name",
  );
  expect(existsSync(other)).toBe(true);
  expect(existsSync(pool)).toBe(true);
});

test("purge frees the pool of --shm-name without a state directory, and the derived one with the default one", async () => {
  expect(cli("purge", "--state-dir", "none", "--shm-name", name).out).toBe(`removed ${pool}\n`);
  const [again, port] = [`${name}-b`, String(await freePort())];
  makePool(again);
  expect(cli("purge", "--port", port, "--shm-name", again).out).toBe(
    `removed /dev/shm/lmcache_l1_pool_${again}\n`,
  );
  const derived = makePool(`cache_engine_${port}`);
  mkdirSync(join(directory, "xdg", "cache-engine", port), { recursive: true });
  expect(JSON.parse(cli("purge", "--port", port, "--json").out)).toEqual({
    removed: [derived],
    cleared: [],
    left: [],
    note: null,
  });
});

/** Starts an engine, stops it when it is ready; its last line. */
async function serveOnce(...words: string[]): Promise<string> {
  const engine = spawn(process.execPath, [BIN, "serve", "--l1-size-gb", "0.01", ...words], {
    cwd: directory,
    env: environment(),
    stdio: ["ignore", "pipe", "ignore"],
  });
  let out = "";
  engine.stdout.on("data", (part: Buffer) => {
    out += part.toString();
    if (out.includes("ready in")) engine.kill("SIGTERM");
  });
  expect(await new Promise((resolve) => engine.once("exit", resolve))).toBe(0);
  return out.trim().split("\n").at(-1) ?? "";
}

test("what the engine prints at its end frees its pool as printed, from another directory too", async () => {
  const [port, httpPort] = [String(await freePort()), String(await freePort())];
  const derived = `/dev/shm/lmcache_l1_pool_cache_engine_${port}`;
  pools.push(derived, `${pool}-own`);
  const words = ["--port", port, "--http-port", httpPort, "--default-l2-size-gb", "0.1"];
  for (const [more, path, flags] of [
    [["--shm-name", `${name}-own`], `${pool}-own`, `--port ${port}`],
    [["--state-dir", "it's here"], derived, `--port ${port} --state-dir '${directory}/it'\\''s here'`],
  ] as const) {
    const line = await serveOnce(...words, ...more);
    expect(line).toBe(
      `stopped; the pool ${path} is kept for the next start; free it with: npx @cache/engine purge ${flags}`,
    );
    const shell = `"$0" "$1" purge ${flags}`;
    const options = { encoding: "utf8", env: environment(), cwd: tmpdir() } as const;
    const run = (text: string) => spawnSync("sh", ["-c", text, process.execPath, BIN], options).stdout;
    expect(run(shell)).toBe(`removed ${path}\n`);
    const removed = more[0] === "--state-dir" ? join(directory, "it's here") : undefined;
    if (removed !== undefined) expect(run(`${shell} --state`)).toBe(`removed ${removed}\n`);
  }
  // A real engine's own directory holds nothing that purge does not know, whatever its adapters keep there.
  const own = join(directory, "xdg", "cache-engine", port);
  put(join(own, "adapters", "fs", "whatever", "an-adapter-keeps"));
  expect(cli("purge", "--port", port, "--state").out).toBe(`removed ${own}\n`);
});

test("a start that fails leaves no state directory that it made, and none changed that was there", async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const busy = String((server.address() as AddressInfo).port);
  const port = String(await freePort());
  const failures: (readonly [string[], number])[] = [
    [["--port", busy, "--http-port", port, "--default-l2-size-gb", "0.1"], 4],
    [["--port", port, "--http-port", busy], 4],
    [["--port", port, "--http-port", "0", "--l2-adapter", '{"type":"nonesuch"}'], 2],
  ];
  try {
    for (const [words, code] of failures) {
      expect(cli("serve", "--l1-size-gb", "0.01", ...words).code).toBe(code);
      expect(existsSync(join(directory, "xdg"))).toBe(false);
    }
    const [words, code] = failures[0]!;
    mkdirSync(state);
    for (const path of [join(state, "a", "b"), state])
      expect(cli("serve", "--l1-size-gb", "0.01", ...words, "--state-dir", path).code).toBe(code);
    expect(readdirSync(state).sort()).toEqual(["adapters", "journal", "l2-fs", "pool-name"]);
    expect(existsSync(`/dev/shm/lmcache_l1_pool_cache_engine_${busy}`)).toBe(false);
  } finally {
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }
});

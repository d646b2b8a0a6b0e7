// A served engine of an installed package: started, driven by the real LMCache client or by our own commands, ended.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync } from "node:fs";
import { createServer } from "node:net";
import { delimiter, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { ROOT } from "../dev/lib.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const READY_TIMEOUT_MS = 60_000;
const DRIVE_TIMEOUT_MS = 300_000;
const STOP_TIMEOUT_MS = 20_000;
/** Less than half of what the drive stores: most of it must come from L2. */
const L1_SIZE_GB = "0.0625";
let engines = 0;

/**
 * Starts `command… serve` in a place, with an adapter of `type`. `keeps(word)` gives its options and where its objects
 * can be seen; without it they are files below the place. Gives addresses, the command line, `stop()` and what it
 * printed.
 */
export async function serve(place, command, type, keeps = filesBelow(place)) {
  const label = `pack${process.pid}x${engines++}`;
  const [port, httpPort] = [await freePort(), await freePort()];
  const { options, objects } = keeps(`objects-${label}`);
  const adapter = JSON.stringify({ type, ...options });
  const args = [
    "serve",
    "--port",
    port,
    "--http-port",
    httpPort,
    "--l1-size-gb",
    L1_SIZE_GB,
    "--shm-name",
    label,
  ];
  args.push(
    "--state-dir",
    join(place.directory, `state-${label}`),
    "--free-pool-on-exit",
    "--l2-adapter",
    adapter,
  );
  const [program, ...first] = command;
  // A group of its own: npx does not pass signals on.
  const child = spawn(program, [...first, ...args.map(String)], {
    cwd: place.directory,
    env: place.env,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const engine = {
    child,
    output: "",
    objects,
    http: `http://127.0.0.1:${httpPort}`,
    rpc: `tcp://127.0.0.1:${port}`,
  };
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      engine.output = (engine.output + text).slice(-20_000);
    });
  }
  engine.closed = once(child, "close").catch((error) => [String(error), null]);
  engine.stop = () => stop(engine, `/dev/shm/lmcache_l1_pool_${label}`);
  const readyMs = await ready(engine);
  return { ...engine, readyMs };
}

/** Where an adapter for files keeps its objects: a folder of the place for each word. */
export function filesBelow(place) {
  return (word) => {
    const objects = join(place.directory, word);
    mkdirSync(objects, { recursive: true });
    return { options: { base_path: objects }, objects };
  };
}

async function ready(engine) {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  let ended = null;
  void engine.closed.then(([code]) => {
    ended = code ?? "a signal";
  });
  for (;;) {
    const answer = await fetch(`${engine.http}/healthcheck`).catch(() => null);
    const shown = /^ready in (\d+) ms$/m.exec(engine.output);
    if (answer?.ok && shown !== null) return Number(shown[1]);
    if (ended !== null || Date.now() > deadline) {
      await stop(engine, null);
      throw new Error(
        `the engine ${ended === null ? "is not ready" : `ended with ${ended}`}:\n${engine.output}`,
      );
    }
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** SIGTERM to the whole group. Null if the engine ended well, and took its pool with it; else what is wrong. */
async function stop({ child, closed }, pool) {
  signal(child, "SIGTERM");
  const timer = setTimeout(() => signal(child, "SIGKILL"), STOP_TIMEOUT_MS);
  const [code, name] = await closed;
  clearTimeout(timer);
  // npx itself may report the signal; whether the engine ended cleanly shows in what it left.
  if (name === "SIGKILL") return `not ended ${STOP_TIMEOUT_MS} ms after SIGTERM`;
  if (pool !== null && existsSync(pool)) return `${pool} is still there (exit ${code ?? name})`;
  return null;
}

function signal(child, name) {
  try {
    process.kill(-child.pid, name);
  } catch {
    // the group is gone
  }
}

/** A TCP port that nobody listens on. */
export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Drives an engine with the real LMCache client in `peers`; its report's lines, and its exit code. */
export function driveWithLmcache(engine, peers, label) {
  const tools = join(here, "..", "peers");
  const words = ["--rpc", engine.rpc, "--http", engine.http, "--objects", engine.objects, "--label", label];
  const args = ["-W", "ignore", join(here, "drive.py"), ...words];
  const env = {
    ...process.env,
    PATH: [join(peers, "bin"), process.env.PATH].join(delimiter),
    PYTHONPATH: [join(tools, "shim"), tools].join(delimiter),
    PYTHONDONTWRITEBYTECODE: "1",
    LMCACHE_DISABLE_BANNER: "1",
    LMCACHE_TRACK_USAGE: "false",
  };
  return new Promise((done) => {
    execFile(
      join(peers, "bin", "python"),
      args,
      { env, timeout: DRIVE_TIMEOUT_MS },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1;
        done({ code, lines: stdout.trimEnd().split("\n"), stderr: stderr.slice(-2000) });
      },
    );
  });
}

/** The folder with LMCache: the named one, or `.peers` if there is one, or null. Ends the program if the named one lacks it. */
export function findPeers(named) {
  const folder = resolve(named || join(ROOT, ".peers"));
  if (existsSync(join(folder, "bin", "python"))) return folder;
  if (named) {
    console.error(`no LMCache in ${folder}; tools/peers/setup.sh ${named} makes it`);
    process.exit(2);
  }
  return null;
}

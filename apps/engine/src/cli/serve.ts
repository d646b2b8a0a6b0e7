import type { Command } from "commander";
import type { EngineConfig } from "../config/engine-config.ts";
import { loadConfig } from "../config/load-config.ts";
import { prepareStateDirectory, stateDirectory } from "../config/state-directory.ts";
import type { HttpServer } from "../http/server.ts";
import type { RunningEngine } from "../engine-seam.ts";
import type { EngineLog } from "../logs/logger.ts";
import { banner } from "./banner.ts";
import { typedFlags } from "./config-flags.ts";
import { engineVersion } from "./version.ts";
import { errorText, exitCodeOf, progress, say } from "./output.ts";

interface Started {
  readonly engine: RunningEngine;
  readonly http: HttpServer;
}

/** `cache-engine serve`: starts engine and HTTP server, stops both at SIGTERM or SIGINT. */
export async function serve(command: Command): Promise<void> {
  const { quiet, config: configFile, ...rest } = typedFlags(command);
  const { config, warnings } = await loadConfig({
    flags: rest,
    configFile: typeof configFile === "string" ? configFile : undefined,
    environment: process.env,
  });
  const { createLogger } = await import("../logs/logger.ts");
  const log = createLogger({
    level: config.logLevel,
    instance: config.instance,
    pretty: process.stderr.isTTY,
  });
  for (const warning of warnings) log.warn(warning);
  const state = config.state.directory === null ? null : prepareStateDirectory(config.state.directory);
  if (state !== null && state.warning !== null) log.warn(state.warning);
  warnOfOpenAddresses(config, log);
  const stopping = new AbortController();
  const onSignal = onSignals(stopping, log);
  let started: Started;
  try {
    started = await start(config, log, stopping.signal);
  } catch (error) {
    progress(null);
    if (config.state.directory !== null) {
      const { removeFreshState } = await import("../engine/state-contents.ts");
      await removeFreshState(config.state.directory, state?.made ?? null);
    }
    if (!stopping.signal.aborted) throw error;
    log.info("stopped during the start");
    process.exit(0);
  }
  progress(null);
  if (quiet !== true) {
    const facts = { config, engine: started.engine, httpAddress: started.http.address };
    say(banner({ ...facts, version: engineVersion(), readyMs: performance.now() }));
  }
  log.info("ready", {
    rpc: started.engine.rpcAddress,
    http: started.http.address,
    readyMs: Math.round(performance.now()),
  });
  await onSignal;
  await stop(started, config, log);
}

async function start(config: EngineConfig, log: EngineLog, signal: AbortSignal): Promise<Started> {
  const [{ startHttpServer }, { HttpCounts }, { runEngine }] = await Promise.all([
    import("../http/server.ts"),
    import("../http/http-counts.ts"),
    import("../engine/run-engine.ts"),
  ]);
  let engine: RunningEngine | null = null;
  const counts = new HttpCounts();
  const http = await startHttpServer({ ...config.http, view: () => engine?.view ?? null, log, counts }).catch(
    async (error: unknown) => {
      // The commonest cause is the same engine once more: then its state says so better than the port.
      const { assertStateIsFree } = await import("../engine/state-lock.ts");
      await assertStateIsFree(config);
      throw error;
    },
  );
  try {
    engine = await runEngine(config, {
      log,
      adapters: await adapters(config, log),
      version: engineVersion(),
      http: () => counts.figures(),
      onPhase: (text) => progress(`starting: ${text} …`),
      signal,
    });
  } catch (error) {
    await http.close();
    throw error;
  }
  return { engine, http };
}

async function adapters(config: EngineConfig, log: EngineLog) {
  if (config.l2.adapters.length === 0) return [];
  const { resolveAdapters } = await import("../adapters/resolve-adapters.ts");
  const resolved = await resolveAdapters(config.l2.adapters, config.discovery);
  for (const warning of resolved.warnings) log.warn(warning);
  return resolved.adapters;
}

/** Settles at the first SIGTERM or SIGINT. The second one ends the process at once. */
function onSignals(stopping: AbortController, log: EngineLog): Promise<void> {
  return new Promise((resolve) => {
    const handle = (signal: NodeJS.Signals) => {
      if (stopping.signal.aborted) process.exit(signal === "SIGINT" ? 130 : 143);
      log.info("stopping; a second signal ends at once", { signal });
      stopping.abort();
      resolve();
    };
    process.on("SIGTERM", handle);
    process.on("SIGINT", handle);
  });
}

async function stop({ engine, http }: Started, config: EngineConfig, log: EngineLog): Promise<void> {
  try {
    await http.close();
    const { poolKept } = await engine.stop();
    log.info("stopped", { poolKept });
    say(farewell(engine, config, poolKept));
    // Native handles of libraries must not keep a stopped engine alive.
    process.exit(0);
  } catch (error) {
    process.stderr.write(`${errorText(error, false)}\n`);
    process.exit(exitCodeOf(error));
  }
}

function farewell(engine: RunningEngine, config: EngineConfig, poolKept: boolean): string {
  if (!poolKept || engine.poolPath === null) return "stopped; no pool was kept";
  return `stopped; the pool ${engine.poolPath} is kept for the next start; free it with: npx @cache/engine purge ${purgeFlags(config)}`;
}

/** What `purge` needs to find the state directory, which names the pool, from another shell. */
function purgeFlags({ instance, rpc, state: { directory } }: EngineConfig): string {
  const flags = instance === String(rpc.port) ? `--port ${instance}` : `--instance-id ${instance}`;
  // What systemd sets for its service is not set there.
  const { STATE_DIRECTORY: _, ...environment } = process.env;
  if (directory === null || directory === stateDirectory({ configured: undefined, instance, environment }))
    return flags;
  return `${flags} --state-dir ${shellWord(directory)}`;
}

/** A word as a POSIX shell takes it. */
function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function warnOfOpenAddresses(config: EngineConfig, log: EngineLog): void {
  const loopback = (host: string) => host === "::1" || host.startsWith("127.");
  if (!loopback(config.rpc.host)) {
    log.warn(
      `the RPC server listens on ${config.rpc.host}: its protocol has no authentication and no encryption; whoever reaches port ${config.rpc.port} can read, write and clear the cache`,
    );
  }
  if (!loopback(config.http.host)) {
    log.warn(
      `the HTTP server listens on ${config.http.host}: whoever reaches port ${config.http.port} can read the status${config.http.tokenFile === null ? "; changes from beyond loopback are refused without --http-token-file" : ""}`,
    );
  }
}

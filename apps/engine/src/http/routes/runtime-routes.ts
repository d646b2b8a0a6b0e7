import { readdirSync, readFileSync } from "node:fs";
import { z } from "zod";
import { maskSecrets } from "../../config/mask.ts";
import { json, type LeveledLog, type Reply, type Route } from "../route.ts";
import { loglevelQuery, periodicQuery, threadsQuery } from "../schemas.ts";
import { checkQuery } from "../validation.ts";

const LEVELS = ["critical", "high", "medium", "low"];
/** Python's names of levels, and ours. */
const LOG_LEVELS: Readonly<Record<string, string>> = {
  trace: "trace",
  debug: "debug",
  info: "info",
  warn: "warn",
  warning: "warn",
  error: "error",
  critical: "fatal",
  fatal: "fatal",
};
/** Variables whose values are shown. */
const SHOWN_VARIABLES = /^(CACHE_ENGINE_|LMCACHE_|NODE_|UV_)/;
const LOGGER = "cache_engine";
const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

const text = (status: number, body: string): Reply => ({ status, text: body });

/** The process: environment, log level, threads. */
export const runtimeRoutes: readonly Route[] = [
  {
    method: "GET",
    path: "/env",
    summary: "Environment variables; values only of CACHE_ENGINE_, LMCACHE_, NODE_ and UV_, without secrets.",
    changes: false,
    starting: null,
    handle: () => text(200, environmentText(process.env)),
  },
  {
    method: "GET",
    path: "/loglevel",
    summary: "The log level; with `logger_name` and `level` it is set, which counts as a change.",
    changes: (query) => (query.get("level") ?? "") !== "",
    starting: null,
    query: loglevelQuery,
    handle: ({ log }, { query }) => loglevel(log, query),
  },
  {
    method: "GET",
    path: "/threads",
    summary: "Threads of the process, by the names that the system knows.",
    changes: false,
    starting: null,
    query: threadsQuery,
    handle: (_context, { query }) => {
      const checked = checkQuery(threadsQuery, query);
      if ("refused" in checked) return checked.refused;
      const { name = "", thread_id: id } = checked.value;
      const threads = threadsOfProcess().filter(
        (thread) =>
          thread.name.toLowerCase().includes(name.toLowerCase()) && (id === undefined || thread.id === id),
      );
      const lines = threads.map(
        (thread) => `Thread: <${thread.name}, ${thread.id}>\nNo stack trace available\n`,
      );
      return text(200, `${lines.join("\n\n")}\n\n=== Thread Summary ===\nTotal threads: ${threads.length}\n`);
    },
  },
  {
    method: "GET",
    path: "/periodic-threads",
    summary: "Threads that run now and then: none, the engine's timers are in its event loop.",
    changes: false,
    starting: null,
    query: periodicQuery,
    handle: (_context, { query }) => {
      const checked = checkQuery(periodicQuery, query);
      if ("refused" in checked) return checked.refused;
      const { level } = checked.value;
      if (level !== undefined && level !== "" && !LEVELS.includes(level.toLowerCase())) {
        return json(400, { error: `Invalid level: ${level}. Valid values: ${LEVELS.join(", ")}` });
      }
      const none = { total: 0, running: 0, active: 0 };
      const by_level = Object.fromEntries(LEVELS.map((name) => [name, none]));
      return json(200, {
        summary: { total_count: 0, running_count: 0, active_count: 0, by_level },
        threads: [],
      });
    },
  },
  {
    method: "GET",
    path: "/periodic-threads/{thread_name}",
    summary: "One of these threads.",
    changes: false,
    starting: null,
    handle: (_context, { params }) => json(404, { error: `Thread not found: ${params["thread_name"]}` }),
  },
  {
    method: "GET",
    path: "/periodic-threads-health",
    summary: "Health of these threads.",
    changes: false,
    starting: null,
    reply: z.object({
      healthy: z.boolean(),
      unhealthy_count: z.int(),
      unhealthy_threads: z.array(z.record(z.string(), z.unknown())),
    }),
    handle: () => json(200, { healthy: true, unhealthy_count: 0, unhealthy_threads: [] }),
  },
  {
    method: "GET",
    path: "/metrics",
    summary: "Prometheus text.",
    changes: false,
    starting: "detail",
    handle: async ({ view }) => ({ status: 200, text: await view.metrics(), contentType: METRICS_TYPE }),
  },
  {
    method: "POST",
    path: "/metrics/reset",
    summary: "Counters and histograms of /metrics begin at zero again.",
    changes: true,
    starting: "detail",
    handle: async ({ view }) => {
      await view.resetMetrics();
      return text(200, "ok");
    },
  },
];

function environmentText(environment: Readonly<Record<string, string | undefined>>): string {
  const shown = Object.entries(environment)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => [name, SHOWN_VARIABLES.test(name) ? value : "***"] as const);
  return JSON.stringify(maskSecrets(Object.fromEntries(shown)), null, 2);
}

function loglevel(log: LeveledLog, query: URLSearchParams): Reply {
  const logger = query.get("logger_name") ?? "";
  const level = query.get("level") ?? "";
  const now = (log.level ?? "info").toUpperCase();
  if (logger === "" && level === "") return text(200, `=== Loggers and Levels ===\n${LOGGER}: ${now}\n`);
  // As the reference: nothing is set without a logger's name.
  if (logger === "") return json(200, null);
  if (level === "") return text(200, `${logger}: ${now}`);
  const wanted = LOG_LEVELS[level.toLowerCase()];
  if (wanted === undefined) return text(400, `Invalid log level: ${level}`);
  log.level = wanted;
  return text(200, `Set ${logger} level to ${level.toUpperCase()} (including all handlers)`);
}

function threadsOfProcess(): { id: number; name: string }[] {
  try {
    return readdirSync("/proc/self/task").map((id) => ({
      id: Number(id),
      name: readFileSync(`/proc/self/task/${id}/comm`, "utf8").trim(),
    }));
  } catch {
    return [{ id: process.pid, name: process.title }];
  }
}

import type { AdapterLog } from "@cache/contracts";
import { pino } from "pino";
import type { EngineConfig } from "../config/engine-config.ts";

/** Where log lines go. */
export interface LoggerOptions {
  readonly level: EngineConfig["logLevel"];
  /** Stands in each line. */
  readonly instance: string;
  /** True: readable lines for a terminal, else JSON. */
  readonly pretty: boolean;
  /** Default: stderr, so that stdout is the banner's. */
  readonly write?: (line: string) => void;
}

/** The engine's log. `child` adds fields to each line. */
export interface EngineLog extends AdapterLog {
  /** Least level that is written; may be set while it runs. */
  level: string;
  child(fields: Readonly<Record<string, unknown>>): EngineLog;
}

/** Makes the log. Lines are written at once: what a crash had to say is there. */
export function createLogger(options: LoggerOptions): EngineLog {
  const target =
    options.write === undefined ? pino.destination({ dest: 2, sync: true }) : { write: options.write };
  // A line of progress may stand there; the next one comes after this.
  const destination = options.pretty
    ? { write: (line: string) => target.write(`\r\u001B[K${prettyLine(line)}`) }
    : target;
  const base = { pid: process.pid, instance: options.instance };
  return wrap(pino({ level: options.level, base, timestamp: pino.stdTimeFunctions.isoTime }, destination));
}

function wrap(log: pino.Logger): EngineLog {
  return {
    get level() {
      return log.level;
    },
    set level(level) {
      log.level = level;
    },
    debug: (message, fields = {}) => log.debug(fields, message),
    info: (message, fields = {}) => log.info(fields, message),
    warn: (message, fields = {}) => log.warn(fields, message),
    error: (message, fields = {}) => log.error(fields, message),
    child: (fields) => wrap(log.child(fields)),
  };
}

/** One JSON line as `12:00:00.000 warn  message key=value`. */
function prettyLine(line: string): string {
  const {
    time,
    level,
    msg,
    pid: _pid,
    instance: _instance,
    ...fields
  } = JSON.parse(line) as Record<string, unknown>;
  const rest = Object.entries(fields).map(
    ([key, value]) => ` ${key}=${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  const name = pino.levels.labels[Number(level)] ?? String(level);
  return `${String(time).slice(11, 23)} ${name.padEnd(5)} ${String(msg)}${rest.join("")}\n`;
}

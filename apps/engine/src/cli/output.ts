import { isCacheError, messageOf } from "@cache/contracts";

/** Exit codes of `cache-engine`. */
export const EXIT = {
  ok: 0,
  /** The command could not do its work: a backend, a file, a bug. */
  failed: 1,
  /** Arguments or configuration are wrong. */
  usage: 2,
  /** Nobody answers; `ping`, `status`: or the engine is unhealthy. */
  unreachable: 3,
  /** Another live process holds the pool, the state directory or the port. */
  busy: 4,
} as const;

const EXIT_OF_CODE: Readonly<Record<string, number>> = {
  INVALID_CONFIG: EXIT.usage,
  INVALID_ARGUMENT: EXIT.usage,
  ADAPTER_TYPE_UNKNOWN: EXIT.usage,
  ADAPTER_TYPE_CONFLICT: EXIT.usage,
  POOL_TOO_LARGE: EXIT.usage,
  LOCKED_BY_OTHER_PROCESS: EXIT.busy,
  ADDRESS_IN_USE: EXIT.busy,
};

const EXIT_OF_ERROR = new WeakMap<Error, number>();

/** Gives an error an exit code that its error code alone does not say. */
export function withExitCode<E extends Error>(exitCode: number, error: E): E {
  EXIT_OF_ERROR.set(error, exitCode);
  return error;
}

/** The exit code for an error. */
export function exitCodeOf(error: unknown): number {
  const own = error instanceof Error ? EXIT_OF_ERROR.get(error) : undefined;
  if (own !== undefined) return own;
  return isCacheError(error) ? (EXIT_OF_CODE[error.code] ?? EXIT.failed) : EXIT.failed;
}

/** One line for people: `error CODE: message`; the stack only if asked for. */
export function errorText(error: unknown, verbose: boolean): string {
  const code = isCacheError(error) ? error.code : "INTERNAL";
  const line = `error ${code}: ${messageOf(error).replaceAll(/\s*\n\s*/g, " ")}`;
  return verbose && error instanceof Error ? `${line}\n${error.stack ?? ""}` : line;
}

/** Writes a line to stdout. */
export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Columns of equal width, the last one ragged. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((cell, index) => (widths[index] = Math.max(widths[index] ?? 0, cell.length)));
  return rows
    .map((row) =>
      row
        .map((cell, index) => (index === row.length - 1 ? cell : cell.padEnd(widths[index] ?? 0)))
        .join("  "),
    )
    .join("\n");
}

/** A size for people, from bytes to TiB. */
export function sizeText(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${Number((bytes / 1024 ** power).toFixed(2))} ${units[power] ?? ""}`;
}

/** A line on stderr that replaces itself: nothing where stderr is no terminal. `null` takes it away. */
export function progress(line: string | null): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001B[K${line ?? ""}`);
}

import type { MemoryObj } from "@cache/contracts";

/** What is the same for all files of one open adapter; can be sent to a thread. */
export interface FileSettings {
  readonly basePath: string;
  /** Where temporaries are written. */
  readonly temporaryPath: string;
  /** Start of the names of temporaries. */
  readonly temporaryPrefix: string;
  /** Permissions of object files. */
  readonly fileMode: number;
  readonly fsync: "none" | "data" | "full";
  /** Bytes of a first small read; null: one read. */
  readonly readAheadBytes: number | null;
  readonly useDirect: boolean;
  /** Block of the filesystem, for O_DIRECT. */
  readonly blockBytes: number;
}

/** Some files, and the memory of each; none for `look`. */
export interface FileJob {
  readonly kind: "look" | "read" | "write";
  readonly names: readonly string[];
  readonly objects: readonly MemoryObj[];
  /** The temporaries of a `write` have this number and those that follow. */
  readonly firstTemporary: number;
}

/** A call that failed; an `Error` would lose its `code` on the way from a thread. */
export interface CallFailure {
  /** As Node gives it, e.g. `ENOSPC`; may be empty. */
  readonly code: string;
  readonly message: string;
}

/**
 * What became of one file. `look`: the bytes of a regular file, `absent`, or `irregular` for anything else. `read`:
 * `whole`, or why the object is a miss. `write`: `whole`. Each: `stopped`, with nothing left behind, or a failed call.
 */
export type FileOutcome =
  | number
  | "whole"
  | "absent"
  | "irregular"
  | "other-length"
  | "shrank"
  | "stopped"
  | CallFailure;

/** Objects of at least this size are looked at again after the read. */
export const LARGE_OBJECT_BYTES: number = 256 * 1024;

/** One read or write takes less than 2 GiB. */
export const CALL_BYTES_MAX: number = 1 << 30;

/** The `code` of a failed call, e.g. `ENOENT`; `""` for anything else that was thrown. */
export function errnoOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" ? code : "";
}

/** What was thrown, as an outcome. */
export function failureFrom(error: unknown): CallFailure {
  return { code: errnoOf(error), message: error instanceof Error ? error.message : String(error) };
}

/** The path of a temporary. */
export function temporaryPathOf(settings: FileSettings, number: number): string {
  return `${settings.temporaryPath}/${settings.temporaryPrefix}${number.toString(36)}.tmp`;
}

/** True if an error says that O_DIRECT does not go: the filesystem, the length or the address does not allow it. */
export function refusesDirect(error: unknown): boolean {
  return errnoOf(error) === "EINVAL" || errnoOf(error) === "EOPNOTSUPP";
}

import { CacheError, messageOf } from "@cache/contracts";

const REMEDIES: Readonly<Record<string, string>> = {
  ENOSPC: "free space on its file system",
  EDQUOT: "raise the disk quota or free space",
  EIO: "check the disk: the kernel log names the device",
  EROFS: "mount the file system writable",
  EACCES: "give this user write permission to the directory",
  EPERM: "give this user write permission to the directory",
  EMFILE: "raise the limit of open files (ulimit -n)",
  ENFILE: "raise the system's limit of open files (fs.file-max)",
  EEXIST: "remove the file of that name, it is not part of the journal",
  ENOTDIR: "name a directory",
};

/** The errno name of a failed call (`ENOSPC`), `UNKNOWN` if there is none. */
export function errnoOf(error: unknown): string {
  const code = typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
  return typeof code === "string" ? code : "UNKNOWN";
}

/** `JOURNAL_IO` with errno, file and remedy in message and details. */
export function ioError(
  error: unknown,
  call: { operation: string; file: string; directory: string | null },
): CacheError {
  const errno = errnoOf(error);
  const remedy = REMEDIES[errno] ?? "see the cause";
  const place = call.directory === null ? call.file : `${call.directory}/${call.file}`;
  return new CacheError(
    "JOURNAL_IO",
    `cannot ${call.operation} ${place}: ${errno} (${messageOf(error)}); ${remedy}`,
    { cause: error, details: { errno, file: call.file, operation: call.operation, remedy } },
  );
}

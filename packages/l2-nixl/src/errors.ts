import { CacheError, type CacheErrorCode, isCacheError, messageOf } from "@cache/contracts";
import { NixlFailure } from "./agent.ts";

/** Parameters whose values are secrets, whatever the plugin. */
const SECRET_PARAMETER = /key|secret|token|password|credential|connection|sas/i;

function secretsOf(parameters: Readonly<Record<string, string>>): string[] {
  return Object.entries(parameters)
    .filter(([name, value]) => SECRET_PARAMETER.test(name) && value.length >= 4)
    .map(([, value]) => value)
    .sort((a, b) => b.length - a.length);
}

/** True if a secret parameter stands on the command line, where every user of the machine can read it. */
export function isOnCommandLine(
  parameters: Readonly<Record<string, string>>,
  words: readonly string[] = process.argv,
): boolean {
  return secretsOf(parameters).some((secret) => words.some((word) => word.includes(secret)));
}

/** Takes the values of secret parameters out of text that comes from the library. */
export function redactor(parameters: Readonly<Record<string, string>>): (text: string) => string {
  const secrets = secretsOf(parameters);
  return (text) => secrets.reduce((clean, secret) => clean.replaceAll(secret, "***"), text);
}

/** What system calls and the library's sentences say, and what to do about it. */
const REMEDIES: readonly (readonly [RegExp, CacheErrorCode, string])[] = [
  [/ENOSPC|No space left/i, "BACKEND_FULL", "free space there, or make the pool smaller"],
  [/EDQUOT|quota/i, "BACKEND_FULL", "the disk quota is used up: raise it, or make the pool smaller"],
  [
    /EFBIG|File too large/i,
    "BACKEND_FULL",
    "the filesystem allows no file so large: use a smaller file_size",
  ],
  [
    /EACCES|EPERM|Permission denied|not permitted|AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch/i,
    "BACKEND_REFUSED",
    "give the engine's user the right to read and write there",
  ],
  [/EROFS|Read-only/i, "BACKEND_REFUSED", "mount the filesystem writable, or choose another place"],
  [/EMFILE|Too many open files/i, "BACKEND_UNAVAILABLE", "raise the limit of open files (ulimit -n)"],
  [/ENOTDIR|EISDIR|ELOOP/i, "BACKEND_REFUSED", "something else has that name: move it away"],
  [/NoSuchBucket|Missing config entry/i, "BACKEND_REFUSED", "check backend_params"],
];

/** What went wrong, as a `CacheError` that names the place and the remedy. `CacheError`s pass unchanged. */
export function backendError(error: unknown, action: string, place: string): CacheError {
  if (isCacheError(error)) return error;
  const code = (error as { code?: unknown } | null)?.code;
  const errno = typeof code === "string" ? code : "";
  const text = error instanceof NixlFailure ? error.message : errno || messageOf(error);
  const [, kind, remedy] = REMEDIES.find(([pattern]) => pattern.test(text)) ?? [
    null,
    "BACKEND_UNAVAILABLE" as const,
    "look at the store, and at the kernel's log",
  ];
  const details = error instanceof NixlFailure ? { nixlStatus: error.status } : { errno };
  return new CacheError(kind, `cannot ${action} ${place}: ${text}; ${remedy}`, { cause: error, details });
}

import { CacheError } from "@cache/contracts";

/** The error of work that ended early. */
export function abortedError(): CacheError {
  return new CacheError(
    "ABORTED",
    "the operation was ended early: its deadline passed, or the adapter closes",
  );
}

/**
 * Settles as `work` does, or with an error as soon as the signal fires: `work` may never settle.
 *
 * @param aborted makes the error; default {@link abortedError}.
 */
export async function orAborted<T>(
  work: Promise<T>,
  signal: AbortSignal,
  aborted: () => CacheError = abortedError,
): Promise<T> {
  let onAbort: () => void = () => undefined;
  const ended = new Promise<never>((_, reject) => {
    onAbort = () => reject(aborted());
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([work, ended]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

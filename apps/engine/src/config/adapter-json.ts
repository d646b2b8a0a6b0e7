import { CacheError, type CacheErrorCode, messageOf } from "@cache/contracts";
import { mayBeSecret } from "./mask.ts";

/** Characters of what was given that a message repeats. */
const SHOWN_MAX = 60;

/**
 * Parses JSON that somebody typed. What was given is named, unless it may hold a secret.
 *
 * @param place where it was given, e.g. `--l2-adapter #1`.
 * @param code of the error: a configuration's or an argument's.
 * @throws CacheError `code` with what was given and how a shell wants it.
 */
export function parseTypedJson(
  text: string,
  place: string,
  code: Extract<CacheErrorCode, "INVALID_CONFIG" | "INVALID_ARGUMENT"> = "INVALID_CONFIG",
): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const hint = `in a shell, put single quotes around it and double quotes inside: '{"type":"fs","base_path":"/data"}'`;
    // The parser's own message quotes the text, too: neither it nor the cause is kept.
    if (mayBeSecret(text, text))
      throw new CacheError(
        code,
        `${place}: invalid JSON, not repeated here as it may hold a secret; ${hint}`,
      );
    const given = text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}…` : text;
    throw new CacheError(code, `${place}: invalid JSON: ${messageOf(error)}; given: ${given}; ${hint}`, {
      cause: error,
    });
  }
}

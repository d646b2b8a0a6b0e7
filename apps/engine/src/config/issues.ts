import type { z } from "zod";
import { mayBeSecret } from "./mask.ts";
import { nearestName } from "./nearest.ts";

/** Characters of a value that a message repeats. */
const SHOWN_MAX = 40;

/**
 * The issues of a failed parse as one line: each names its key and says what to do.
 *
 * @param given what was parsed, to name the offending values; left out, none is named.
 */
export function describeIssues(
  issues: readonly z.core.$ZodIssue[],
  knownKeys: readonly string[] = [],
  given: Readonly<Record<string, unknown>> = {},
): string {
  return issues
    .map((issue) => {
      const text = describeIssue(issue, knownKeys);
      return text + offendingValue(given, issue.path, text);
    })
    .join("; ");
}

/** The value that an issue is about: a scalar of its own key, and nothing that may be a secret. */
function offendingValue(
  given: Readonly<Record<string, unknown>>,
  [key, ...inner]: readonly PropertyKey[],
  text: string,
): string {
  if (typeof key !== "string" || inner.length > 0 || !Object.hasOwn(given, key)) return "";
  const value = given[key];
  if ((typeof value === "object" && value !== null) || value === undefined || mayBeSecret(key, value))
    return "";
  const shown = JSON.stringify(value);
  if (text.includes(shown) || text.includes(`'${shown.replace(/^"|"$/g, "")}'`)) return "";
  return `; it is ${shown.length > SHOWN_MAX ? `${shown.slice(0, SHOWN_MAX)}…` : shown}`;
}

function describeIssue(issue: z.core.$ZodIssue, knownKeys: readonly string[]): string {
  const path = issue.path.map(String).join(".");
  const at = path === "" ? "" : `${path}: `;
  if (issue.code === "unrecognized_keys") {
    const names = issue.keys.map((key) => unknownKey(key, knownKeys)).join(", ");
    return `${at}unknown key ${names}`;
  }
  if (issue.code === "invalid_type" && issue.input === undefined && issue.message.includes("undefined")) {
    return `${at}is required (${issue.expected})`;
  }
  // Adapters begin their messages with the key themselves.
  return issue.message.startsWith(`${path} `) ? issue.message : `${at}${lowerFirst(issue.message)}`;
}

/** Names that others give to what a key of ours says; only where the key is known. */
const ALIASES: Readonly<Record<string, string | undefined>> = {
  db: "database_id",
  database: "database_id",
  user: "username",
};

/** A key in quotes, with the name that was probably meant. */
export function unknownKey(key: string, knownKeys: readonly string[]): string {
  const alias = ALIASES[key];
  const near = alias !== undefined && knownKeys.includes(alias) ? alias : nearestName(key, knownKeys);
  return near === null ? `'${key}'` : `'${key}' (did you mean '${near}'?)`;
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}

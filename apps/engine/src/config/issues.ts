import type { z } from "zod";
import { nearestName } from "./nearest.ts";

/** The issues of a failed parse as one line: each names its key and says what to do. */
export function describeIssues(
  issues: readonly z.core.$ZodIssue[],
  knownKeys: readonly string[] = [],
): string {
  return issues.map((issue) => describeIssue(issue, knownKeys)).join("; ");
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
  return `${at}${lowerFirst(issue.message)}`;
}

/** A key in quotes, with the name that was probably meant. */
export function unknownKey(key: string, knownKeys: readonly string[]): string {
  const near = nearestName(key, knownKeys);
  return near === null ? `'${key}'` : `'${key}' (did you mean '${near}'?)`;
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}

import { CacheError } from "@cache/contracts";

/** A message that breaks the protocol: `field` names what, `rule` says how. */
export function violation(field: string, rule: string): CacheError {
  return new CacheError("PROTOCOL_VIOLATION", `${field} ${rule}`, { details: { field } });
}

/** Quotes text from outside for a message: escaped, cut to 80 characters. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}

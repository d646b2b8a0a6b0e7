/** How much a finding matters: `fail` keeps the engine from serving, `warn` makes it less than it could be. */
export type Verdict = "ok" | "warn" | "fail";

/** What one check found. */
export interface Finding {
  /** Short name, stable: scripts may look for it. */
  readonly name: string;
  readonly verdict: Verdict;
  readonly detail: string;
  /** What to do; null where nothing is to be done. */
  readonly fix: string | null;
}

/** All is well. */
export function ok(name: string, detail: string): Finding {
  return { name, verdict: "ok", detail, fix: null };
}

/** Works, with a loss. */
export function warn(name: string, detail: string, fix: string): Finding {
  return { name, verdict: "warn", detail, fix };
}

/** The engine will not serve so. */
export function fail(name: string, detail: string, fix: string): Finding {
  return { name, verdict: "fail", detail, fix };
}

/** Where an adapter stands: `removing` and `removed` only by an operator's word. */
export type AdapterStage = "active" | "draining" | "removing" | "removed";

/** What an operator changed about one adapter while the engine ran. It holds over restarts. */
export interface AdapterChange {
  readonly id: string;
  /** Fingerprint of what the command line said of this id when the change was made; "" if it did not name it. */
  readonly base: string;
  /** Configuration of an added adapter, as JSON; null for one of the command line. */
  readonly config: string | null;
  readonly stage: AdapterStage;
  /** A removal drops the account, too. */
  readonly forget: boolean;
}

/** What the command line says of an adapter. */
export interface ConfiguredAdapter {
  readonly id: string;
  /** Fingerprint of its configuration, without secrets. */
  readonly base: string;
}

/** Which adapters a start opens, and what becomes of changes that do not hold any more. */
export interface AdapterPlan {
  /** Ids of the command line that are not opened as it says. */
  readonly without: ReadonlySet<string>;
  /** Added while an earlier engine ran. */
  readonly added: readonly { readonly id: string; readonly config: string }[];
  /** Removals that an earlier engine did not finish. */
  readonly unfinished: readonly string[];
  /** Changes that the command line has overtaken. */
  readonly dropped: readonly { readonly id: string; readonly reason: string }[];
}

/**
 * The set of a start: the command line's, with what was changed while an engine ran. A change holds as long as the
 * command line says of its id what it said then, or nothing; where the command line has changed, it wins.
 */
export function planAdapters(
  configured: readonly ConfiguredAdapter[],
  changes: Iterable<AdapterChange>,
): AdapterPlan {
  const bases = new Map(configured.map(({ id, base }) => [id, base]));
  const without = new Set<string>();
  const added: { id: string; config: string }[] = [];
  const unfinished: string[] = [];
  const dropped: { id: string; reason: string }[] = [];
  for (const { id, base, config, stage } of changes) {
    const now = bases.get(id);
    if (now !== undefined && now !== base) {
      dropped.push({ id, reason: "the command line names it otherwise than when it was changed" });
      continue;
    }
    if (now === undefined && config === null) {
      dropped.push({ id, reason: "the command line does not name it any more" });
      continue;
    }
    if (stage === "removing") unfinished.push(id);
    else if (config !== null) added.push({ id, config });
    if (stage === "removing" || stage === "removed" || config !== null) without.add(id);
  }
  return { without, added, unfinished, dropped };
}

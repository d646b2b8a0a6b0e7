import { type L2Adapter, messageOf } from "@cache/contracts";
import { createArena } from "./arena.ts";
import { checkedAdapter } from "./checked-adapter.ts";
import type { AdapterHarness, AdapterHarnessFactory } from "./harness.ts";
import type { Law, LawContext } from "./law.ts";
import { createPrng } from "./prng.ts";

/** How laws are tried. */
export interface LawOptions {
  /** Makes a new, empty place for each law. */
  readonly factory: AdapterHarnessFactory;
  /** Longest time for one law, in milliseconds; a law that hangs fails under its name. Default 20 000. */
  readonly lawDeadlineMs?: number | undefined;
  /** How long buffers are watched for writes after an operation has settled, in milliseconds. Default 50. */
  readonly lateWriteGraceMs?: number | undefined;
  /** Takes a line beside a law's result. */
  note(law: Law, line: string): void;
}

const CLEANUP_DEADLINE_MS = 5000;

/** Settles as `work` does, or rejects at the deadline. */
export async function withDeadline<T>(what: string, deadlineMs: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not end within ${deadlineMs} ms`)), deadlineMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

function lawContext(
  harness: AdapterHarness,
  created: L2Adapter[],
  seed: number,
  options: LawOptions,
  note: (line: string) => void,
): LawContext {
  const arena = createArena(harness.l1);
  const signal = new AbortController().signal;
  const secrets = harness.secrets ?? [];
  const createRaw = (): L2Adapter => {
    const adapter = harness.create(arena.l1);
    created.push(adapter);
    return adapter;
  };
  const silent = (): void => {};
  const context: LawContext = {
    harness,
    arena,
    capabilities: createRaw().capabilities,
    random: createPrng(seed),
    signal,
    lateWriteGraceMs: options.lateWriteGraceMs ?? 50,
    createRaw,
    create: () => checkedAdapter(createRaw(), secrets),
    async open() {
      const adapter = context.create();
      await context.openAdapter(adapter);
      return adapter;
    },
    openAdapter: (adapter, openSignal = signal) =>
      adapter.open({
        id: "conformance",
        stateDir: context.capabilities.needsStateDir ? (harness.stateDir ?? null) : null,
        log: { debug: silent, info: silent, warn: silent, error: silent },
        signal: openSignal,
      }),
    note,
  };
  return context;
}

/**
 * Tries one law on a place of its own. The capability that excused the adapter from it, null if the law held.
 *
 * @throws Error `LAW [seed N]: why` if it did not hold.
 */
export async function runLaw(law: Law, seed: number, options: LawOptions): Promise<string | null> {
  const deadlineMs = options.lawDeadlineMs ?? 20_000;
  const harness = await withDeadline(`${law.id}: the factory`, deadlineMs, options.factory());
  const created: L2Adapter[] = [];
  try {
    const context = lawContext(harness, created, seed, options, (line) => options.note(law, line));
    const excuse = law.excuse?.(context.capabilities) ?? null;
    if (excuse === null) await withDeadline(`law ${law.id}`, deadlineMs, law.run(context));
    return excuse;
  } catch (cause) {
    throw new Error(`${law.id} [seed ${seed}]: ${messageOf(cause)}`, { cause });
  } finally {
    const closing = Promise.allSettled(created.map((adapter) => adapter.close()));
    await withDeadline("closing the adapters", CLEANUP_DEADLINE_MS, closing).catch(() => undefined);
    await withDeadline("dispose", CLEANUP_DEADLINE_MS, harness.dispose());
  }
}

import { messageOf } from "@cache/contracts";
import type { Core } from "./core.ts";

/** Token records copied in one turn. */
const COPY_SLICE = 256;
const ROWS_SLICE = 4_096;
/** No snapshot is worth a worker's start for less journal than this. */
const SNAPSHOT_AFTER_BYTES_MIN = 4 * 1024 * 1024;
/** Built code: workers do not read TypeScript. The path is right from `src` and from `dist`. */
const FOLD_MODULE = new URL("../dist/fold-snapshot.js", import.meta.url);

/** Keeps the journal short: snapshots after enough bytes, and token segments that are mostly dead are copied. */
export class Housekeeping {
  readonly #core: Core;
  #busy: Promise<void> | null = null;
  #stopped = false;

  constructor(core: Core) {
    this.#core = core;
  }

  tick(): void {
    if (this.#busy !== null || this.#stopped || !this.#core.healthy) return;
    const { journal } = this.#core;
    if (journal.bytesSinceSnapshot >= this.#snapshotAfterBytes()) this.#begin(this.#snapshot());
    else if (journal.side.candidate() !== null)
      this.#begin(this.#compact(journal.side.candidate() as number));
  }

  /**
   * A start reads the snapshot and folds what follows: a byte of journal costs it some five times a byte of snapshot,
   * so that the journal may grow to half of the snapshot's size before the time of a start suffers.
   */
  #snapshotAfterBytes(): number {
    const { journal, options } = this.#core;
    const half = Math.max(SNAPSHOT_AFTER_BYTES_MIN, journal.snapshotBytes / 2);
    return Math.min(options.snapshotBytes, half);
  }

  #begin(work: Promise<void>): void {
    this.#busy = work
      .catch((error: unknown) => {
        this.#core.log.warn("journal housekeeping failed; it is tried again", { error: messageOf(error) });
      })
      .finally(() => {
        this.#busy = null;
      });
  }

  async #snapshot(): Promise<void> {
    const { position } = await this.#core.journal.snapshot({ module: FOLD_MODULE });
    this.#core.log.debug("journal snapshot", { position: String(position) });
  }

  /** Copies what is alive in a token segment to the newest one, then removes it. */
  async #compact(segment: number): Promise<void> {
    const { state, journal } = this.#core;
    let alive: number[] = [];
    for (let key = 0; key < state.keys.numbers.bound && !this.#stopped; key++) {
      if (state.keys.tokenSegment.get(key) === segment + 1) alive.push(key);
      if (alive.length >= COPY_SLICE || key % ROWS_SLICE === ROWS_SLICE - 1) {
        if (!this.#copy(segment, alive)) return;
        alive = [];
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    if (this.#stopped || !this.#copy(segment, alive)) return;
    await journal.side.removeSegment(segment);
  }

  #copy(segment: number, keys: readonly number[]): boolean {
    const { state, journal } = this.#core;
    const { tokenSegment, tokenOffset } = state.keys;
    const moved = keys.filter((key) => tokenSegment.get(key) === segment + 1);
    if (moved.length === 0) return true;
    // In the order of the file: neighbours come with one read.
    moved.sort((a, b) => tokenOffset.get(a) - tokenOffset.get(b));
    const refs = moved.map((key) =>
      journal.side.append(journal.side.read({ segment, offset: tokenOffset.get(key) })),
    );
    this.#core.record({
      type: "l1.tokens.recorded",
      keys: moved,
      segments: refs.map((ref) => ref.segment),
      offsets: refs.map((ref) => ref.offset),
    });
    return this.#core.commit();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#busy;
  }
}

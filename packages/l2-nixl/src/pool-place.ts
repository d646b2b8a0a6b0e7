import type { NixlAgent, StoreKind } from "./agent.ts";
import type { PageRun } from "./pages.ts";
import type { Range } from "./memory.ts";

/** The files or objects that a static pool consists of. */
export interface PoolPlace {
  readonly kind: StoreKind;
  /**
   * Makes what is missing, makes all of it known to the library, and keeps others out where that can be done.
   *
   * @returns the pool id that was noted there last, null if none.
   */
  open(agent: NixlAgent): Promise<string | null>;
  /** Notes which pool uses the place from now on. */
  writeOwner(poolId: string): Promise<void>;
  /**
   * True unless another adapter uses the place since: what is read before this answers is still what was written here.
   * Throws a `CacheError` if that cannot be told.
   */
  isStillOf(poolId: string, ended: AbortSignal): Promise<boolean>;
  /** Where pages lie. */
  ranges(runs: readonly PageRun[]): Range[];
  /** Waits until what was written to these pages survives the machine. */
  sync(runs: readonly PageRun[]): Promise<void>;
  /** The same for everything that was written. */
  syncAll(): Promise<void>;
  /** Bytes that can still be written there; null if that is not known. */
  freeBytes(): number | null;
  close(): Promise<void>;
}

/** How pages are spread over files or objects. */
export interface PoolShape {
  readonly pageBytes: number;
  readonly pagesPerContainer: number;
  readonly containers: number;
}

/** The ranges of pages, split where a file or object ends. */
export function rangesOf(
  runs: readonly PageRun[],
  shape: PoolShape,
  deviceOf: (container: number) => number,
): Range[] {
  const { pageBytes, pagesPerContainer } = shape;
  const ranges: Range[] = [];
  for (const { first, count } of runs) {
    for (let page = first; page < first + count; ) {
      const container = Math.floor(page / pagesPerContainer);
      const inside = page % pagesPerContainer;
      const pages = Math.min(pagesPerContainer - inside, first + count - page);
      ranges.push({
        device: deviceOf(container),
        offset: inside * pageBytes,
        byteLength: pages * pageBytes,
      });
      page += pages;
    }
  }
  return ranges;
}

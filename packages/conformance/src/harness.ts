import type { L1MemoryDesc, L2Adapter } from "@cache/contracts";

/**
 * One empty place for data, and the adapters on it. The suite asks its factory for a new one for each law.
 *
 * The place must hold at least 32 MiB, and nobody else may write to it while the law runs.
 */
export interface AdapterHarness {
  /**
   * Makes an adapter on this place, not opened. Called again for "reopen" (after the first was closed) and, where
   * the manifest says `shared`, for a second adapter beside the first. A persistent adapter then finds the same
   * data; one that is not persistent finds none.
   *
   * @param l1 the memory in which all buffers of this law lie: {@link AdapterHarness.l1} if that was given.
   */
  create(l1: L1MemoryDesc): L2Adapter;
  /**
   * Mapped memory of at least 32 MiB in its first view, for adapters with `l1Registration: "required"`. The suite
   * writes all over it. Default: ordinary memory of the process, with a null pointer.
   */
  readonly l1?: L1MemoryDesc;
  /** Passed to `open`; needed where the manifest says `needsStateDir`. Default null. */
  readonly stateDir?: string | null;
  /** Values (passwords, tokens) that must stand in no location, status or error message. */
  readonly secrets?: readonly string[];
  /** Removes the place. Called once, after all adapters were closed, also when the law failed. */
  dispose(): Promise<void>;
}

/** Makes a new, empty place. */
export type AdapterHarnessFactory = () => Promise<AdapterHarness>;

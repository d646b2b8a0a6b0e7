import type { L2Adapter } from "@cache/contracts";
import type { GuardedAdapter } from "../l2-gate/index.ts";
import type { ObjectBuffers } from "./object-buffers.ts";

/** Capacity eviction of one adapter; LMCache's `eviction` object. */
export interface L2EvictionSpec {
  readonly policy: "LRU" | "noop";
  /** Used fraction from which on objects are evicted. */
  readonly triggerWatermark: number;
  /** Fraction of the capacity that one eviction frees. */
  readonly evictionRatio: number;
}

/** A configured adapter, made but not opened. */
export interface AdapterSetup {
  readonly id: string;
  readonly adapter: L2Adapter;
  readonly stateDir: string | null;
  /** Null: never evicted. */
  readonly eviction: L2EvictionSpec | null;
  /** The pool of a fleet: eviction then takes only what this engine stored. */
  readonly shared: boolean;
  /** Fingerprint of what the command line says of this id, without secrets; default "": it does not name it. */
  readonly base?: string;
  /** Added while an engine ran: no command line names it so. */
  readonly added?: boolean;
}

/** An open adapter with its number in the journal. */
export interface AttachedAdapter extends AdapterSetup {
  readonly number: number;
  readonly gate: GuardedAdapter;
  /** Its own: an adapter that hangs must not take the others' buffers. */
  readonly buffers: ObjectBuffers;
}

/**
 * Every event that changes the engine's state. An event is plain data; its binary form is made from the field
 * list here (see `codec.ts`), so a page of documentation and the code cannot disagree.
 *
 * Numbers stand for things that earlier events defined: `slot` a range of L1, `key` an `ObjectKey`, `group`
 * what many keys share (model, rank, object group, tenant), `layout`, `session` a request's lookup,
 * `transfer` a hand-out. Batches are one event: lists of numbers are written as runs.
 */

/** How a field is written: `uint` varint below 2^53, `id64` eight bytes, `uints` runs, `hashes` 32 bytes each. */
export type FieldKind = "uint" | "id64" | "text" | "flag" | "uints" | "hashes";

interface FieldValues {
  uint: number;
  id64: bigint;
  text: string;
  flag: boolean;
  uints: readonly number[];
  hashes: Uint8Array;
}

interface Definition {
  /** First byte of the record; never reused. */
  readonly code: number;
  /** Second byte; raised when fields change, with an upcaster beside it. */
  readonly version: number;
  readonly fields: Readonly<Record<string, FieldKind>>;
  /** One line for `docs/reference/events.md`. */
  readonly meaning: string;
}

function define<const D extends Definition>(definition: D): D {
  return definition;
}

/** All event types by name. Where LMCache has a name for the same thing, it is LMCache's. */
export const EVENT_DEFINITIONS = {
  "engine.started": define({
    code: 1,
    version: 1,
    fields: { wallMs: "uint", bootId: "text", cleanStop: "flag" },
    meaning: "The engine came up on this journal. Locks, holds and times begin anew.",
  }),
  "engine.stopped": define({
    code: 2,
    version: 1,
    fields: { wallMs: "uint" },
    meaning: "The engine stopped in an orderly way.",
  }),
  "l1.pool.created": define({
    code: 3,
    version: 1,
    fields: {
      poolId: "text",
      bootId: "text",
      device: "text",
      inode: "text",
      sizeBytes: "uint",
      alignBytes: "uint",
      reason: "text",
    },
    meaning:
      "A new, empty pool. All L1 objects, hand-outs, sessions and registrations of the old one are gone.",
  }),
  "layout.defined": define({
    code: 4,
    version: 1,
    fields: { layout: "uint", shape: "uints", dtype: "text", blockSize: "uint", objectBytes: "uint" },
    meaning: "Binds a number to shape, dtype and block size of a registration.",
  }),
  "group.defined": define({
    code: 5,
    version: 1,
    fields: { group: "uint", modelName: "text", kvRank: "uint", objectGroupId: "uint", cacheSalt: "text" },
    meaning: "Binds a number to model, kv rank, object group and tenant.",
  }),
  "client.registered": define({
    code: 6,
    version: 1,
    fields: { instance: "id64", modelName: "text", worldSize: "uint", layout: "uint", inline: "flag" },
    meaning:
      "An instance registered its KV cache, or refreshed it; with `inline` it does not copy out of the pool.",
  }),
  "client.unregistered": define({
    code: 7,
    version: 1,
    fields: { instance: "id64", reason: "text" },
    meaning: "An instance unregistered, or was dropped for its silence.",
  }),
  "adapter.opened": define({
    code: 8,
    version: 1,
    fields: { adapter: "uint", id: "text", location: "text", reset: "flag" },
    meaning: "Binds a number to a configured adapter; with `reset` its accounting begins anew.",
  }),
  "l1.key.bound": define({
    code: 9,
    version: 1,
    fields: { group: "uint", keys: "uints", hashes: "hashes" },
    meaning: "Binds numbers to keys of one group.",
  }),
  "l1.write.reserved": define({
    code: 10,
    version: 1,
    fields: {
      transfer: "uint",
      /** 0 a client, 1 a load from L2, 2 an inline store by the engine itself. */
      writer: "uint",
      instance: "id64",
      /** Adapter number plus one of a load; 0 otherwise. */
      adapter: "uint",
      requestId: "text",
      /** First 16 hex digits of a digest over the transfer's identity: matches its commit. */
      match: "text",
      layout: "uint",
      complete: "flag",
      /** Loads that may leave L1 after their last reader. */
      temporary: "flag",
      slots: "uints",
      keys: "uints",
      /** In units of the pool's alignment. */
      offsets: "uints",
    },
    meaning: "Slots were staged. Invisible to lookups until `l1.write.finished`.",
  }),
  "l1.write.finished": define({
    code: 11,
    version: 1,
    fields: { transfer: "uint", /** Positions in the transfer that did not arrive. */ missing: "uints" },
    meaning: "Staged slots became resident; of two for one key the first wins.",
  }),
  "l1.write.abandoned": define({
    code: 12,
    version: 1,
    fields: { transfer: "uint", hold: "flag", reason: "text" },
    meaning: "A write will not be committed. With `hold` its bytes are held back, else they are free.",
  }),
  "session.looked_up": define({
    code: 13,
    version: 1,
    fields: {
      session: "uint",
      requestId: "text",
      /** True while L2 is asked: the result comes with a second event of the same session. */
      pending: "flag",
      ranks: "uint",
      readers: "uint",
      hits: "uint",
      /** Locked slots, chunk by chunk, all ranks of a chunk together; slot plus one, 0 for none (only while pending). */
      slots: "uints",
    },
    meaning: "A lookup took `readers` read locks on each slot. LMCache: l1.read.reserved.",
  }),
  "session.answered": define({
    code: 14,
    version: 1,
    fields: { session: "uint" },
    meaning: "The lookup's result was given out; a second question is answered 0.",
  }),
  "session.locks.released": define({
    code: 15,
    version: 1,
    fields: {
      session: "uint",
      fromChunk: "uint",
      toChunk: "uint",
      /** Rank plus one; 0 all. */ rank: "uint",
      count: "uint",
    },
    meaning: "Read locks of a lookup were given back.",
  }),
  "session.ended": define({
    code: 16,
    version: 1,
    fields: { session: "uint", reason: "text" },
    meaning:
      "The request is over: what it hit counts as recently used. Locks stay until released or expired.",
  }),
  "l1.read.expired": define({
    code: 17,
    version: 1,
    fields: { slots: "uints" },
    meaning: "Read locks of these slots ended by time.",
  }),
  "l1.read.handed_out": define({
    code: 18,
    version: 1,
    fields: {
      transfer: "uint",
      instance: "id64",
      requestId: "text",
      match: "text",
      /** Session plus one whose locks the commit consumes; 0 none. */
      session: "uint",
      fromChunk: "uint",
      toChunk: "uint",
      rank: "uint",
      /** The engine itself reads, for a reply that carries the bytes: over when the engine is. */
      inline: "flag",
      slots: "uints",
    },
    meaning: "A client was told the offsets of these slots for reading.",
  }),
  "l1.read.finished": define({
    code: 19,
    version: 1,
    fields: {
      transfer: "uint",
      /** False: the hand-out ended without its commit. */ committed: "flag",
      reason: "text",
    },
    meaning: "A read hand-out ended; a commit consumes one read lock an object.",
  }),
  "l1.keys.evicted": define({
    code: 20,
    version: 1,
    fields: { slots: "uints", reason: "text" },
    meaning: "Objects left L1.",
  }),
  "l1.keys.accessed": define({
    code: 21,
    version: 1,
    fields: { slots: "uints" },
    meaning: "Objects count as recently used.",
  }),
  "l1.tokens.recorded": define({
    code: 22,
    version: 1,
    fields: { keys: "uints", segments: "uints", offsets: "uints" },
    meaning: "Where the token record of each key lies.",
  }),
  "l2.store.submitted": define({
    code: 23,
    version: 1,
    fields: { adapter: "uint", task: "uint", layout: "uint", keys: "uints" },
    meaning: "A store to an adapter began; in doubt until `l2.store.completed`.",
  }),
  "l2.store.completed": define({
    code: 24,
    version: 1,
    fields: { adapter: "uint", task: "uint", stored: "uints", failed: "uints", reason: "text" },
    meaning: "The adapter has the stored keys; the failed ones it has not.",
  }),
  "l2.store.given_up": define({
    code: 25,
    version: 1,
    fields: { adapter: "uint", keys: "uints", reason: "text" },
    meaning: "The adapter will not get these objects; L1 may drop them.",
  }),
  "l2.delete.submitted": define({
    code: 26,
    version: 1,
    fields: { adapter: "uint", keys: "uints", reason: "text" },
    meaning: "A delete began; in doubt until `l2.keys.deleted` or `l2.delete.refused`.",
  }),
  "l2.keys.deleted": define({
    code: 27,
    version: 1,
    fields: { adapter: "uint", keys: "uints", reason: "text" },
    meaning: "The adapter has these objects no more.",
  }),
  "l2.delete.refused": define({
    code: 28,
    version: 1,
    fields: { adapter: "uint", keys: "uints" },
    meaning: "The adapter kept these objects (locked, or the delete failed).",
  }),
  "l2.keys.adopted": define({
    code: 29,
    version: 1,
    fields: { adapter: "uint", keys: "uints", lengths: "uints" },
    meaning: "A listing found objects that no event of ours names.",
  }),
  "l2.keys.accessed": define({
    code: 30,
    version: 1,
    fields: { adapter: "uint", keys: "uints" },
    meaning: "Objects of an adapter count as recently used.",
  }),
  "quota.set": define({
    code: 31,
    version: 1,
    fields: { cacheSalt: "text", limitBytes: "uint" },
    meaning: "A tenant may hold at most this many bytes in each tier.",
  }),
  "quota.removed": define({
    code: 32,
    version: 1,
    fields: { cacheSalt: "text" },
    meaning: "A tenant has no limit any more.",
  }),
  "adapter.added": define({
    code: 33,
    version: 1,
    fields: {
      id: "text",
      /** Fingerprint of what the command line says of this id; "" if it does not name it. */
      base: "text",
      /** JSON as `--l2-adapter` takes it; holds no secret. */
      config: "text",
    },
    meaning: "An operator added an adapter while the engine ran; it is opened at each start from now on.",
  }),
  "adapter.draining": define({
    code: 34,
    version: 1,
    fields: {
      adapter: "uint",
      base: "text",
      /** It is removed once its stores have ended. */ removing: "flag",
      forget: "flag",
    },
    meaning: "An adapter takes no new stores; what it holds is loaded all the same.",
  }),
  "adapter.removed": define({
    code: 35,
    version: 1,
    fields: { adapter: "uint", forget: "flag", reason: "text" },
    meaning:
      "An adapter is not asked any more, and nothing waits for it; with `forget` its account is dropped, else it is kept for its return.",
  }),
  "adapter.change.dropped": define({
    code: 36,
    version: 1,
    fields: { id: "text", reason: "text" },
    meaning: "What was changed about an adapter while the engine ran counts no more.",
  }),
} as const satisfies Record<string, Definition>;

/** Name of an event type. */
export type EventType = keyof typeof EVENT_DEFINITIONS;

/** The event of one type. */
export type EventOf<T extends EventType> = { readonly type: T } & {
  readonly [F in keyof (typeof EVENT_DEFINITIONS)[T]["fields"]]: FieldValues[(typeof EVENT_DEFINITIONS)[T]["fields"][F] &
    FieldKind];
};

/** Any event. */
export type CacheEvent = { [T in EventType]: EventOf<T> }[EventType];

/** Who fills the slots of `l1.write.reserved`. */
export const WRITER = { client: 0, load: 1, inline: 2 } as const;

import type { KeyGroup } from "./key-table.ts";

/** A layout: what else than the key an object is. */
export interface Layout {
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly blockSize: number;
  readonly objectBytes: number;
}

/** Text that is equal exactly for equal layouts. */
export function layoutText(layout: Omit<Layout, "objectBytes">): string {
  return `${layout.dtype}[${layout.shape.join(",")}]/${layout.blockSize}`;
}

/** A registered instance. */
export interface Client {
  readonly instance: bigint;
  readonly modelName: string;
  readonly worldSize: number;
  readonly layout: number;
  /** It was not offered the pool, or was and sends its data inline all the same. */
  readonly inline: boolean;
}

/** Which layout a model has at a world size: the latest registration's. */
export function modelText(modelName: string, worldSize: number): string {
  return `${worldSize}@${modelName}`;
}

/** A request's lookup and the locks that it took. */
export interface Session {
  readonly number: number;
  readonly requestId: string;
  pending: boolean;
  answered: boolean;
  ranks: number;
  readers: number;
  /** Chunks of the longest prefix that was found. */
  hits: number;
  /** Locked slot plus one, chunk by chunk, all ranks of a chunk together; 0 none. */
  slots: Uint32Array;
  generations: Uint32Array;
  /** Locks left of each. */
  remaining: Uint32Array;
}

/** A hand-out: slots whose offsets a client was told, or that a load fills. */
export interface Transfer {
  readonly number: number;
  readonly kind: "write" | "read";
  readonly writer: number;
  readonly instance: bigint;
  readonly adapter: number;
  readonly requestId: string;
  readonly match: string;
  readonly layout: number;
  readonly complete: boolean;
  readonly temporary: boolean;
  readonly slots: readonly number[];
  readonly generations: readonly number[];
  /** Reads: session plus one, chunk range and rank whose locks the commit consumes. */
  readonly session: number;
  readonly fromChunk: number;
  readonly toChunk: number;
  readonly rank: number;
  /** Reads: the engine itself copies the bytes into its reply. */
  readonly inline: boolean;
  /** No commit can come any more; the bytes wait until nobody can touch them. */
  held: boolean;
}

/** Identity of the pool that L1 state belongs to; what the pool file must agree with. */
export interface PoolRecord {
  readonly poolId: string;
  readonly bootId: string;
  readonly device: string;
  readonly inode: string;
  readonly sizeBytes: number;
  readonly alignBytes: number;
}

/** A tenant's part of L1. */
export interface TenantUsage {
  bytes: number;
  objects: number;
}

/** Full name of a key, for reading events. */
export interface NamedKey extends KeyGroup {
  readonly chunkHash: Uint8Array;
}

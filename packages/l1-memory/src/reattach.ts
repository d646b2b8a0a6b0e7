import { decodeTrailer, type Trailer, TRAILER_BYTES } from "./trailer.ts";
import type { L1PoolOptions, PoolRefusal } from "./types.ts";

/** What stat(2) says of an existing pool file. */
export interface PoolFileFacts {
  readonly device: string;
  readonly inode: string;
  readonly fileBytes: number;
  /** Permission bits. */
  readonly mode: number;
  readonly group: number;
}

/** Whether a pool file is taken over. */
export type ReattachDecision =
  | { readonly trailer: Trailer; readonly reservedBytes: number; readonly refusal: null }
  | { readonly trailer: null; readonly refusal: PoolRefusal };

function refuse(check: PoolRefusal["check"], detail: string): ReattachDecision {
  return { trailer: null, refusal: { check, detail } };
}

/** What the journal knows against what the machine and the file show; null if all agrees. */
function refusalByFacts(options: L1PoolOptions, facts: PoolFileFacts, bootId: string): PoolRefusal | null {
  const { expected, mode = 0o600 } = options;
  const no = (check: PoolRefusal["check"], detail: string): PoolRefusal => ({ check, detail });
  if (expected === null) return no("identity", "the journal knows of no pool");
  if (expected.bootId !== bootId) return no("boot", "the machine was started again since");
  if (expected.device !== facts.device || expected.inode !== facts.inode) {
    const found = `device ${facts.device} inode ${facts.inode}`;
    return no("identity", `the file is ${found}, not device ${expected.device} inode ${expected.inode}`);
  }
  if (expected.sizeBytes !== options.sizeBytes || expected.alignBytes !== options.alignBytes) {
    return no(
      "geometry",
      `it was made with ${expected.sizeBytes} bytes aligned to ${expected.alignBytes}, ` +
        `asked for are ${options.sizeBytes} aligned to ${options.alignBytes}`,
    );
  }
  if (facts.fileBytes !== options.sizeBytes + TRAILER_BYTES) {
    return no("geometry", `the file has ${facts.fileBytes} bytes, not ${options.sizeBytes + TRAILER_BYTES}`);
  }
  // A pool that was open to others may still be mapped by them, unseen by the scan of mappers.
  if (facts.mode !== mode) {
    return no("geometry", `its mode is ${facts.mode.toString(8)}, asked for is ${mode.toString(8)}`);
  }
  if (options.group !== undefined && facts.group !== options.group) {
    return no("geometry", `its group is ${facts.group}, asked for is ${options.group}`);
  }
  return null;
}

/**
 * Decides whether an existing pool file is re-attached: every check of `PoolRefusal`, the position's last.
 *
 * @param trailerBytes the last 4,096 bytes of the file, fewer if it is shorter.
 */
export function decideReattach(
  options: L1PoolOptions,
  facts: PoolFileFacts,
  trailerBytes: Buffer,
  bootId: string,
): ReattachDecision {
  const refusal = refusalByFacts(options, facts, bootId);
  if (refusal !== null) return { trailer: null, refusal };
  const trailer = decodeTrailer(trailerBytes);
  if ("damage" in trailer) return refuse("trailer", `the trailer of the pool is damaged: ${trailer.damage}`);
  if (trailer.poolId !== options.expected?.poolId) {
    return refuse("identity", `its pool id is ${trailer.poolId}, not ${options.expected?.poolId}`);
  }
  if (trailer.journalId !== options.journalId) {
    return refuse("identity", `it belongs to the journal ${trailer.journalId}, not to ${options.journalId}`);
  }
  if (trailer.bootId !== bootId) return refuse("boot", "its trailer was written before the machine's start");
  if (trailer.sizeBytes !== options.sizeBytes || trailer.alignBytes !== options.alignBytes) {
    return refuse("geometry", `its trailer says ${trailer.sizeBytes} bytes aligned to ${trailer.alignBytes}`);
  }
  const reservedBytes = Number(trailer.reservedBytes);
  if (reservedBytes > options.sizeBytes || reservedBytes % options.alignBytes !== 0) {
    return refuse("trailer", `the trailer says that ${trailer.reservedBytes} bytes are reserved`);
  }
  if (trailer.marked) return refuse("marked", "it was marked as not to be re-attached");
  const behind = options.checkPosition?.(trailer.position) ?? null;
  if (behind !== null) return refuse("position", behind);
  return { trailer, reservedBytes, refusal: null };
}

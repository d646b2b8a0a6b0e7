import { setImmediate as nextTurn } from "node:timers/promises";
import { kernelCalls } from "./kernel-calls.ts";

/**
 * Copies `from` into `to`, of equal length, without holding the event loop up. Neither may change or be given back
 * before it settles.
 */
export type BulkCopy = (to: Uint8Array, from: Uint8Array) => Promise<void>;

/** Copied on this thread, in bytes: another one would take longer to wake up. */
const HERE_MAX = 256 * 1024;
/** Bytes copied here before the event loop turns to something else: about a millisecond. */
const SLICE = 4 * 2 ** 20;

let sinceTurn = 0;

async function copyHere(to: Uint8Array, from: Uint8Array): Promise<void> {
  for (let at = 0; at < from.length; at += SLICE) {
    const end = Math.min(from.length, at + SLICE);
    to.set(from.subarray(at, end), at);
    sinceTurn += end - at;
    if (sinceTurn < SLICE) continue;
    sinceTurn = 0;
    await nextTurn();
  }
}

/**
 * A copy on another thread through koffi; without it in slices on this one. `useKoffi: false` acts as if it were
 * absent.
 */
export function bulkCopy(options: { useKoffi?: boolean } = {}): BulkCopy {
  const calls = kernelCalls(options);
  return async (to, from) => {
    if (to.length !== from.length) throw new RangeError(`${from.length} bytes do not fill ${to.length}`);
    if (calls === null || from.length <= HERE_MAX) await copyHere(to, from);
    else await calls.copy(to, from);
  };
}

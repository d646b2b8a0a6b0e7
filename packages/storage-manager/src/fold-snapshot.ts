import type { JournalRecord } from "@cache/journal";
import { encodeState, foldRecords } from "./state/snapshot.ts";

/** Entry of the journal's snapshot worker: see `SnapshotSource` of `@cache/journal`. */
export function foldSnapshot(previous: Uint8Array | null, records: Iterable<JournalRecord>): Uint8Array {
  return encodeState(foldRecords(previous, records));
}

import { Bitmap, type CacheError, type L2StoreResult } from "@cache/contracts";

/** What one call of the adapter brought. */
export type BatchAnswer<Answer> =
  | { readonly ok: true; readonly value: Answer }
  | { readonly ok: false; readonly error: CacheError };

/** One batch: the positions, in the whole request, of the keys that it holds, ascending. */
export type Batch = readonly number[];

/** The answers of all batches put together. */
export interface Merged<Result> {
  readonly value: Result;
  /** Positions without an answer, and why: their clear bits are no misses. */
  readonly failures: ReadonlyMap<number, CacheError>;
}

/** Splits the accepted positions of a request into batches of at most `maxBatchKeys`. */
export function splitPositions(
  count: number,
  refused: ReadonlyMap<number, CacheError>,
  maxBatchKeys: number,
): Batch[] {
  const batches: number[][] = [];
  let batch: number[] = [];
  for (let position = 0; position < count; position++) {
    if (refused.has(position)) continue;
    if (batch.length === 0) batches.push(batch);
    batch.push(position);
    if (batch.length >= maxBatchKeys) batch = [];
  }
  return batches;
}

/** Items of a request at the positions of a batch. */
export function pick<Item>(items: readonly Item[], batch: Batch): Item[] {
  return batch.map((position) => items[position] as Item);
}

/** Puts bitmaps together; positions keep their place in the whole request. */
export function mergeBitmaps(
  count: number,
  batches: readonly Batch[],
  refused: ReadonlyMap<number, CacheError>,
  answers: readonly BatchAnswer<Bitmap>[],
): Merged<Bitmap> {
  const value = new Bitmap(count);
  const failures = new Map(refused);
  batches.forEach((batch, index) => {
    const answer = answers[index];
    if (answer === undefined) return;
    batch.forEach((position, i) => {
      if (!answer.ok) failures.set(position, answer.error);
      else if (answer.value.has(i)) value.set(position);
    });
  });
  return { value, failures };
}

/** Puts store results together; every clear bit has its entry in `failed`, as in one result. */
export function mergeStoreResults(
  count: number,
  batches: readonly Batch[],
  refused: ReadonlyMap<number, CacheError>,
  answers: readonly BatchAnswer<L2StoreResult>[],
): Merged<L2StoreResult> {
  const stored = new Bitmap(count);
  const failed = new Map(refused);
  let bytesTransferred = 0;
  batches.forEach((batch, index) => {
    const answer = answers[index];
    if (answer === undefined) return;
    if (answer.ok) bytesTransferred += answer.value.bytesTransferred;
    batch.forEach((position, i) => {
      const error = answer.ok ? answer.value.failed.get(i) : answer.error;
      if (error === undefined) stored.set(position);
      else failed.set(position, error);
    });
  });
  return { value: { stored, failed, bytesTransferred }, failures: failed };
}

import { type Bitmap, messageOf, type SizedKey } from "@cache/contracts";
import type { Core } from "../core.ts";
import { L2 } from "../state/ledger.ts";
import type { Transfer } from "../state/records.ts";
import { forgetAbsent } from "./absent-keys.ts";
import type { AttachedAdapter } from "./attached-adapter.ts";
import type { BorrowedBuffers } from "./object-buffers.ts";

/** Objects that one adapter loads into staged slots. */
export interface LoadBatch {
  readonly holder: AttachedAdapter;
  readonly requests: readonly SizedKey[];
  /** The staged slots, in the order of the requests. */
  readonly transfer: Transfer;
  readonly keys: readonly number[];
  readonly offsets: readonly number[];
  readonly objectBytes: number;
  /** Called just before what arrived becomes resident: the last moment to keep eviction away. */
  readonly beforeResident: () => void;
}

/**
 * Runs one load. The ranges stay pinned and the slots staged until the adapter has settled or everything has
 * arrived; what arrives after the answer still becomes resident. Never rejects.
 *
 * @returns bit i: object i is resident; null if nothing arrived in time.
 */
export async function runLoad(core: Core, batch: LoadBatch): Promise<Bitmap | null> {
  const { holder, offsets, objectBytes } = batch;
  for (const offset of offsets) core.space.pin(offset);
  const unpin = (): void => {
    for (const offset of offsets) core.space.unpin(offset);
  };
  let memory: BorrowedBuffers;
  try {
    const ranges = offsets.map((offset) => ({ offset, length: objectBytes }));
    memory = await holder.buffers.borrow(ranges, false);
  } catch (error) {
    core.log.warn("no buffers for a load", { adapter: holder.id, error: messageOf(error) });
    await finish(core, batch, null, null);
    unpin();
    return null;
  }
  const call = holder.gate.load(batch.requests, memory.objects);
  // Once, whoever comes first: two at a time would write the same range.
  let finishing: Promise<Bitmap | null> | null = null;
  const finishOnce = (bits: Bitmap | null): Promise<Bitmap | null> => {
    finishing ??= finish(core, batch, memory, bits);
    return finishing;
  };
  const settled = call.settled.then(async () => {
    noteAbsent(core, batch, call.lateResult(), call.failures());
    const arrived = await finishOnce(call.lateResult());
    memory.giveBack();
    unpin();
    return arrived;
  });
  try {
    const bits = await call.outcome;
    // Positions without an answer may still be written to: they end with the call.
    if (call.failures().size > 0) return await settled;
    noteAbsent(core, batch, bits, call.failures());
    return await finishOnce(bits);
  } catch (error) {
    core.log.debug("a load from L2 failed", { adapter: holder.id, error: messageOf(error) });
    return null;
  }
}

/** What was there at the lookup and is not now, the adapter has lost. Never throws. */
function noteAbsent(
  core: Core,
  { holder, transfer, keys }: LoadBatch,
  bits: Bitmap | null,
  failures: ReadonlyMap<number, unknown>,
): void {
  if (bits === null || core.state.transfers.get(transfer.number) !== transfer) return;
  try {
    const absent = keys.filter((_, i) => !bits.has(i) && !failures.has(i));
    forgetAbsent(core, holder.number, transfer.layout, absent);
  } catch (error) {
    core.log.warn("lost objects could not be noted", { adapter: holder.id, error: messageOf(error) });
  }
}

/** Ends the transfer: what the bits name becomes resident, the rest is free. Answers what is resident. Never rejects. */
async function finish(
  core: Core,
  batch: LoadBatch,
  memory: BorrowedBuffers | null,
  bits: Bitmap | null,
): Promise<Bitmap | null> {
  const isOpen = (): boolean => core.state.transfers.get(batch.transfer.number) === batch.transfer;
  try {
    if (bits !== null && bits.count() > 0) {
      await memory?.bringIn(bits.positions());
      batch.beforeResident();
      arrive(core, batch, bits);
      core.commit();
      return bits;
    }
  } catch (error) {
    core.log.warn("loaded objects could not be brought into L1", {
      adapter: batch.holder.id,
      error: messageOf(error),
    });
  }
  try {
    if (isOpen()) abandon(core, batch, "nothing arrived");
  } catch (error) {
    core.log.warn("a load could not be ended", { adapter: batch.holder.id, error: messageOf(error) });
  }
  return null;
}

function abandon(core: Core, batch: LoadBatch, reason: string): void {
  core.record({ type: "l1.write.abandoned", transfer: batch.transfer.number, hold: false, reason });
  core.commit();
}

function arrive(core: Core, batch: LoadBatch, bits: Bitmap): void {
  const missing = batch.keys.flatMap((_, i) => (bits.has(i) ? [] : [i]));
  core.record({ type: "l1.write.finished", transfer: batch.transfer.number, missing });
  const { number } = batch.holder;
  const known = batch.keys.filter(
    (key, i) => bits.has(i) && core.state.ledger(number).state.get(key) === L2.stored,
  );
  if (known.length > 0) core.record({ type: "l2.keys.accessed", adapter: number, keys: known });
}

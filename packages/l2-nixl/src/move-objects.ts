import { Blocks, piecesOf, type Range } from "./memory.ts";
import type { ObjectTransfer, TransferOutcome, Transfers } from "./transfers.ts";

/** An object on its way: its bytes in L1 and where they lie in the store. */
export interface MovingObject {
  readonly bytes: Uint8Array;
  readonly address: number;
  /** In order; together at least as long as the object, rounded up to whole blocks. */
  readonly ranges: readonly Range[];
}

/** What {@link moveObjects} works with. */
export interface MoveOptions {
  readonly transfers: Transfers;
  readonly blocks: Blocks | null;
  /** 1, or the block of direct input and output. */
  readonly blockBytes: number;
}

type OnDone = (positions: readonly number[]) => Promise<void> | void;

/**
 * Moves objects between L1 and their ranges. With direct input and output an object's last part of a block goes through
 * a block of its own, so that nothing behind the object is written in L1, or read from it.
 */
export async function moveObjects(
  operation: "read" | "write",
  objects: readonly MovingObject[],
  options: MoveOptions,
  ended: AbortSignal,
  onDone: OnDone = () => undefined,
): Promise<TransferOutcome[]> {
  const { transfers, blocks, blockBytes } = options;
  if (blockBytes === 1 || blocks === null) {
    const plain = objects.map(({ bytes, address, ranges }): ObjectTransfer => {
      const pieces = piecesOf(address, bytes.byteLength, ranges, 1, null);
      return operation === "read" ? { pieces, into: bytes } : { pieces };
    });
    return operation === "read" ? transfers.read(plain, ended) : transfers.write(plain, ended, onDone);
  }
  const outcomes: TransferOutcome[] = [];
  for (let at = 0; at < objects.length; at += Blocks.most) {
    const slice = objects.slice(at, at + Blocks.most);
    const shifted: OnDone = (positions) => onDone(positions.map((i) => i + at));
    outcomes.push(...(await moveBlocks(operation, slice, { transfers, blocks, blockBytes }, ended, shifted)));
  }
  return outcomes;
}

async function moveBlocks(
  operation: "read" | "write",
  objects: readonly MovingObject[],
  { transfers, blocks, blockBytes }: { transfers: Transfers; blocks: Blocks; blockBytes: number },
  ended: AbortSignal,
  onDone: OnDone,
): Promise<TransferOutcome[]> {
  const tailOf = ({ bytes }: MovingObject): number => bytes.byteLength % blockBytes;
  const withTail = objects.filter((object) => tailOf(object) > 0);
  return blocks.use(withTail.length, async (lent) => {
    const tails = new Map(withTail.map((object, n) => [object, lent[n]] as const));
    const plans = objects.map((object): ObjectTransfer => {
      const { bytes, address, ranges } = object;
      const tail = tailOf(object);
      const block = tails.get(object);
      if (tail > 0 && block !== undefined && operation === "write") {
        block.bytes.set(bytes.subarray(bytes.byteLength - tail));
        block.bytes.fill(0, tail);
      }
      const pieces = piecesOf(address, bytes.byteLength, ranges, blockBytes, block?.address ?? null);
      return operation === "read" ? { pieces, into: block?.bytes.subarray(0, tail) ?? bytes } : { pieces };
    });
    if (operation === "write") return transfers.write(plans, ended, onDone);
    const outcomes = await transfers.read(plans, ended);
    for (const [i, object] of objects.entries()) {
      const block = tails.get(object);
      if (outcomes[i] !== "done" || block === undefined) continue;
      const { bytes } = object;
      bytes.set(block.bytes.subarray(0, tailOf(object)), bytes.byteLength - tailOf(object));
    }
    return outcomes;
  });
}

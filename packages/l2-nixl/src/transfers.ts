import { randomBytes } from "node:crypto";
import { messageOf } from "@cache/contracts";
import { type NixlAgent, NixlFailure, type Piece, type StoreKind } from "./agent.ts";
import { Turns } from "./turns.ts";

/** Payload of one request, in bytes: small enough that nobody waits long for the library, large enough to pay. */
const REQUEST_BYTES = 8 * 1024 * 1024;
/** Pieces of one request: as many as the kernel queue of POSIX takes at once. */
const REQUEST_PIECES = 256;
/** Requests under way at a time: files are read while they are posted, objects are answered by a network. */
const REQUESTS_AT_A_TIME: Readonly<Record<StoreKind, number>> = { file: 2, object: 32 };
/** Bytes of the mark at the end of a buffer by which an object that arrived short is found out. */
const MARK_BYTES = 16;

/** One object's transfer: all pieces or nothing. */
export interface ObjectTransfer {
  readonly pieces: readonly Piece[];
  /** Of a load: the buffer, which begins where the first piece does. */
  readonly into?: Uint8Array;
}

/** How one object's transfer ended. `short` is a load whose last bytes did not come. */
export type TransferOutcome = "done" | "short" | "not begun" | NixlFailure;

/** Options of {@link Transfers}. */
export interface TransfersOptions {
  readonly agent: NixlAgent;
  readonly kind: StoreKind;
  /**
   * True if the backend reports a failed request only when all its pieces have ended. Else each piece is a request of
   * its own: NIXL 1.5 reports a request of OBJ as failed while its other pieces still write into memory.
   */
  readonly piecesTogether: boolean;
  /** Milliseconds after which a request counts as stalled. */
  readonly stallMs: number;
}

/** Runs transfers of many objects: in requests of bounded size, a bounded number at a time, loads first. */
export class Transfers {
  readonly #options: TransfersOptions;
  readonly #turns: Turns;
  readonly #mark = randomBytes(MARK_BYTES);
  readonly #otherMark = this.#mark.map((byte) => byte ^ 0xff);
  readonly #begun = new Map<number, number>();
  #nextRequest = 0;

  constructor(options: TransfersOptions) {
    this.#options = options;
    this.#turns = new Turns(REQUESTS_AT_A_TIME[options.kind]);
  }

  /** Requests under way. */
  get inFlight(): number {
    return this.#begun.size;
  }

  /** Requests that take longer than they may. They cannot be ended early, so their callers wait on. */
  get stalled(): number {
    const before = performance.now() - this.#options.stallMs;
    let count = 0;
    for (const at of this.#begun.values()) if (at < before) count++;
    return count;
  }

  /**
   * Stores objects.
   *
   * @param ended once it is aborted nothing further is begun; what is under way is waited for.
   * @param onDone told of objects as they are written, in groups; it is waited for.
   */
  async write(
    objects: readonly ObjectTransfer[],
    ended: AbortSignal,
    onDone: (positions: readonly number[]) => Promise<void> | void = () => undefined,
  ): Promise<TransferOutcome[]> {
    return this.#run("write", objects, ended, onDone);
  }

  /** Loads objects; see {@link write}. */
  async read(objects: readonly ObjectTransfer[], ended: AbortSignal): Promise<TransferOutcome[]> {
    for (const { into } of objects) this.#setMark(into, this.#mark);
    const outcomes = await this.#run("read", objects, ended, () => undefined);
    for (const [i, { into }] of objects.entries()) {
      if (outcomes[i] !== "done" || !this.#hasMark(into, this.#mark)) continue;
      // Either the end did not come, or it happens to be like the mark: another mark tells.
      this.#setMark(into, this.#otherMark);
      const [again = "not begun"] = await this.#run("read", objects.slice(i, i + 1), ended, () => undefined);
      outcomes[i] = again === "done" && this.#hasMark(into, this.#otherMark) ? "short" : again;
    }
    return outcomes;
  }

  // Byte by byte: for so few bytes that is quicker than two views of a buffer for each object.
  #setMark(into: Uint8Array | undefined, mark: Uint8Array): void {
    if (into === undefined) return;
    const from = Math.max(0, into.length - mark.length);
    for (let at = from; at < into.length; at++) into[at] = mark[at - from] ?? 0;
  }

  #hasMark(into: Uint8Array | undefined, mark: Uint8Array): boolean {
    if (into === undefined) return false;
    const from = Math.max(0, into.length - mark.length);
    for (let at = from; at < into.length; at++) if (into[at] !== mark[at - from]) return false;
    return true;
  }

  async #run(
    operation: "read" | "write",
    objects: readonly ObjectTransfer[],
    ended: AbortSignal,
    onDone: (positions: readonly number[]) => Promise<void> | void,
  ): Promise<TransferOutcome[]> {
    const outcomes: TransferOutcome[] = objects.map(() => "not begun");
    const running = this.#groups(objects).map(async (group) => {
      await this.#group(operation, objects, group, ended, outcomes);
      const done = group.filter((i) => outcomes[i] === "done");
      if (done.length > 0) await onDone(done);
    });
    for (const settled of await Promise.allSettled(running)) {
      if (settled.status === "rejected") throw settled.reason;
    }
    return outcomes;
  }

  /** Positions of objects that share a request. */
  #groups(objects: readonly ObjectTransfer[]): number[][] {
    if (!this.#options.piecesTogether) return objects.map((_, i) => [i]);
    const groups: number[][] = [];
    let group: number[] = [];
    let bytes = 0;
    let pieces = 0;
    for (const [i, object] of objects.entries()) {
      const more = object.pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
      const isFull = bytes + more > REQUEST_BYTES || pieces + object.pieces.length > REQUEST_PIECES;
      if (group.length > 0 && isFull) {
        groups.push(group);
        group = [];
        bytes = 0;
        pieces = 0;
      }
      group.push(i);
      bytes += more;
      pieces += object.pieces.length;
    }
    if (group.length > 0) groups.push(group);
    return groups;
  }

  async #group(
    operation: "read" | "write",
    objects: readonly ObjectTransfer[],
    group: readonly number[],
    ended: AbortSignal,
    outcomes: TransferOutcome[],
  ): Promise<void> {
    const piecesOf = (positions: readonly number[]): Piece[] =>
      joined(positions.flatMap((i) => objects[i]?.pieces ?? []));
    const outcome = await this.#pieces(operation, piecesOf(group), ended);
    for (const i of group) outcomes[i] = outcome;
    if (!(outcome instanceof NixlFailure) || group.length === 1) return;
    // One bad object fails the request: the others shall not pay for it.
    for (const i of group) outcomes[i] = await this.#pieces(operation, piecesOf([i]), ended);
  }

  /** All pieces in one request, or each in its own; the first failure once all have ended. */
  async #pieces(
    operation: "read" | "write",
    pieces: readonly Piece[],
    ended: AbortSignal,
  ): Promise<TransferOutcome> {
    if (this.#options.piecesTogether) return this.#request(operation, pieces, ended);
    // Also where one could not even be made: the others may be writing into memory.
    const settled = await Promise.allSettled(pieces.map((piece) => this.#request(operation, [piece], ended)));
    const outcomes = settled.map((one) => {
      if (one.status === "rejected") throw one.reason;
      return one.value;
    });
    return outcomes.find((outcome) => outcome !== "done") ?? "done";
  }

  #request(
    operation: "read" | "write",
    pieces: readonly Piece[],
    ended: AbortSignal,
  ): Promise<TransferOutcome> {
    const { agent, kind } = this.#options;
    return this.#turns.take(operation === "read" ? "now" : "later", async () => {
      if (ended.aborted) return "not begun";
      const id = this.#nextRequest++;
      this.#begun.set(id, performance.now());
      try {
        await agent.transfer(operation, kind, pieces);
        return "done";
      } catch (error) {
        if (error instanceof NixlFailure) return error;
        throw new TypeError(`a NIXL request could not be made: ${messageOf(error)}`, { cause: error });
      } finally {
        this.#begun.delete(id);
      }
    });
  }
}

/** Pieces that follow each other on both sides become one: what is stored together is often loaded together. */
function joined(pieces: readonly Piece[]): Piece[] {
  const result: Piece[] = [];
  for (const piece of pieces) {
    const last = result.at(-1);
    const follows =
      last !== undefined &&
      last.device === piece.device &&
      last.offset + last.byteLength === piece.offset &&
      last.address + last.byteLength === piece.address;
    if (!follows) result.push(piece);
    else result[result.length - 1] = { ...last, byteLength: last.byteLength + piece.byteLength };
  }
  return result;
}
